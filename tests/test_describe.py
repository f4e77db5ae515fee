import math
import re

import pytest
import timm

import wszoo.describe
from wszoo.describe import describe_variant, list_rows, macs, weights_table
from wszoo.weights import WEIGHTS, Weights, find, locate, read_header
from wszoo.ws_resnet import WSResNet


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
        (scores,) = weights.metrics.values()
        assert weights.name in line
        assert f"{scores['top1']:.2f} %" in line
        assert weights.license in line


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

    assert built == ["resnet18_gn_ws", WEIGHTS[0].model]


def test_parameters_are_those_of_the_file() -> None:
    weights = find("test_resnet_gn_ws")
    values = sum(math.prod(entry["shape"]) for entry in read_header(locate(weights)).values())

    assert describe_variant(weights.name)["params"] == f"{values / 1e6:.2f} M"
