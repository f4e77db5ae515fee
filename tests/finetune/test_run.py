import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.file_server import serve
from tests.photo_sets import write_classes, write_coco, write_masks
from wszoo.datasets import read_labelled_images
from wszoo.datasets.segmentation import read_segmentation
from wszoo.datasets.shard_writing import write_shards
from wszoo.finetune.data import DataSource
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.outputs import load_finetuned
from wszoo.finetune.run import Conditions, fine_tune
from wszoo.finetune.settings import FineTuning, TaskName
from wszoo.training.checkpoint import load_checkpoint

WRITERS: dict[TaskName, Callable[..., Path]] = {
    "classify": write_classes,
    "detect": write_coco,
    "segment": write_masks,
}
HEADS: dict[TaskName, str] = {"classify": "linear", "detect": "fcos", "segment": "semantic_fpn"}
QUICK = Conditions(workers=0)


def tiny(task: TaskName, **changes: Any) -> FineTuning:
    settings = settings_for(
        task, model="test_resnet_gn_ws", head=HEADS[task], epochs=2, batch_size=2, image_size=64
    )
    return replace(settings, max_size=96, warmup_steps=2, scale=(0.8, 1.0), **changes)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    loaded = load_checkpoint(run)
    assert loaded is not None
    weights: dict[str, torch.Tensor] = loaded[0]["learner"]["model"]
    return weights


@pytest.fixture(
    scope="module",
    params=["classify", *(pytest.param(t, marks=pytest.mark.slow) for t in ("detect", "segment"))],
)
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TaskName, Path, Path]:
    """A task, its data, and the folder of a run that nothing disturbed."""
    torch.set_num_threads(1)
    task: TaskName = request.param
    root = tmp_path_factory.mktemp(task)
    data = WRITERS[task](root / "data")
    fine_tune(tiny(task), DataSource(task=task, path=data), root / "run", conditions=QUICK)
    return task, data, root / "run"


Finished = tuple[TaskName, Path, Path]


def test_a_run_leaves_pictures_tables_and_a_net(finished: Finished) -> None:
    task, _, run = finished

    text = (run / "report.md").read_text()
    model, facts = load_finetuned(run)

    for picture in ("curves.png", "examples.png"):
        assert (run / picture).stat().st_size
        assert f"]({picture})" in text
    assert "the best by" in text
    assert all(f"| {name} |" in text for name in facts.classes)
    assert f"wszoo finetune {task} --from" in text
    assert not model.training


def test_the_plan_says_what_is_about_to_be_done(finished: Finished) -> None:
    task, _, run = finished

    plan = json.loads((run / "plan.json").read_text())

    assert plan["norms"].endswith("GroupNorm, 0 BatchNorm")
    steps = {"classify": 12, "detect": 6, "segment": 6}[task]
    assert plan["steps"] == f"{steps} = 2 epochs x {steps // 2}"
    assert plan["batch"] == "2 = 2 per pass x 1 rank x 1 accumulated"
    rate = {
        "classify": "0.0004 = 0.0002",
        "detect": "0.0002 = 0.0001",
        "segment": "0.0002 = 0.0001",
    }
    assert plan["learning rate"].startswith(f"{rate[task]} x 2 photos per step")
    assert {"detect": "red 3, blue 3", "classify": "blue 6, red 6"}.get(task, "") in plan["classes"]
    if task == "segment":
        assert "%" in plan["classes"]
    assert ("objects" in plan) == (task == "detect")


def test_a_run_that_has_ended_writes_the_same_again(finished: Finished) -> None:
    task, data, run = finished
    net = (run / "model" / "model.safetensors").read_bytes()
    (run / "examples.png").unlink()

    fine_tune(tiny(task), DataSource(task=task, path=data), run, conditions=QUICK)

    assert (run / "model" / "model.safetensors").read_bytes() == net
    assert (run / "examples.png").stat().st_size
    assert (run / "report.md").read_text().count("## Held-out photos") == 1


def test_a_run_stopped_in_between_ends_with_the_same_bits(
    finished: Finished, tmp_path: Path
) -> None:
    task, data, whole = finished
    source = DataSource(task=task, path=data)
    fine_tune(tiny(task, patience=None), source, tmp_path / "run", conditions=QUICK)
    # What a kill after the first epoch would have left.
    newest = sorted((tmp_path / "run").glob("step-*"))[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()

    fine_tune(tiny(task), source, tmp_path / "run", conditions=QUICK)

    first, second = weights_of(whole), weights_of(tmp_path / "run")
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_a_run_over_shards_of_masks_ends_with_the_same_bits(tmp_path: Path) -> None:
    drawn, shards = write_masks(tmp_path / "drawn"), tmp_path / "shards"
    for split in ("train", "val"):
        images = read_segmentation(drawn, split, ignore=[9])
        write_shards(images, shards / split, bytes_per_shard=40_960)
    source = DataSource(task="segment", path=shards)
    for run in ("whole", "stopped"):
        fine_tune(tiny("segment"), source, tmp_path / run, conditions=QUICK)
    newest = sorted((tmp_path / "stopped").glob("step-*"))[-1]
    shutil.rmtree(newest)

    moved = shards.rename(tmp_path / "moved")
    source = replace(source, path=moved)
    fine_tune(tiny("segment"), source, tmp_path / "stopped", conditions=QUICK)

    first, second = weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert load_finetuned(tmp_path / "stopped")[1].ignored == (9,)
    assert (tmp_path / "stopped" / "examples.png").stat().st_size


@pytest.mark.slow
def test_a_run_over_shards_of_classes_ends_with_the_same_bits_from_a_server_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drawn, shards = write_classes(tmp_path / "drawn"), tmp_path / "shards"
    for split in ("train", "val"):
        images = read_labelled_images(drawn, split)
        write_shards(images, shards / split, bytes_per_shard=40_960)
    with serve(shards) as url:
        source = DataSource(task="classify", path=url)
        for run in ("whole", "stopped"):
            fine_tune(tiny("classify"), source, tmp_path / run, conditions=QUICK)
        shutil.rmtree(sorted((tmp_path / "stopped").glob("step-*"))[-1])
        (tmp_path / "left-out.tsv").write_text("name\treason\n")

        fine_tune(
            tiny("classify"),
            replace(source, quarantine=tmp_path / "left-out.tsv"),
            tmp_path / "stopped",
            conditions=replace(QUICK, workers=1),
        )

    first, second = weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert load_finetuned(tmp_path / "stopped")[1].classes == ("blue", "red")
    assert f"--data {url}" in (tmp_path / "stopped" / "report.md").read_text()


def test_other_settings_or_other_data_are_refused(finished: Finished, tmp_path: Path) -> None:
    task, data, run = finished
    other = WRITERS[task](tmp_path / "data", splits={"train": 4, "val": 3})

    with pytest.raises(ValueError, match=r"settings.lr 0.000\d, not 0.5"):
        fine_tune(tiny(task, lr=0.5), DataSource(task=task, path=data), run, conditions=QUICK)
    with pytest.raises(ValueError, match="holds a run with data.train"):
        fine_tune(tiny(task), DataSource(task=task, path=other), run, conditions=QUICK)


def test_a_folder_with_checkpoints_can_be_refused(finished: Finished) -> None:
    task, data, run = finished

    with pytest.raises(ValueError, match="holds checkpoints, the newest step-.*leave out --resume"):
        fine_tune(
            tiny(task),
            DataSource(task=task, path=data),
            run,
            conditions=replace(QUICK, resume=False),
        )


@pytest.mark.slow
def test_accumulated_passes_see_the_same_photos(tmp_path: Path) -> None:
    source = DataSource(task="segment", path=write_masks(tmp_path / "data"))

    for micro in (1, 2):
        conditions = replace(QUICK, micro_batch_size=micro)
        fine_tune(tiny("segment"), source, tmp_path / f"run{micro}", conditions=conditions)

    rows = [
        json.loads((tmp_path / f"run{micro}" / "metrics.jsonl").read_text().splitlines()[-1])
        for micro in (1, 2)
    ]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-3)


def test_a_run_goes_on_from_another_with_other_classes(finished: Finished, tmp_path: Path) -> None:
    task, _, run = finished
    classes = {
        "classify": ("green", "red"),
        "detect": ("green", "red"),
        "segment": ("ground", "blue"),
    }
    data = WRITERS[task](tmp_path / "data", classes=classes[task])
    source = DataSource(task=task, path=data)
    settings = tiny(task, lr=1e-12)

    fine_tune(settings, source, tmp_path / "next", start=run, conditions=QUICK)

    plan = json.loads((tmp_path / "next" / "plan.json").read_text())
    kept = "ground" if task == "segment" else "red"
    assert (
        f"1 kept: {kept}; 1 new, from random rows: {classes[task][kept == 'ground']}"
        in plan["from"]
    )
    assert "1 dropped: " in plan["from"]
    model, facts = load_finetuned(tmp_path / "next")
    before, _ = load_finetuned(run)
    assert facts.classes == tuple(sorted(classes[task])) or facts.classes == classes[task]
    old, new = before.state_dict(), model.state_dict()
    shared = [key for key in old if old[key].shape == new[key].shape and "fpn" in key]
    assert task == "classify" or shared
    assert all(torch.allclose(old[key], new[key], atol=1e-6) for key in shared)


def test_errors_in_the_data_end_a_run_before_its_first_step(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data")
    path = data / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    source = DataSource(task="detect", path=data)

    with pytest.raises(ValueError, match=r"1 x box without area.*wszoo check-data --task detect"):
        fine_tune(tiny("detect"), source, tmp_path / "run", conditions=QUICK)

    assert not list((tmp_path / "run").glob("step-*"))


@pytest.mark.slow
def test_photos_in_quarantine_are_left_out(tmp_path: Path) -> None:
    data = write_masks(tmp_path / "data")
    bad = data / "train" / "images" / "0.png"
    bad.write_bytes(b"no photo")
    left_out = tmp_path / "left-out.tsv"
    left_out.write_text(f"name\treason\n{bad}\tbroken\n")
    source = DataSource(task="segment", path=data)

    with pytest.raises(ValueError, match="wszoo check-data --task segment"):
        fine_tune(tiny("segment"), source, tmp_path / "run", conditions=QUICK)
    source = replace(source, quarantine=left_out)
    fine_tune(tiny("segment", epochs=1), source, tmp_path / "run", conditions=QUICK)

    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["photos"] == "5 to learn from (train), 3 to judge by (val)"


@pytest.mark.slow
def test_warnings_of_the_data_are_shown_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_classes(tmp_path / "data")
    copied = (data / "train" / "red" / "0.png").read_bytes()
    (data / "val" / "red" / "copy.png").write_bytes(copied)
    source = DataSource(task="classify", path=data)

    fine_tune(tiny("classify", epochs=1), source, tmp_path / "run", conditions=QUICK)

    assert "wszoo: data: 1 x " in capsys.readouterr().err
    assert "data: 1 x " in (tmp_path / "run" / "report.md").read_text()
