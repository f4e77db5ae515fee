import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wszoo.datasets.detection import DetectionImages
from wszoo.detection import fcos, mask_rcnn
from wszoo.finetune.detect import Detection, Found
from wszoo.training.batches import plan_batches
from wszoo.training.distributed import Ranks
from wszoo.training.engine import Learner
from wszoo.training.runlog import RunLog

Make = Callable[..., Any]
Answer = dict[str, Tensor]
HEIGHT, WIDTH = 80, 96


class Knows(nn.Module):
    """Answers from a set of which it is shown the photos; the first pixel tells which."""

    def __init__(self, images: DetectionImages, change: Callable[[Answer], Answer] = dict) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.images, self.change = images, change

    def forward(self, images: list[Tensor]) -> list[Answer]:
        assert not torch.is_grad_enabled()
        assert not self.training
        answers = []
        for image in images:
            wanted = self.images.target(int(255 * image[0, 0, 0] + 0.5), crowd=False)
            answer = {key: wanted[key] for key in ("boxes", "labels")}
            answer["scores"] = torch.linspace(0.9, 0.6, len(wanted["labels"]))
            if "masks" in wanted:
                answer["masks"] = wanted["masks"][:, None].float() * 0.9
            answers.append(self.change(answer))
        return answers


@pytest.fixture
def make(detection_set: Make, settings: Make, log: RunLog) -> Make:
    """The task over eight photos, five held out."""

    def build(
        *,
        train: Any = None,
        held_out: Any = None,
        ranks: Ranks | None = None,
        **changes: Any,
    ) -> Detection:
        chosen, ranks = settings(**changes), ranks or Ranks()
        return Detection(
            train or detection_set(8),
            held_out or detection_set(5),
            chosen,
            plan_batches(chosen.batch_size, ranks.size),
            ranks,
            workers=0,
            log=log,
        )

    return build


def evaluate(task: Detection, model: nn.Module) -> dict[str, float]:
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return task.evaluate(learner, lambda: None)


def with_crowd(images: DetectionImages, photo: int) -> DetectionImages:
    """The first object of a photo becomes a crowd region."""
    first = replace(
        images.objects[photo], iscrowd=np.arange(len(images.objects[photo].labels)) == 0
    )
    objects = list(images.objects)
    objects[photo] = first
    return replace(images, objects=tuple(objects))


def test_batches_are_what_detectors_take(make: Make) -> None:
    [scenes] = next(make(head="mask_rcnn").batches(0, 0))

    assert len(scenes) == 4
    for image, target in scenes:
        height, width = image.shape[1:]
        count = len(target["boxes"])
        assert image.dtype == torch.float32 and image.min() >= 0 and 0.8 < image.max() <= 1
        assert set(target) == {"boxes", "labels", "masks"}
        assert target["boxes"].shape == (count, 4) and target["labels"].shape == (count,)
        assert target["masks"].shape == (count, height, width)
        for box, mask in zip(target["boxes"].round().int().tolist(), target["masks"], strict=True):
            assert mask[box[1] : box[3], box[0] : box[2]].float().mean() > 0.85


def test_without_a_mask_head_no_mask_is_decoded(make: Make) -> None:
    task = make(head="retinanet")

    [scenes] = next(task.batches(0, 0))
    found = task.predict(Knows(task._held_out))

    assert all(set(target) == {"boxes", "labels"} for _, target in scenes)
    assert all(each.masks == () for each in found.values())


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn"])
def test_perfect_answers_have_100_percent_and_absent_classes_no_figure(
    head: str, make: Make, detection_set: Make
) -> None:
    task = make(head=head)

    figures = evaluate(task, Knows(detection_set(5)))

    kinds = ["box", "mask"] if head == "mask_rcnn" else ["box"]
    assert set(figures) == {f"{kind}_{ap}" for kind in kinds for ap in ("ap", "ap50", "ap75")}
    assert [*figures.values()] == pytest.approx([100] * len(figures))
    assert set(task.details) == {f"{kind}_ap/{name}" for kind in kinds for name in ("red", "blue")}


def test_wrong_masks_in_right_boxes_are_seen(make: Make, detection_set: Make) -> None:
    def emptied(answer: Answer) -> Answer:
        return answer | {"masks": answer["masks"] * 0.5}  # 0.45: below the threshold of 0.5

    figures = evaluate(make(head="mask_rcnn"), Knows(detection_set(5), emptied))

    assert figures["box_ap"] == pytest.approx(100)
    assert figures["mask_ap"] == 0


def test_crowd_regions_are_not_learned(make: Make, detection_set: Make) -> None:
    crowded = detection_set(8)
    for photo in range(8):
        crowded = with_crowd(crowded, photo)
    task = make(train=crowded, scale=(1, 1), batch_size=1)

    labels = {
        task.names(0, step)[0]: scene.target["labels"].tolist()
        for step, [[scene]] in enumerate(task.batches(0, 0))
    }

    assert labels == {f"photos/{n}.png": [2] if n % 3 == 2 else [] for n in range(8)}


def test_what_is_found_in_crowd_regions_counts_neither_for_nor_against(
    make: Make, detection_set: Make
) -> None:
    plain = detection_set(5)
    crowded = with_crowd(with_crowd(plain, 0), 2)  # red ones; photo 3 has another
    eager = Knows(plain, lambda answer: answer | {"scores": 1 - answer["scores"]})

    figures = evaluate(make(held_out=crowded), eager)

    assert figures["box_ap"] == pytest.approx(100)


def test_a_set_of_crowd_regions_alone_judges_nothing(make: Make, detection_set: Make) -> None:
    with pytest.raises(ValueError, match="the photos to judge by show no object"):
        make(held_out=with_crowd(detection_set(1), 0))


def test_masks_are_needed_by_mask_rcnn_alone(make: Make, detection_set: Make) -> None:
    without = replace(detection_set(8), has_masks=False)

    make(train=without, head="fcos")
    for kind in ("train", "held_out"):
        with pytest.raises(ValueError, match="mask_rcnn needs a mask of every object; take"):
            make(**{kind: without}, head="mask_rcnn")


class Part(Ranks):
    """One of several ranks; the last of them to predict is given what all have found."""

    def gather(self, mine: dict[int, Any]) -> dict[int, Any]:
        gathered.update(mine)
        return dict(gathered)


gathered: dict[int, Any] = {}


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_evaluate_to_the_figures_of_one(size: int, make: Make, detection_set: Make) -> None:
    def shifted(answer: Answer) -> Answer:
        noise = torch.randn(answer["boxes"].shape, generator=torch.Generator().manual_seed(0))
        return answer | {"boxes": answer["boxes"] + 2 * noise}

    model = Knows(detection_set(5), shifted)
    alone = make(head="mask_rcnn")
    figures, details = evaluate(alone, model), alone.details
    gathered.clear()

    for rank in reversed(range(size)):
        task = make(head="mask_rcnn", ranks=Part(rank, size), batch_size=6)
        given = evaluate(task, model)

    assert (given, task.details) == (figures, details)
    assert 20 < figures["box_ap"] < 90
    assert [*gathered] != sorted(gathered) and len(gathered) == 5


def test_in_a_photo_that_cannot_be_read_nothing_is_found(
    make: Make, detection_set: Make, log: RunLog
) -> None:
    images = detection_set(5)
    broken = replace(images, sources=(*images.sources[:4], b""))
    task = make(held_out=broken, head="mask_rcnn")

    found = task.predict(Knows(images))

    assert [len(found[index].boxes["boxes"]) for index in range(5)] == [1, 1, 2, 1, 0]
    assert task.figures(found)["box_ap"] < 99
    assert (log.output / "quarantine.tsv").read_text().startswith("name\treason\nphotos/4.png\t")


def test_a_photo_of_another_size_than_its_annotations_say_is_left_out(
    make: Make, detection_set: Make, log: RunLog
) -> None:
    images = detection_set(8)
    odd = replace(images.objects[3], size=(48, 40))
    mixed = replace(images, objects=(*images.objects[:3], odd, *images.objects[4:]))

    next(make(train=mixed, batch_size=8).batches(0, 0))

    told = (log.output / "quarantine.tsv").read_text()
    assert told == (
        "name\treason\n"
        "photos/3.png\tphotos/3.png has 96 x 80 pixels, its annotations say 48 x 40; mend them "
        "or leave it out\n"
    )


def test_evaluation_leaves_a_net_in_training_as_it_was(make: Make, detection_set: Make) -> None:
    model = Knows(detection_set(5)).train()

    evaluate(make(), model)

    assert model.training


def test_what_is_kept_of_a_set_is_small(make: Make, detection_set: Make) -> None:
    found: dict[int, Found] = make(head="mask_rcnn").predict(Knows(detection_set(5)))

    kept = sum(runs.counts.nbytes for each in found.values() for runs in each.masks)
    masks = sum(len(each.masks) for each in found.values()) * HEIGHT * WIDTH
    assert 0 < kept < masks / 5
    assert not any("masks" in each.boxes for each in found.values())


@pytest.mark.parametrize(("head", "build"), [("mask_rcnn", mask_rcnn), ("fcos", fcos)])
def test_a_detector_takes_a_step_on_photos_with_and_without_objects(
    head: str, build: Make, make: Make, detection_set: Make
) -> None:
    images = detection_set(3)
    crowded = with_crowd(with_crowd(images, 0), 1)  # they have no other object
    torch.manual_seed(0)
    few = {"box_batch_size_per_image": 32, "rpn_post_nms_top_n_train": 50}
    model = build(
        "test_resnet_gn_ws",
        num_classes=4,
        pretrained=False,
        min_size=64,
        pyramid_channels=32,
        **(few if head == "mask_rcnn" else {}),
    )
    learner = Learner(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    task = make(train=crowded, head=head, batch_size=1)

    outcomes = [learner.step(batches, task.loss, rate=1.0) for batches in task.batches(0, 0)]

    assert [outcome.taken for outcome in outcomes] == [True] * 3
    assert all(math.isfinite(outcome.loss) and outcome.grad_norm > 0 for outcome in outcomes)
    found = task.predict(model)
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert all(len(each.masks) in (0, len(each.boxes["boxes"])) for each in found.values())
    assert set(task.figures(found)) >= {"box_ap", "box_ap/red"}
