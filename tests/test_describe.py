import json
import math
import re

import pytest
import timm
from click.testing import CliRunner

import wszoo.describe
from wszoo import detection
from wszoo.cli import main
from wszoo.describe import (
    describe_heads,
    describe_variant,
    fact_lines,
    heads_table,
    is_checked,
    list_rows,
    macs,
    weights_table,
    where,
)
from wszoo.weights import WEIGHTS, Origin, Weights, find, locate, read_header
from wszoo.ws_resnet import WSResNet

HEADS = (
    *("faster_rcnn", "mask_rcnn", "retinanet", "fcos"),
    *("semantic_fpn", "deeplab_v3_plus", "upernet", "unet"),
)


def test_multiply_accumulates_are_the_published_ones() -> None:
    assert abs(macs(timm.create_model("resnet18_gn_ws"), (3, 224, 224)) / 1e9 - 1.81) < 0.01


def test_every_variant_is_described() -> None:
    names = {row["model"] for row in list_rows()}

    for name in names:
        facts = describe_variant(name)
        assert facts["strides"] == [2, 4, 8, 16, 32]
        assert len(facts["channels"]) == 5


def test_norms_are_told_apart() -> None:
    assert describe_variant("resnet50_bcn_ws")["norm"] == "BCN"
    assert describe_variant("resnet50_gn_ws")["norm"] == "GN"


def test_the_table_of_weights_has_a_row_for_each_record() -> None:
    lines = weights_table().splitlines()

    assert len(lines) == 2 + len(WEIGHTS)
    for weights, line in zip(WEIGHTS, lines[2:], strict=True):
        assert weights.name in line
        for scores in weights.metrics.values():
            assert f"{scores['top1']:.2f} %" in line and f"{scores['top5']:.2f} %" in line
        assert weights.license in line
        assert ("not checked against the original" in line) == (is_checked(weights) is False)


def test_weights_of_others_say_where_they_come_from_and_that_nobody_checked_them() -> None:
    name = "resnet50_gn_ws.jhu_in1k"

    (row,) = list_rows(name)
    facts = describe_variant(name)

    assert row["top1"] == "76.28 % (ImageNet val, published)"
    assert row["where"] == "from download.openmmlab.com (not checked against the original)"
    assert row["checked_against_original"] is facts["checked_against_original"] is False
    assert facts["confirm"] == f"wszoo confirm {name} --data imagenet/val"
    assert facts["origin"][0].endswith("/resnet50_gn_ws-15beedd8.pth")
    (bcn,) = list_rows("resnet50_bcn_ws.*")
    assert bcn["top1"] is None
    (ours,) = list_rows("test_resnet_gn_ws.*")
    assert ours["checked_against_original"] is None


def test_confirmed_weights_are_not_said_to_be_unchecked() -> None:
    origin = Origin(url="https://host.org/x.pth", source="jhu", checked_against_original=True)
    weights = Weights(model="toy", tag="x", sha256="0" * 64, license="mit", origin=origin)

    assert where(weights) == "from host.org"
    assert is_checked(weights) is True


def test_few_multiply_accumulates_are_told_in_millions() -> None:
    assert re.match(r"[1-9]\d* M at 64 x 64", describe_variant("test_resnet_gn_ws")["MACs"])
    assert describe_variant("resnet50_gn_ws")["MACs"].startswith("4.09 G at ")


def test_only_nets_that_are_listed_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = wszoo.describe._on_meta

    def noted(variant: str, weights: Weights | None) -> WSResNet:
        built.append(variant)
        return build(variant, weights)

    monkeypatch.setattr(wszoo.describe, "_on_meta", noted)

    list_rows("resnet18_*")
    list_rows(WEIGHTS[0].name)
    list_rows("resnet152*", pretrained=True)
    list_rows("nothing")

    own = [weights.model for weights in WEIGHTS if weights.model == "resnet18_gn_ws"]
    assert built == [*own, WEIGHTS[0].model]


def test_facts_are_shown_to_people_without_the_signs_of_a_program() -> None:
    own = fact_lines(describe_variant("resnet18_gn_ws"))
    foreign = fact_lines(describe_variant("resnet50_gn_ws.jhu_in1k"))
    bcn = fact_lines(describe_variant("resnet50_bcn_ws.jhu_in1k"))

    scores = find("resnet18_gn_ws").metrics["Tiny ImageNet val"]
    told = f"top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} %"
    assert f"accuracy  Tiny ImageNet val: {told}" in own
    assert "strides   2, 4, 8, 16, 32" in own
    assert {"recipe    -", "sha256    -", "checked   no"} <= {*foreign}
    assert "accuracy  -" in bcn
    assert not any(
        sign in line for line in [*own, *foreign] for sign in "{}[]" if "load" not in line
    )


def test_parameters_are_those_of_the_file() -> None:
    weights = find("test_resnet_gn_ws")
    values = sum(math.prod(entry["shape"]) for entry in read_header(locate(weights)).values())

    assert describe_variant(weights.name)["params"] == f"{values / 1e6:.2f} M"


@pytest.mark.slow
def test_detectors_and_segmenters_are_told_with_size_and_norms() -> None:
    rows = describe_heads("test_resnet_gn_ws", HEADS)

    assert [(row["head"], row["task"]) for row in rows] == [
        (head, "detect" if head in ("faster_rcnn", "mask_rcnn", "retinanet", "fcos") else "segment")
        for head in HEADS
    ]
    for row, shown in zip(rows, heads_table(rows), strict=True):
        assert row["batch_norms"] == 0 and set(row["norms"]) == {"GroupNorm"}
        assert shown["norms"] == f"{row['norms']['GroupNorm']} GroupNorm, 0 BatchNorm"
        assert re.fullmatch(r"\d+\.\d\d M", row["params"])
        size = "800 x 800" if row["task"] == "detect" else "512 x 512"
        assert re.match(rf"\d+\.\d\d G at {size}", row["MACs"])


def test_the_size_of_a_detector_is_that_of_the_built_one() -> None:
    (row,) = describe_heads("test_resnet_gn_ws", ["fcos"])

    built = detection.fcos("test_resnet_gn_ws", num_classes=91, pretrained=False)

    assert row["params"] == f"{sum(p.numel() for p in built.parameters()) / 1e6:.2f} M"
    assert row["classes"] == 91


def test_batch_channel_norm_is_not_counted_as_batch_norm() -> None:
    rows = describe_heads("resnet50_bcn_ws", ["semantic_fpn"])

    (shown,) = heads_table(rows)
    assert rows[0]["batch_norms"] == 0
    assert "BatchChannelNorm" in shown["norms"] and shown["norms"].endswith(", 0 BatchNorm")


def test_show_tells_of_the_heads_that_are_asked_for() -> None:
    asked = ("show", "test_resnet_gn_ws", "--head", "fcos", "--head", "unet")

    told, plain = (CliRunner().invoke(main, [*asked, *more]) for more in ((), ("--json",)))
    wrong = CliRunner().invoke(main, ["show", "test_resnet_gn_ws", "--head", "yolo"])

    assert told.exit_code == plain.exit_code == 0
    rows = told.stdout.splitlines()[-3:]
    assert [row.split()[0] for row in rows] == ["head", "fcos", "unet"]
    assert rows[1].endswith(" GroupNorm, 0 BatchNorm")
    heads = json.loads(plain.stdout)["heads"]
    assert [(row["head"], row["batch_norms"]) for row in heads] == [("fcos", 0), ("unet", 0)]
    assert wrong.exit_code == 2 and "'yolo' is not one of 'faster_rcnn'" in wrong.stderr
