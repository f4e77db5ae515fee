"""``wszoo convert``, as a user types it, on files of the published layouts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch import Tensor

from wszoo.convert import restore_state
from wszoo.convert_cli import convert
from wszoo.verify import verify_file

SMALL = "resnet10_gn_ws"
PLAIN = "resnet18"  # with kernels that are not standardized
CLASSES = 5


def weights_of(
    architecture: str, scale: float = 0.05, num_classes: int = CLASSES
) -> dict[str, Tensor]:
    """Random raw weights with norms that do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        args: dict[str, Any] = {"norm_layer": "groupnorm"} if architecture == PLAIN else {}
        shapes = timm.create_model(architecture, num_classes=num_classes, **args).state_dict()
    weights = {}
    for key, shape in shapes.items():
        value = scale * torch.randn(shape.shape, generator=generator)
        is_gain = value.ndim == 1 and key.endswith("weight")
        weights[key] = value.add(1) if is_gain else value
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            weights[key] = value.abs() + 0.5
    return weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net in the layout of the authors' files."""
    path = tmp_path_factory.mktemp("jhu") / "R-10-GN-WS.pth.tar"
    torch.save(restore_state(weights_of(SMALL), "jhu"), path)
    return path


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> Path:
    output = checkpoint.parent / "converted"
    assert run(checkpoint, "--from", "jhu", "-o", output).exit_code == 0
    return output


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(convert, [str(argument) for argument in arguments])


def test_what_is_written_loads_by_its_folder_and_is_the_same_net(converted: Path) -> None:
    model = timm.create_model(f"local-dir:{converted}", pretrained=True).eval()

    raw = weights_of(SMALL)
    assert all(torch.equal(model.state_dict()[key], raw[key]) for key in raw)
    assert model.num_classes == CLASSES
    cfg: Any = model.pretrained_cfg
    assert (cfg["crop_pct"], cfg["interpolation"]) == (0.875, "bilinear")
    assert cfg["license"] == "none stated"
    features = timm.create_model(f"local-dir:{converted}", pretrained=True, features_only=True)
    assert features(torch.randn(1, 3, 64, 64))[-1].shape == (1, 512, 2, 2)


def test_what_is_written_passes_verification(converted: Path) -> None:
    facts = verify_file(converted / "model.safetensors")

    assert facts["net"] == SMALL
    assert facts["formula"] == "jhu"


def test_the_report_names_every_tensor_and_holds_the_proof(
    checkpoint: Path, converted: Path
) -> None:
    report = json.loads((converted / "report.json").read_text())

    raw = weights_of(SMALL)
    assert {(row["source"], row["ours"]) for row in report["mapped"]} == {
        (f"module.{key}", key) for key in raw
    }
    assert all(row["change"] == "as it is" for row in report["mapped"])
    assert all(tuple(row["shape"]) == raw[row["ours"]].shape for row in report["mapped"])
    assert (report["dropped"], report["missing"]) == ({}, [])
    assert report["passed"] and report["proof"]["worst"]["float64"] < 1e-12
    assert set(report["proof"]["float64"]) == {"64", "97"}
    config = json.loads((converted / "config.json").read_text())
    assert config["wszoo"] == {
        "formula": "jhu",
        "sha256": report["sha256_out"],
        "dtype": "F32",
    }
    assert report["file"] == str(checkpoint)


def test_the_printed_report_says_what_a_person_asks(checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, "--model", SMALL, "--from", "jhu", "-o", tmp_path / "new")

    assert result.exit_code == 0
    for words in (
        "source      jhu: Weight Standardization, the authors' own files",
        f"holds       {SMALL}, WS formula jhu",
        "licence     none stated",
        "photos      RGB, mean (0.485, 0.456, 0.406)",
        "38 mapped (38 unchanged), 0 under their own name, 0 dropped, 0 missing",
        "in any stage, 1.0e-09 allowed: ok",
    ):
        assert words in result.output
    assert result.output.count("\n  stage ") == 4


def test_a_guessed_source_has_no_licence_and_is_said_to_be_guessed(
    checkpoint: Path, tmp_path: Path
) -> None:
    result = run(checkpoint, "-o", tmp_path / "new", "--json")

    report = json.loads(result.stdout)
    assert report["license"].startswith("not known: the source was guessed")
    assert any("--from" in note for note in report["notes"])


def test_a_published_file_is_known_by_its_name(checkpoint: Path, tmp_path: Path) -> None:
    published = tmp_path / "R-50-GN-WS.pth.tar"
    published.write_bytes(checkpoint.read_bytes())

    result = run(published, "-o", tmp_path / "new", "--json")

    assert json.loads(result.stdout)["license"] == "none stated"


def test_the_help_says_how_a_detector_is_loaded() -> None:
    assert "a detector by the lines in the README.md" in " ".join(run("--help").output.split())


def test_json_is_all_that_is_printed_with_json(checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, "-o", tmp_path / "new", "--json")

    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "new" / "report.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "resnet50_gn_ws"], 3, "holds a 'resnet10_gn_ws' (taken for 'jhu'), not a 're"),
        (
            ["--model", "resnet18_gn"],
            3,
            "of that net, or another source with --from (t",
        ),
        (["--from", "bcn"], 3, "not weights of 'bcn'"),
        (["--from", "timm"], 3, "timm has no net for a 'resnet10_gn' with plain kernels"),
        (["--from", "jhz"], 2, "no source 'jhz'; the sources: jhu, openmmlab"),
        (["--to", "timm"], 3, "timm alone has no net for a 'resnet10_gn_ws'; --to timm takes"),
        (["--dtype", "fp8"], 2, "'fp8' is not one of"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    arguments: list[str], code: int, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    result = run(checkpoint, *arguments, "-o", tmp_path / "new")

    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "new").exists()


def test_another_folder_is_never_written_to(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")

    result = run(checkpoint, "-o", tmp_path)

    assert result.exit_code == 3
    assert "holds 'thesis.tex', which is not of an earlier conversion" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_that_is_no_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<!doctype html>")

    result = run(tmp_path / "page.pth", "-o", tmp_path / "new")

    assert result.exit_code == 3
    assert "page.pth" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_failed_proof_ends_with_1_and_keeps_the_report_alone(
    tmp_path: Path, checkpoint: Path
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    for key, value in state.items():
        state[key] = value * 1e-6 if value.ndim == 4 else value  # below what fp16 can hold
    torch.save(state, tmp_path / "tiny.pth")

    result = run(tmp_path / "tiny.pth", "--dtype", "fp16", "-o", tmp_path / "new", "--json")

    assert result.exit_code == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.failed.json"]
    report = json.loads(result.stdout)
    assert (report["passed"], report["sha256_out"]) == (False, None)
    assert report["proof"]["worst"]["float64"] < 1e-12
    assert "the proof failed, nothing was written" in result.stderr
    assert run(tmp_path / "tiny.pth", "-o", tmp_path / "new").exit_code == 0
    assert not (tmp_path / "new" / "report.failed.json").exists()


@pytest.mark.parametrize(("dtype", "stored"), [("fp16", "F16"), ("fp64", "F64")])
def test_the_type_of_the_file_is_the_one_asked_for(
    dtype: str, stored: str, checkpoint: Path, tmp_path: Path
) -> None:
    result = run(checkpoint, "--dtype", dtype, "-o", tmp_path / "new")

    assert result.exit_code == 0
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["wszoo"]["dtype"] == stored
    types = {value.dtype for value in load_file(tmp_path / "new" / "model.safetensors").values()}
    assert types == {{"fp16": torch.float16, "fp64": torch.float64}[dtype]}
    model = timm.create_model(f"local-dir:{tmp_path / 'new'}", pretrained=True)
    assert next(model.parameters()).dtype == torch.float32


def test_a_backbone_without_classifier_is_converted_and_says_what_is_missing(
    checkpoint: Path, tmp_path: Path
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    torch.save({k: v for k, v in state.items() if ".fc." not in k}, tmp_path / "body.pth")

    result = run(tmp_path / "body.pth", "-o", tmp_path / "new", "--json")

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["missing"] == ["fc.weight", "fc.bias"]
    model = timm.create_model(f"local-dir:{tmp_path / 'new'}", pretrained=True)
    assert model.num_classes == 0


@pytest.mark.parametrize(
    ("architecture", "source", "kind"),
    [
        ("resnet10_gn_ws", "openmmlab", ".pth"),
        ("resnet10_gn_ws", "tf", ".npz"),
    ],
)
def test_other_layouts_give_the_same_net(
    architecture: str, source: str, kind: str, tmp_path: Path
) -> None:
    raw = weights_of(architecture)
    path = tmp_path / f"file{kind}"
    theirs = restore_state(raw, source)
    if kind == ".npz":
        arrays = {key: value.numpy() for key, value in theirs.items()}
        np.savez(path, allow_pickle=False, **arrays)
    else:
        torch.save({"state_dict": theirs}, path)

    result = run(path, "-o", tmp_path / "new", "--json")

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["source"] == source
    assert report["proof"]["worst"]["float64"] < 1e-12
    written = load_file(tmp_path / "new" / "model.safetensors")
    assert all(torch.equal(written[key], raw[key]) for key in raw)


def test_a_bgr_net_is_turned_round_to_take_rgb(tmp_path: Path) -> None:
    raw = weights_of(PLAIN)
    torch.save(restore_state(raw, "openmmlab_detectron"), tmp_path / "bgr.pth")

    result = run(
        tmp_path / "bgr.pth", "--from", "openmmlab_detectron", "-o", tmp_path / "new", "--json"
    )

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["model"], report["published_formula"]) == (PLAIN, None)
    assert report["published_card"]["channels"] == "BGR"
    assert report["card"]["channels"] == "RGB"
    assert report["card"]["mean"] == report["published_card"]["mean"][::-1]
    assert report["proof"]["worst"]["float64"] < 1e-12
    written = load_file(tmp_path / "new" / "model.safetensors")
    assert torch.equal(written["conv1.weight"], raw["conv1.weight"].flip(1))
    model = timm.create_model(f"local-dir:{tmp_path / 'new'}", pretrained=True)
    cfg: Any = model.pretrained_cfg
    assert cfg["std"] == pytest.approx((1 / 255,) * 3)
    assert "turned round to take RGB" in str(report["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50_bcn_ws", "resnetv2_50x1_bit"])
def test_batch_channel_norm_and_bit_are_converted_and_load(name: str, tmp_path: Path) -> None:
    source = "bcn" if "bcn" in name else "bit"
    theirs = restore_state(weights_of(name, scale=0.02), source)
    if source == "bit":
        path = tmp_path / "BiT-S-R50x1.npz"
        np.savez(path, allow_pickle=False, **{key: v.numpy() for key, v in theirs.items()})
    else:
        path = tmp_path / "rn50_bcn_ws.pth"
        torch.save(theirs, path)

    result = run(path, "-o", tmp_path / "new", "--json")

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["model"] == name
    assert report["proof"]["worst"]["float64"] < 1e-11
    model = timm.create_model(f"local-dir:{tmp_path / 'new'}", pretrained=True)
    assert model.num_classes == CLASSES


IN_PLAIN_TIMM = """
import json, sys, timm, torch
from safetensors.torch import load_file

net = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).double().eval()
image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)).double()
with torch.no_grad():
    loaded = net(image)[0].tolist()
    net.load_state_dict(load_file(f"{sys.argv[1]}/model.safetensors"))
    print(json.dumps([loaded, net(image)[0].tolist()]))
assert "wszoo" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "allowed"), [("fp64", 1e-12), ("fp32", 1e-5)])
def test_plain_timm_runs_what_was_converted_for_it(
    dtype: str, allowed: float, tmp_path: Path
) -> None:
    raw = weights_of("resnet50_gn_ws", num_classes=1000)
    torch.save(restore_state(raw, "jhu"), tmp_path / "R-50-GN-WS.pth.tar")
    output = tmp_path / "new"

    result = run(tmp_path / "R-50-GN-WS.pth.tar", "--to", "timm", "--dtype", dtype, "-o", output)

    assert result.exit_code == 0, result.stderr
    ours = timm.create_model("resnet50_gn_ws", num_classes=1000).double().eval()
    ours.load_state_dict(raw)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        right = ours(image)[0]
    words = [sys.executable, "-c", IN_PLAIN_TIMM, str(output)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    rounded, stored = (torch.tensor(v, dtype=torch.float64) for v in json.loads(done.stdout))
    assert (rounded - right).abs().max() <= 1e-5 * right.abs().max()
    assert (stored - right).abs().max() <= allowed * right.abs().max()
    assert "**inference**" in (output / "README.md").read_text()
    config = json.loads((output / "config.json").read_text())
    assert config["architecture"] == "resnetv2_50x1_bit"
    assert config["model_args"]["preact"] is False
