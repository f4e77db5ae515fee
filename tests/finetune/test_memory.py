from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.photo_sets import write_coco, write_masks
from wszoo.datasets.detection import DetectionImages
from wszoo.finetune.data import DataSource, read_splits
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.memory import Choice, choose, heaviest, job_for, levels_for, peak_memory
from wszoo.finetune.memory_step import Job, Load, job_from_json, take_steps, to_json
from wszoo.finetune.models import build, describe_net
from wszoo.finetune.run import Conditions, fine_tune
from wszoo.finetune.settings import FineTuning, TaskName
from wszoo.memory import MEMORY, Memory

LOAD = Load(sizes=((640, 480),), objects=30)
GB = 10**9


def tiny(task: TaskName, head: str, **changes: object) -> FineTuning:
    settings = settings_for(task, model="test_resnet_gn_ws", head=head, image_size=64, max_size=96)
    return replace(settings, **changes)  # type: ignore[arg-type]


def linear(fixed: float, per_photo: float, asked: list[Choice]) -> Any:
    """GB of a net that is all backbone but for what is ``fixed``; notes what it is asked."""
    shares = {"fast": 1.0, "lean": 0.85, "small": 0.43, "smallest": 0.3}

    def peak_of(choice: Choice) -> int:
        asked.append(choice)
        return int(GB * (fixed + per_photo * shares[choice.memory] * choice.photos))

    return peak_of


def test_the_largest_passes_that_fit_are_chosen() -> None:
    asked: list[Choice] = []

    fit = choose(16, 5 * GB, LOAD, linear(0, 1, asked), ["fast"])

    assert fit.choice == ("fast", 4)
    assert [photos for _, photos in asked] == [1, 2, 4, 8], "none beyond what does not fit"
    assert str(fit) == (
        "fast, 4 per pass, within 5.00 GB per process; at worst (photos of 640 x 480 pixels with "
        "30 objects) fast: 1 per pass take 1.00 GB, 2 per pass take 2.00 GB, 4 per pass take "
        "4.00 GB, 8 per pass take 8.00 GB"
    )


@pytest.mark.parametrize(("share", "sizes"), [(1, [1]), (6, [1, 2, 6]), (5, [1, 5])])
def test_passes_divide_the_share_evenly(share: int, sizes: list[int]) -> None:
    fit = choose(share, GB, LOAD, lambda choice: 0)

    assert list(fit.peaks) == [("fast", photos) for photos in sizes], "other levels are slower"
    assert fit.choice == ("fast", share)


def test_a_level_is_taken_where_larger_passes_make_up_for_its_time() -> None:
    asked: list[Choice] = []

    fit = choose(16, 7 * GB, LOAD, linear(0, 1, asked))

    assert fit.choice == ("small", 16)
    assert asked[3:] == [("fast", 8), ("lean", 8), ("lean", 16), ("small", 16)]
    assert fit.choice.time < Choice("fast", 4).time < Choice("lean", 8).time
    assert "8 per pass take 8.00 GB; lean: 8 per pass take 6.80 GB, 16 per" in str(fit)


def test_levels_help_where_not_even_one_photo_fits() -> None:
    asked: list[Choice] = []

    fit = choose(2, 6 * GB, LOAD, linear(2, 7, asked))

    assert fit.choice == ("small", 1)
    assert asked == [("fast", 1), ("lean", 1), ("small", 1), ("small", 2)]


def test_a_slower_level_is_not_tried_where_it_could_not_be_faster() -> None:
    asked: list[Choice] = []

    fit = choose(2, 10 * GB, LOAD, linear(0, 8, asked))

    assert fit.choice == ("fast", 1)
    assert asked == [("fast", 1), ("fast", 2)]


def test_a_pass_that_the_system_ended_does_not_fit() -> None:
    fit = choose(2, 5 * GB, LOAD, lambda choice: GB if choice.photos == 1 else None)

    assert fit.choice == ("fast", 1)
    assert "2 per pass take more than there is" in str(fit)


def test_where_one_photo_does_not_fit_the_way_out_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"takes 9.00 GB .*smallest.*budget of 8.00 GB; a smaller --i"
    ):
        choose(2, 8 * GB, LOAD, lambda choice: 9 * GB)
    with pytest.raises(
        ValueError, match=r"takes 9.00 GB .*fast.*of 8.00 GB; a smaller --memory, a"
    ):
        choose(2, 8 * GB, LOAD, lambda choice: 9 * GB, ["fast"])


def test_a_net_without_such_blocks_has_one_level() -> None:
    plain = torch.nn.Linear(2, 2)

    assert levels_for(plain, None) == ("fast",)
    assert levels_for(build(tiny("classify", "linear"), 2), None) == MEMORY
    assert levels_for(plain, "small") == ("small",)


def images(sizes: list[tuple[int, int]], tmp_path: Path) -> DetectionImages:
    train = read_splits(DataSource(task="detect", path=write_coco(tmp_path / "data"))).train
    assert isinstance(train, DetectionImages)
    objects = tuple(
        replace(each, size=size) for each, size in zip(train.objects, sizes, strict=False)
    )
    return replace(train, objects=objects)


def test_the_widest_and_the_tallest_photos_are_the_worst(tmp_path: Path) -> None:
    # Resized to a short side of 64 and a long one of at most 96: the second is 96 x 10.
    sizes = [(100, 100), (1000, 100), (150, 100), (90, 135)]

    load = heaviest(images(sizes, tmp_path), tiny("detect", "fcos"))

    assert set(load.sizes) == {(150, 100), (90, 135)}
    assert load.objects == 1
    assert not load.masks


def test_photos_that_are_cropped_are_as_large_as_the_square(tmp_path: Path) -> None:
    train = read_splits(DataSource(task="segment", path=write_masks(tmp_path / "data"))).train

    assert heaviest(train, tiny("segment", "unet")) == Load(sizes=((64, 64),))


def job(task: TaskName, head: str, load: Load, memory: Memory = "fast", **changes: object) -> Job:
    settings = tiny(task, head, **changes)
    net = describe_net(build(settings, 2), settings)
    return Job(
        net=net, settings=settings, num_classes=2, trainable_stages=3, load=load, memory=memory
    )


@pytest.mark.parametrize(
    ("task", "head", "load"),
    [
        ("classify", "linear", Load(sizes=((64, 64),))),
        pytest.param(
            *("detect", "fcos", Load(sizes=((96, 64), (64, 96)), objects=3)),
            marks=pytest.mark.slow,
        ),
        pytest.param(*("segment", "semantic_fpn", Load(sizes=((64, 64),))), marks=pytest.mark.slow),
    ],
)
def test_steps_of_every_task_can_be_taken(task: TaskName, head: str, load: Load) -> None:
    one = job(task, head, load, "small")
    again = job_from_json(to_json(one))

    take_steps(again, 2, torch.device("cpu"))

    assert again == one


def test_frozen_stages_are_part_of_the_measurement(tmp_path: Path) -> None:
    settings = tiny("detect", "fcos", trainable_stages=1)
    model = build(settings, 2)

    asked = job_for(
        model, describe_net(model, settings), settings, images([(96, 80)] * 6, tmp_path)
    )

    assert asked.trainable_stages == 1


@pytest.mark.slow
def test_more_photos_take_more_memory() -> None:
    asked = job("classify", "linear", Load(sizes=((128, 128),)), image_size=128)

    few, many = (peak_memory(asked, count, torch.device("cpu")) for count in (1, 64))

    assert few is not None and many is not None
    photos = 63 * 128 * 128 * 4
    assert many - few > 8 * 3 * photos, "and the activations of the first layers at least"


@pytest.mark.slow
def test_a_smaller_level_takes_less_memory() -> None:
    load = Load(sizes=((192, 192),))
    other: Any = {"model": "resnet26_gn_ws", "pretrained": False}
    asked = job("classify", "linear", load, image_size=192, **other)
    smaller = replace(asked, memory="smallest")

    most, least = (peak_memory(each, 8, torch.device("cpu")) for each in (asked, smaller))

    assert most is not None and least is not None
    assert most - least > 30e6


@pytest.mark.slow
def test_a_budget_decides_on_passes_once(tmp_path: Path) -> None:
    source = DataSource(task="segment", path=write_masks(tmp_path / "data"))
    settings = tiny("segment", "semantic_fpn", epochs=1, batch_size=2)
    conditions = Conditions(workers=0, memory_budget=8 * GB)

    for _ in range(2):
        fine_tune(settings, source, tmp_path / "run", conditions=conditions)

    declared = (tmp_path / "run" / "run.json").read_text()
    assert declared.count("memory budget of 8 GB") == 1
    assert "fast: 1 per pass take" in (tmp_path / "run" / "plan.json").read_text()
    with pytest.raises(ValueError, match="beyond the budget of 0.01 GB"):
        fine_tune(
            settings,
            source,
            tmp_path / "other",
            conditions=replace(conditions, memory_budget=GB // 100, memory="fast"),
        )


@pytest.mark.gpu
def test_memory_of_a_gpu_is_measured_in_this_process() -> None:
    asked = job("detect", "fcos", Load(sizes=((96, 64),), objects=3))

    few, many = (peak_memory(asked, count, torch.device("cuda")) for count in (1, 8))

    assert few is not None and many is not None
    assert 0 < few < many
