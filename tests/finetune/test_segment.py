from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wszoo.datasets.segmentation import SegmentationImages, read_segmentation
from wszoo.datasets.shard_writing import write_shards
from wszoo.finetune.segment import Segmentation, label_photo
from wszoo.segmentation import semantic_fpn
from wszoo.segmentation.segmenter import Segmenter
from wszoo.training.batches import plan_batches
from wszoo.training.distributed import Ranks
from wszoo.training.engine import Learner
from wszoo.training.runlog import RunLog

Make = Callable[..., Any]
CLASSES = ("around", "red", "blue", "green")


class ByColour(nn.Module):
    """Knows the classes by their colours: perfect where nothing was resized."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape[-2:]))
        red, blue = images[:, 0], images[:, 2]
        others = torch.full_like(red, 0.4), torch.full_like(red, -1)
        return torch.stack([others[0], red, blue, others[1]], dim=1) + self.bias


@pytest.fixture
def make(segmentation_set: Make, settings: Make, log: RunLog) -> Make:
    """The task over eight photos, five held out."""

    def build(
        rank: int = 0,
        size: int = 1,
        *,
        train: Any = None,
        held_out: Any = None,
        ranks: Ranks | None = None,
        **changes: Any,
    ) -> Segmentation:
        chosen = settings(task="segment", head="semantic_fpn", **changes)
        return Segmentation(
            train or segmentation_set(8),
            held_out or segmentation_set(5),
            chosen,
            plan_batches(chosen.batch_size, size),
            ranks or Ranks(rank, size),
            workers=0,
            log=log,
        )

    return build


def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return semantic_fpn(
        "test_resnet_gn_ws", num_classes=4, pretrained=False, fpn_channels=32, channels=32
    )


def learner(model: nn.Module, **more: Any) -> Learner:
    return Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), **more)


def test_batches_are_photos_and_labels_of_one_size(make: Make) -> None:
    [images, masks] = next(make().batches(0, 0))[0]

    assert images.shape == (4, 3, 64, 64) and masks.shape == (4, 64, 64)
    assert masks.dtype == torch.int64
    assert 0 <= images.min() < 0.1 and 0.8 < images.max() <= 1
    assert {1, 2, 255} < set(masks.unique().tolist()) <= {0, 1, 2, 255}


def test_shards_are_learned_from_like_files_from_any_step_on(
    make: Make, segmentation_set: Make, seen_by: Make, tmp_path: Path
) -> None:
    files = segmentation_set(8)
    files = replace(files, mask_names=tuple(f"masks/{number}.png" for number in range(8)))
    write_shards(files, tmp_path / "shards", bytes_per_shard=40_960)
    shards = read_segmentation(tmp_path / "shards")

    task = make(train=shards, held_out=shards)

    whole = seen_by([task], epoch=1)
    assert seen_by([make(train=shards)], epoch=1, first_step=1) == whole[1:]
    assert {image.tobytes() for image in map(shards.mask, range(8))} == {
        image.tobytes() for image in map(files.mask, range(8))
    }
    assert task.evaluate(learner(ByColour()), lambda: None)["miou"] == 100
    assert task.names(1, 0)[0].startswith(f"{tmp_path}/shards/shard-00000")


def test_photos_come_in_the_order_of_their_set(make: Make, segmentation_set: Make) -> None:
    class Backwards(SegmentationImages):
        def order(self, seed: int, epoch: int) -> np.ndarray:
            return np.arange(len(self))[::-1]

    drawn = segmentation_set(8)
    backwards = Backwards(**{field: getattr(drawn, field) for field in vars(drawn)})

    task = make(train=backwards)

    assert task.names(0, 0) == [f"photos/{number}.png" for number in (7, 6, 5, 4)]


def test_perfect_answers_have_100_percent_and_absent_classes_no_figure(make: Make) -> None:
    task = make()

    figures = task.evaluate(learner(ByColour()), lambda: None)

    assert figures == {"miou": 100, "dice": 100, "pixel_accuracy": 100}
    names = {f"{kind}/{name}" for kind in ("iou", "dice") for name in CLASSES[:3]}
    assert set(task.details) == names


def test_pixels_without_a_label_count_nowhere(make: Make, segmentation_set: Make) -> None:
    confusion = make().count(ByColour())

    masks = np.stack([segmentation_set(5).mask(index) for index in range(5)])
    expected = [int((masks == label).sum()) for label in range(4)]
    assert confusion.tolist() == torch.diag(torch.tensor(expected)).tolist()


class Part(Ranks):
    """One of several ranks, whose sums are added up by the test."""

    def sum(self, values: Tensor) -> Tensor:
        return values


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_count_what_one_counts(size: int, make: Make) -> None:
    model = segmenter()
    alone = make().count(model)

    parts = [
        make(rank, size, ranks=Part(rank, size), batch_size=6).count(model) for rank in range(size)
    ]

    assert torch.stack(parts).sum(0).equal(alone)
    assert all(part.sum() > 0 for part in parts)
    assert alone.sum() == 5 * 79 * 96, "all but the top rows"


def test_evaluation_leaves_a_net_in_training_as_it_was(make: Make) -> None:
    model = ByColour().train()

    make().evaluate(learner(model), lambda: None)

    assert model.training
    averaged = learner(model, ema_decay=0.9)
    make().evaluate(averaged, lambda: None)
    assert not averaged.best_model().training and model.training


def test_a_broken_photo_counts_nowhere_and_is_told(
    make: Make, segmentation_set: Make, log: RunLog
) -> None:
    images = segmentation_set(5)
    broken = replace(images, mask_sources=(*images.mask_sources[:4], b""))

    confusion = make(held_out=broken).count(ByColour())

    others = make(held_out=images.select(range(4))).count(ByColour())
    assert confusion.equal(others)
    assert (log.output / "quarantine.tsv").read_text().startswith("name\treason\nphotos/4.png\t")


def test_masks_without_any_label_are_refused(make: Make, segmentation_set: Make) -> None:
    unlabelled = replace(segmentation_set(5), ignored=frozenset(range(4)))

    with pytest.raises(ValueError, match="no pixel of the photos to judge by has a class"):
        make(held_out=unlabelled).evaluate(learner(ByColour()), lambda: None)


@pytest.mark.parametrize(
    ("height", "width", "fed"),
    [
        (80, 96, (80, 96)),
        (30, 50, (64, 107)),
        (64, 300, (64, 300)),
        (120, 400, (77, 256)),
        (400, 400, (256, 256)),
        (10, 400, (64, 2560)),
        (1, 1, (64, 64)),
    ],
)
def test_photos_are_labelled_at_their_own_size(
    height: int, width: int, fed: tuple[int, int]
) -> None:
    model, image = ByColour(), torch.zeros(3, height, width)
    image[0, :, : width // 2], image[2, :, width // 2 :] = 1, 1

    labels = label_photo(model, image, 300 if width == 300 else 256)

    assert model.sizes == [fed]
    assert labels.shape == (height, width)
    expected = torch.full((height, width), 2)
    expected[:, : width // 2] = 1
    assert (labels != expected).float().mean() < 0.02


def test_a_photo_larger_than_max_size_is_learned_as_it_will_be_labelled(
    make: Make, segmentation_set: Make
) -> None:
    task = make(scale=(1, 1), hflip=0, max_size=48, image_size=48, train=segmentation_set(8))

    [batch] = next(task.batches(0, 0))

    ground = (batch.masks == 255).float().mean(dim=(1, 2))
    assert ground.min() >= 8 / 48, "96 x 80 becomes 48 x 40, which does not fill the square"
    assert ground.max() < 0.2


def test_how_a_batch_is_shared_out_does_not_change_its_loss(make: Make) -> None:
    model = segmenter()
    nn.init.normal_(model.head.weight)
    task = make(scale=(0.3, 1.0))  # so that the number of labelled pixels differs
    [batch] = next(task.batches(0, 0))

    whole = task.loss(model, batch)
    parts = [
        task.loss(model, type(batch)(*(part[index : index + 1] for part in batch)))
        for index in range(4)
    ]

    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-5)
    labelled = (batch.masks != 255).float().mean()
    plain = torch.nn.functional.cross_entropy(model(batch.images), batch.masks, ignore_index=255)
    assert whole.item() == pytest.approx((plain * labelled).item(), rel=1e-5)


def test_a_segmenter_learns_from_one_photo_at_a_time(make: Make) -> None:
    model = segmenter()
    task = make(batch_size=1, scale=(1, 1))
    trained = Learner(model, torch.optim.AdamW(model.parameters(), lr=3e-3), clip_grad=10.0)

    losses = [
        trained.step(micro_batches, task.loss, rate=1.0).loss
        for epoch in range(3)
        for micro_batches in task.batches(epoch, 0)
    ]

    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])
    assert task.evaluate(trained, lambda: None)["pixel_accuracy"] > 50
