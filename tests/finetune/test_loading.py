import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import wszoo
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.loading import load_finetuned
from wszoo.finetune.models import build
from wszoo.finetune.outputs import read_facts, save_output
from wszoo.finetune.settings import TaskName

CLASSES = ("cat", "dog")
HEADS: dict[TaskName, str] = {"classify": "linear", "detect": "fcos", "segment": "semantic_fpn"}


def save(task: TaskName, run: Path, head: str | None = None) -> Path:
    torch.manual_seed(0)
    settings = settings_for(
        task,
        model="test_resnet_gn_ws",
        head=head or HEADS[task],
        pretrained=False,
        image_size=64,
        max_size=96,
    )
    named: dict[str, Any] = {"classes": CLASSES, "class_ids": CLASSES}
    save_output(run, build(settings, 2), settings, **named, epoch=1, metrics={})
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskName, Path]:
    return {task: save(task, tmp_path_factory.mktemp(task)) for task in HEADS}


@pytest.mark.parametrize("task", HEADS)
def test_a_run_is_loaded_by_its_folder_wherever_that_is(
    task: TaskName, runs: dict[TaskName, Path], tmp_path: Path
) -> None:
    moved = shutil.copytree(runs[task], tmp_path / "moved")

    for path in (moved, str(moved), moved / "model"):
        model, facts = wszoo.load_finetuned(path, classes=list(CLASSES))
        assert facts == read_facts(moved) and not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("task", HEADS)
def test_device_and_type_are_those_asked_for(task: TaskName, runs: dict[TaskName, Path]) -> None:
    away, _ = load_finetuned(runs[task], device="meta")
    half, _ = load_finetuned(runs[task], dtype=torch.bfloat16)

    assert {p.device.type for p in away.parameters()} == {"meta"}
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    image = torch.rand(3, 64, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        answer = half([image])[0]["scores"] if task == "detect" else half(image[None])
    assert answer.isfinite().all()


def test_a_type_that_a_net_cannot_have_is_refused(
    runs: dict[TaskName, Path], tmp_path: Path
) -> None:
    run = save("detect", tmp_path, "faster_rcnn")

    with pytest.raises(ValueError, match=r"^a net cannot be torch\.int8; give a floating point ty"):
        load_finetuned(runs["classify"], dtype=torch.int8)
    with pytest.raises(ValueError, match=r"^faster_rcnn cannot be torch\.float16, .*; leave dtype"):
        load_finetuned(run, dtype=torch.float16)
    assert load_finetuned(run, dtype=torch.float32)


@pytest.mark.parametrize(
    ("classes", "how"),
    [
        (("cat", "cow"), "not 'cow'"),
        (("dog", "cat"), "in another order"),
        (("cat",), "more than cat"),
    ],
)
def test_other_classes_than_those_asked_for_are_refused(
    classes: tuple[str, ...], how: str, runs: dict[TaskName, Path]
) -> None:
    with pytest.raises(ValueError, match=f"knows the classes cat, dog, {how}; give these, or load"):
        load_finetuned(runs["classify"], classes=classes)


def test_a_path_without_a_finished_run_is_told_for_what_it_is(
    runs: dict[TaskName, Path], tmp_path: Path
) -> None:
    places: dict[str, dict[str, Any] | None] = {
        "empty": None,
        "began": {"settings": {}, "data": {}},
        "zoo": {"recipe": "e3_tin200"},
        "odd": [],  # type: ignore[dict-item]
    }
    for name, declared in places.items():
        (tmp_path / name).mkdir()
        if declared is not None:
            (tmp_path / name / "run.json").write_text(json.dumps(declared))
    (tmp_path / "stopped" / "step-00000003").mkdir(parents=True)
    for name in ("a", "b", "c", "d"):
        (tmp_path / "runs" / name / "model").mkdir(parents=True)
        shutil.copy(runs["segment"] / "model" / "config.json", tmp_path / "runs" / name / "model")
    lines = {
        "gone": "^no such run: .*gone; name the folder that --out of `wszoo finetune` named$",
        "runs/a/model/config.json": "is a file; name the folder of the run that it is from",
        "empty": "empty holds no fine-tuned net; name the folder of a finished run of",
        "odd": "odd holds no fine-tuned net; name the folder",
        "began": "began holds a run that has not ended; repeat its command to go on with it",
        "stopped": "stopped holds a run that has not ended; repeat its command",
        "zoo": r"zoo is a run of train\.pretrain; `python -m train.publish .*zoo` makes weights",
        "runs": "of which these are finished runs: a, b, c, …; name one",
    }

    for name, line in lines.items():
        with pytest.raises(FileNotFoundError, match=line):
            load_finetuned(tmp_path / name)


def test_a_device_that_is_not_there_is_told_by_torch(runs: dict[TaskName, Path]) -> None:
    with pytest.raises(RuntimeError, match="device"):
        load_finetuned(runs["segment"], device="no_device")
