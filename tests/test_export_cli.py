"""``wszoo export``, as a user types it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import wszoo
from wszoo.export_cli import export
from wszoo.exporting.formats import run_program
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build
from wszoo.finetune.outputs import load_finetuned, save_output
from wszoo.finetune.settings import TaskName

SMALL = "test_resnet_gn_ws"


def call(*words: "str | Path") -> Result:
    return CliRunner().invoke(export, [str(word) for word in words])


def run_of(task: TaskName, head: str, run: Path) -> Path:
    """The output of a net that has not learned and, if a detector, finds nothing."""
    settings = settings_for(task, model=SMALL, head=head, image_size=64, max_size=96)
    options = dict(classes=("blue", "red"), class_ids=("blue", "red"), epoch=1, metrics={})
    save_output(run, build(settings, 2), settings, **options)  # type: ignore[arg-type]
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskName, Path]:
    folder = tmp_path_factory.mktemp("runs")
    heads: dict[TaskName, str] = {"classify": "linear", "detect": "fcos", "segment": "semantic_fpn"}
    return {task: run_of(task, head, folder / task) for task, head in heads.items()}


def test_a_classifier_of_a_run_is_exported_with_the_names_of_its_classes(
    runs: dict[TaskName, Path], tmp_path: Path
) -> None:
    file = tmp_path / "new" / "net.pt2"
    photo = tmp_path / "red.png"
    Image.new("RGB", (90, 60), (200, 30, 30)).save(photo)

    result = call(runs["classify"], "-o", file, "--static", "--photo", photo, "--json")

    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    facts = written["metadata"]
    assert json.loads(facts["classes"]) == ["blue", "red"]
    assert facts["model"] == str(runs["classify"] / "model")
    assert facts["sha256"] == load_finetuned(runs["classify"])[1].sha256
    assert written["bytes"] == file.stat().st_size
    assert written["check"]["shapes"] == [[1, 3, 64, 64]] * 4
    assert written["latency"] is None
    assert run_program(file.read_bytes())(torch.rand(1, 3, 64, 64))[0].shape == (1, 2)


def test_a_detector_that_finds_nothing_proves_nothing_and_leaves_no_file(
    runs: dict[TaskName, Path], tmp_path: Path
) -> None:
    result = call(runs["detect"], "-o", tmp_path / "net.onnx")

    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("wszoo: the detector finds nothing in the images of the check")
    assert len(result.stderr.splitlines()) == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_a_detector_is_exported_unchecked_where_that_is_asked_for(
    runs: dict[TaskName, Path], tmp_path: Path
) -> None:
    file = tmp_path / "net.onnx"

    result = call(runs["detect"], "-o", file, "--no-check", "--image-size", "64x80")

    assert result.exit_code == 0, result.output
    assert "images (1, 3, 64, 80) in 0..1 to boxes, scores, labels\nnot checked" in result.stdout
    assert file.is_file()


@pytest.mark.slow
def test_weights_are_exported_by_name_and_timed(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"

    result = call(SMALL, "-o", file, "--latency")

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].endswith("bytes; images (N, 3, H, W) in 0..1 to logits")
    assert "on 3 batches" in lines[1]
    assert lines[2].startswith("torch ") and "threads: " in lines[2]
    assert wszoo.weights.find(SMALL).name.encode() in file.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet999_gn_ws", "-o", "net.onnx"], "no model 'resnet999_gn_ws'"),
        ([SMALL], "Missing option '-o'"),
        ([SMALL, "-o", "net.pth"], "net.pth must end in .onnx or .pt2"),
        ([SMALL, "-o", "net.onnx", "--image-size", "big"], "'big' is no size; write it as 224"),
        ([SMALL, "-o", "net.onnx", "--no-check", "--photo", "x"], "--photo is for the check"),
        (["DETECT", "-o", "net.pt2"], "torch.export cannot follow torchvision's detectors"),
        (["SEGMENT", "-o", "net.pt2", "--without-preprocessing"], "normalises images itself"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    words: list[str], message: str, runs: dict[TaskName, Path]
) -> None:
    places = {"DETECT": runs["detect"], "SEGMENT": runs["segment"]}

    result = call(*(places.get(word, word) for word in words))

    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_photo_that_cannot_be_read_is_bad_data(tmp_path: Path) -> None:
    result = call(SMALL, "-o", tmp_path / "net.pt2", "--photo", tmp_path / "gone.png")

    assert result.exit_code == 3
    assert "gone.png" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_the_packages_of_the_extra_it_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)

    result = call(SMALL, "-o", tmp_path / "net.onnx")

    assert result.exit_code == 2
    assert "ONNX needs onnx; pip install 'wszoo[export]'" in result.stderr
