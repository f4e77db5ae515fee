import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from wszoo.finetune.detect import Detection
from wszoo.finetune.segment import Segmentation
from wszoo.training.batches import plan_batches
from wszoo.training.distributed import Ranks
from wszoo.training.runlog import RunLog

Make = Callable[..., Any]
TASKS = {"detect": Detection, "segment": Segmentation}


@pytest.fixture(params=TASKS)
def sets(request: pytest.FixtureRequest) -> tuple[str, Make]:
    """Each task in turn, with what makes its sets."""
    kind = {"detect": "detection_set", "segment": "segmentation_set"}[request.param]
    return request.param, request.getfixturevalue(kind)


@pytest.fixture
def make(sets: tuple[str, Make], settings: Make, log: RunLog) -> Make:
    """The task over ten photos, five held out; detectors with masks."""
    kind, images = sets

    def build(
        rank: int = 0, size: int = 1, micro: int | None = None, workers: int = 0, **changes: Any
    ) -> Any:
        batch_size = changes.setdefault("batch_size", 4)
        chosen = settings(task=kind, head="mask_rcnn", **changes)
        plan = plan_batches(batch_size, size, micro)
        return TASKS[kind](
            images(10), images(5), chosen, plan, Ranks(rank, size), workers=workers, log=log
        )

    return build


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_ranks_passes_and_workers_see_the_same_global_batches(make: Make, seen_by: Make) -> None:
    alone = seen_by([make()])

    assert [len(step) for step in alone] == [4, 4]
    assert len({sample for step in alone for sample in step}) == 8
    assert seen_by([make(rank, 2) for rank in range(2)]) == alone
    assert seen_by([make(rank, 2, micro=1) for rank in range(2)]) == alone
    assert seen_by([make(micro=1)]) == alone
    helped = make(workers=2)
    assert seen_by([helped]) == alone
    assert seen_by([helped], epoch=1) == seen_by([make()], epoch=1) != alone
    helped.close()


def test_an_epoch_gone_on_with_gives_the_steps_that_were_left(make: Make, seen_by: Make) -> None:
    whole = seen_by([make(batch_size=2)], epoch=1)

    assert len(whole) == 5
    for first in range(6):
        assert seen_by([make(batch_size=2)], epoch=1, first_step=first) == whole[first:]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_batches_of_one_to_four_photos_work(batch_size: int, make: Make, seen_by: Make) -> None:
    task = make(batch_size=batch_size)

    assert task.batch_size == batch_size
    assert task.steps_per_epoch == 10 // batch_size
    assert {len(step) for step in seen_by([task])} == {batch_size}


def test_names_are_those_of_the_photos_in_a_step(make: Make) -> None:
    task = make(scale=(1, 1), hflip=0, image_size=96)

    for step, [batch] in enumerate(task.batches(0, 0)):
        photos = [scene[0] for scene in batch] if isinstance(batch, list) else batch[0]
        edges = [(255 * photo[0, :, 0]).round().int() for photo in photos]
        numbers = [int(edge[edge != 124][0]) for edge in edges]  # 124: the ground above a photo
        assert [f"photos/{number}.png" for number in numbers] == task.names(0, step)


def test_sets_of_other_classes_and_sets_too_small_are_refused(
    sets: tuple[str, Make], settings: Make, log: RunLog
) -> None:
    kind, images = sets
    chosen = settings(task=kind)

    def build(train: Any, held_out: Any) -> Any:
        plan = plan_batches(4, 1)
        return TASKS[kind](train, held_out, chosen, plan, Ranks(), workers=0, log=log)

    renamed = replace(images(5), classes=tuple("abcd")[: len(images(5).classes)])
    with pytest.raises(ValueError, match=r"have the classes .*red.*, those to judge by a, b"):
        build(images(10), renamed)
    with pytest.raises(ValueError, match="3 images do not fill one batch of 4"):
        build(images(3), images(5))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_held_out_photo_is_seen_once_and_ranks_pause_equally_often(
    size: int, make: Make
) -> None:
    seen: list[int] = []
    pauses: list[int] = []
    for rank in range(size):
        task = make(rank, size, batch_size=size)
        held_out = task._each_held_out(partial(pauses.append, rank))
        seen += [index for index, _ in held_out]

    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert {pauses.count(rank) for rank in range(size)} == {math.ceil(5 / size)}


def test_what_makes_samples_travels_to_processes(make: Make) -> None:
    for reader in (make()._reader, make()._held_reader):
        photos = reader._loader.dataset

        assert pickle.loads(pickle.dumps(photos))._names == photos._names
