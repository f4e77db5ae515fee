import json
import subprocess
import sys

import pytest
import torch

from wszoo.datasets.detection import read_detection
from wszoo.demo_detection import BOUND, PHOTO_SIZE, CellsFound, ap50
from wszoo.finetune.box_metrics import Item, average_precision
from wszoo.weights import ASSETS

CELLS = ASSETS / "bccd"
CLASSES = ("Platelets", "RBC", "WBC")


def test_the_packaged_cells_are_enough_and_bring_their_licence() -> None:
    train, held_out = (read_detection(CELLS, split) for split in ("train", "val"))

    assert train.classes == held_out.classes == CLASSES
    assert (len(train), len(held_out)) == (84, 36)
    assert not set(train.names) & set(held_out.names)
    for photos in (train, held_out):
        assert {label for one in photos.objects for label in one.labels.tolist()} == {1, 2, 3}
        assert all(len(one) for one in photos.objects)
    assert "MIT License" in (CELLS / "LICENSE").read_text()
    assert sum(path.stat().st_size for path in CELLS.iterdir()) < 1_200_000


def test_the_packaged_photos_are_as_large_as_their_annotations_say() -> None:
    photos = read_detection(CELLS, "val")

    for index, objects in enumerate(photos.objects):
        assert photos.image(index).size == objects.size == PHOTO_SIZE[::-1]


def test_ap50_is_that_of_coco() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [_noisy(generator, objects) for objects in (9, 14, 0, 30)]

    ours = ap50(pairs, CLASSES)

    theirs = average_precision(pairs, CLASSES)
    assert set(ours) == set(CLASSES)
    assert 20 < theirs["box_ap50"] < 80
    assert sum(ours.values()) / 3 == pytest.approx(theirs["box_ap50"], abs=1e-3)


def _noisy(generator: torch.Generator, objects: int) -> tuple[Item, Item]:
    """Half of the objects, moved a little, beside as many boxes where there is nothing."""
    corner = 200 * torch.rand(2 * objects, 2, generator=generator)
    sides = 20 + 20 * torch.rand(2 * objects, 2, generator=generator)
    boxes = torch.cat((corner, corner + sides), 1)
    labels = torch.randint(1, 4, (2 * objects,), generator=generator)
    true = slice(0, objects)
    target = {
        "boxes": boxes[true],
        "labels": labels[true],
        "iscrowd": torch.zeros(objects, dtype=torch.int64),
        "area": (boxes[true, 2:] - boxes[true, :2]).prod(1),
    }
    guessed = slice(objects // 2, objects // 2 + objects)
    moved = boxes[guessed] + 3 * torch.randn(objects, 4, generator=generator)
    scores = torch.rand(objects, generator=generator)
    return {"boxes": moved, "labels": labels[guessed], "scores": scores}, target


def test_finding_all_is_100_percent_and_finding_nothing_is_0() -> None:
    photos = read_detection(CELLS, "val")
    targets = [photos.target(index) for index in range(len(photos))]
    none = torch.zeros(0)
    nothing = {"boxes": none.reshape(0, 4), "labels": none.long(), "scores": none}
    all_of_it = [target | {"scores": torch.ones(len(target["labels"]))} for target in targets]

    for found, percent in ((all_of_it, 100.0), ([nothing] * len(targets), 0.0)):
        pairs = list(zip(found, targets, strict=True))
        assert ap50(pairs, CLASSES) == pytest.approx(dict.fromkeys(CLASSES, percent))


@pytest.mark.parametrize(
    ("percent", "passed", "verdict"),
    [(BOUND + 1, True, "finds cells"), (BOUND, False, f"AP50 is not above {BOUND:g} %")],
)
def test_only_cells_found_above_the_bound_pass(percent: float, passed: bool, verdict: str) -> None:
    result = CellsFound(
        untrained=0.1, ap50=percent, per_class={"RBC": percent}, photos=36, objects=503
    )

    assert result.passed is passed
    assert verdict in str(result)
    assert str(result).endswith(f"AP50 {percent:.1f} %, 503 objects in 36 held-out photos")
    assert json.loads(json.dumps(result.to_json()))["passed"] is passed


@pytest.mark.slow  # torch is imported once more
def test_the_demo_needs_no_package_of_the_extra_train() -> None:
    program = """
import sys
sys.modules.update(dict.fromkeys(("torchmetrics", "faster_coco_eval", "tensorboard")))
import torch
from wszoo.demo import run_demo
from wszoo.demo_detection import ap50
box = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.ones(1).long()}
target = box | {"iscrowd": torch.zeros(1).long(), "area": torch.ones(1)}
assert ap50([(box | {"scores": torch.ones(1)}, target)], ("cell",)) == {"cell": 100.0}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
