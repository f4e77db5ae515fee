import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from tests.photo_sets import write_classes, write_coco, write_masks
from wszoo.cli import main
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build
from wszoo.finetune.outputs import save_output
from wszoo.finetune.settings import TaskName
from wszoo.finetune_cli import eval_with_run, finetune, is_run, predict_with_run, run_or, shown_name

SMALL = ("--epochs", "1", "--image-size", "64", "--workers", "0", "--device", "cpu")
HEADS: dict[TaskName, str] = {"classify": "linear", "detect": "fcos", "segment": "semantic_fpn"}
CLASSES: dict[TaskName, tuple[str, str]] = {
    "classify": ("blue", "red"),
    "detect": ("red", "blue"),
    "segment": ("ground", "red"),
}


def call(*words: "str | Path") -> Result:
    return CliRunner().invoke(finetune, [str(word) for word in words])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskName, Path]:
    """Outputs of nets that have not learned."""
    torch.manual_seed(0)
    folders: dict[TaskName, Path] = {}
    for task, head in HEADS.items():
        settings = settings_for(
            task, model="test_resnet_gn_ws", head=head, image_size=64, max_size=96
        )
        model = build(settings, 2)
        if task == "detect":  # one that is sure of everything
            model.state_dict()["head.classification_head.cls_logits.bias"] += 5
        folders[task] = tmp_path_factory.mktemp(task)
        names = CLASSES[task]
        save_output(
            folders[task],
            model,
            settings,
            classes=names,
            class_ids=names,
            epoch=1,
            metrics={},
            min_score=0.0,
        )
    return folders


def test_a_classifier_is_fine_tuned_by_one_command(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data")

    result = call(
        *("classify", "--data", data, "--model", "test_resnet_gn_ws", "--out", tmp_path / "run"),
        *(*SMALL, "--batch-size", "2", "--lr", "0.001", "--memory", "small"),
    )

    assert result.exit_code == 0, result.output
    assert "0.001, as asked for" in result.stdout
    assert "small, as asked for" in result.stdout
    assert f"done; {tmp_path / 'run' / 'report.md'}" in result.stdout
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (settings["batch_size"], settings["epochs"], settings["image_size"]) == (2, 1, 64)
    assert settings["model"].startswith("test_resnet_gn_ws."), "as the weights are called"


def test_a_classifier_is_fine_tuned_and_measured_on_shards(tmp_path: Path) -> None:
    drawn, data, run = write_classes(tmp_path / "drawn"), tmp_path / "shards", tmp_path / "run"
    for split in ("train", "val"):
        made = CliRunner().invoke(
            main, ["shards", "make", str(drawn), "--split", split, "-o", str(data / split)]
        )
        assert made.exit_code == 0, made.output

    result = call("classify", "--data", data, "--model", "test_resnet_gn_ws", "--out", run, *SMALL)

    assert result.exit_code == 0, result.output
    figures = [
        CliRunner().invoke(main, ["eval", str(run), "--data", str(place), "--json"])
        for place in (data, drawn)
    ]
    assert figures[0].exit_code == 0, figures[0].output
    shards, folder = (json.loads(each.stdout) for each in figures)
    assert shards == folder and shards["photos"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "write", "more"),
    [
        ("detect", write_coco, ("--head", "fcos", "--max-size", "96")),
        ("segment", write_masks, ("--head", "unet", "--trainable-stages", "1", "--ema", "0.9")),
    ],
)
def test_detectors_and_segmenters_are_fine_tuned_by_one_command(
    task: str, write: Callable[[Path], Path], more: tuple[str, ...], tmp_path: Path
) -> None:
    data, run = write(tmp_path / "data"), tmp_path / "run"

    result = call(task, "--data", data, "--model", "test_resnet_gn_ws", "--out", run, *SMALL, *more)

    assert result.exit_code == 0, result.output
    assert is_run(str(run))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["classify", "--model", "resnet999_gn_ws"], 2, "no model 'resnet999_gn_ws'"),
        (["classify"], 2, "name a --model, or an earlier run with --from"),
        (["classify", "--memory-budget", "much"], 2, "'much' is no size; write it as 8GB or 500MB"),
        (["classify", "--memory-budget", "0GB"], 2, "'0GB' is no size"),
        (["detect", "--head", "unet"], 2, "'unet' is not one of 'faster_rcnn', 'mask_rcnn'"),
        (["classify", "--memory", "tiny"], 2, "'tiny' is not one of 'auto', 'fast', 'lean'"),
        (["detect", "--classes", "a,,b"], 2, "'a,,b' holds an empty name"),
        (["segment", "--ignore", "256"], 2, "256 is not in the range 0<=x<=255"),
        (["classify", "--from", "gone"], 3, "wszoo: no such run: gone"),
        (
            ["detect", "--memory-budget", "1GB", "--micro-batch-size", "1"],
            2,
            "--memory-budget decides on --micro-batch-size; give one of them",
        ),
    ],
)
def test_a_wrong_option_ends_with_one_line(
    words: list[str], code: int, message: str, tmp_path: Path
) -> None:
    result = call(*words, "--data", tmp_path, "--out", tmp_path / "run")

    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there_is_bad_data(tmp_path: Path) -> None:
    words = ("--model", "test_resnet_gn_ws", "--out", tmp_path / "run", "--device", "cpu")

    result = call("segment", "--data", tmp_path / "gone", *words)

    assert result.exit_code == 3
    assert "gone" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_another_model_or_task_than_that_of_the_earlier_run_is_refused(
    runs: dict[TaskName, Path], tmp_path: Path
) -> None:
    where = ("--data", tmp_path, "--out", tmp_path / "run", "--from", runs["detect"])

    head = call("detect", *where, "--head", "retinanet")
    task = call("segment", *where)
    random = call("detect", *where, "--random-weights")

    assert head.exit_code == random.exit_code == 2
    assert "has the head 'fcos', not 'retinanet'; leave --head out" in head.stderr
    assert task.exit_code == 3
    assert "was made to detect, not to segment" in task.stderr
    assert "--from starts from the weights of a run" in random.stderr


@pytest.mark.parametrize(
    ("text", "number"), [("8GB", 8e9), ("1.5 gb", 1.5e9), ("500M", 5e8), ("2GiB", 2**31)]
)
def test_sizes_are_read_as_people_write_them(text: str, number: float) -> None:
    from wszoo.finetune_cli import to_bytes

    assert to_bytes(text) == number


def test_a_run_of_a_classifier_goes_the_way_of_all_classifiers(
    runs: dict[TaskName, Path],
) -> None:
    check = run_or(lambda name: f"checked {name}")

    assert check(str(runs["classify"])) == f"local-dir:{runs['classify'] / 'model'}"
    assert shown_name(check(str(runs["classify"]))) == str(runs["classify"])
    assert check(str(runs["detect"])) == shown_name(str(runs["detect"])) == str(runs["detect"])
    assert shown_name("local-dir:weights") == "local-dir:weights"
    assert check("resnet50_gn_ws") == "checked resnet50_gn_ws"
    assert is_run(str(runs["detect"])) and not is_run("resnet50_gn_ws")


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_a_path_without_a_run_is_told_as_such_and_not_as_a_model(
    command: str, tmp_path: Path
) -> None:
    more = ("--data", str(tmp_path)) if command == "eval" else (str(tmp_path),)

    gone = CliRunner().invoke(main, [command, str(tmp_path / "gone"), *more])
    empty = CliRunner().invoke(main, [command, str(tmp_path), *more])
    model = CliRunner().invoke(main, [command, "resnet17_gn_ws", *more])

    assert (gone.exit_code, empty.exit_code, model.exit_code) == (3, 3, 2)
    assert gone.stderr.startswith(f"wszoo: no such run: {tmp_path / 'gone'}; name the folder")
    assert "holds no fine-tuned net; name the folder of a finished run" in empty.stderr
    assert "no model 'resnet17_gn_ws'; did you mean" in model.stderr


def predicted(
    run: Path, photo: Path, capsys: pytest.CaptureFixture[str], **more: Any
) -> list[dict[str, Any]]:
    options = {"min_score": None, "save": None, "as_json": True} | more
    predict_with_run(run, [photo], **options)
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_what_is_found_in_a_photo_is_told_by_name(
    runs: dict[TaskName, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = write_coco(tmp_path / "data") / "val" / "0.png"

    (found,) = predicted(runs["detect"], photo, capsys, save=tmp_path / "pictures")
    (pixels,) = predicted(runs["segment"], photo, capsys)
    (none,) = predicted(runs["detect"], photo, capsys, min_score=1.0)

    assert {each["class"] for each in found["objects"]} <= {"red", "blue"}
    scores = [each["score"] for each in found["objects"]]
    assert scores and scores == sorted(scores, reverse=True)
    assert sum(each["share"] for each in pixels["pixels"]) == pytest.approx(1, abs=1e-3)
    assert none["objects"] == []
    assert (tmp_path / "pictures" / "0.png").stat().st_size
    predict_with_run(runs["detect"], [photo], min_score=1.0, save=None, as_json=False)
    assert capsys.readouterr().out == f"{photo}: nothing found\n"


@pytest.mark.parametrize(
    ("task", "write", "key"),
    [
        pytest.param("detect", write_coco, "box_ap50", marks=pytest.mark.slow),
        ("segment", write_masks, "miou"),
    ],
)
def test_a_net_is_measured_on_another_split(
    task: TaskName,
    write: Callable[..., Path],
    key: str,
    runs: dict[TaskName, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write(tmp_path / "data", splits={"train": 2, "val": 2, "test": 4})
    options: dict[str, Any] = {"quarantine": None, "save": tmp_path / "drawn", "as_json": True}

    eval_with_run(runs[task], data, split="test", **options)
    row = json.loads(capsys.readouterr().out)
    eval_with_run(runs[task], data, split=None, **options | {"save": None, "as_json": False})
    text = capsys.readouterr().out

    assert row["photos"] == 4
    assert 0 <= row[key] <= 100
    assert "examples.png" in (tmp_path / "drawn" / "report.md").read_text()
    assert text.splitlines()[1].split() == ["photos", "2"]


def test_classes_that_a_net_does_not_know_are_refused(
    runs: dict[TaskName, Path], tmp_path: Path
) -> None:
    data = write_masks(tmp_path / "data", classes=("ground", "green"))

    with pytest.raises(ValueError, match="has the class 'green', but known are ground, red"):
        eval_with_run(runs["segment"], data, split=None, quarantine=None, save=None, as_json=False)


def test_defaults_are_not_changed_by_options_left_out() -> None:
    bare = settings_for("detect", model="m")

    assert replace(bare, epochs=3) == settings_for("detect", model="m", epochs=3, lr=None)
