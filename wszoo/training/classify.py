"""Classification as a task of the loop: its batches, its loss and its figures."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, Protocol

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from wszoo.training.augment import ERASING_DRAWS, random_erasing
from wszoo.training.batches import BatchPlan, rank_chunks, steps_per_epoch
from wszoo.training.distributed import Ranks
from wszoo.training.engine import Learner
from wszoo.training.mixing import (
    Mixing,
    binary_cross_entropy,
    draw_mixing,
    mix,
    soft_cross_entropy,
    soft_targets,
)
from wszoo.training.recipe import Recipe
from wszoo.training.sampler import Purpose, sample_uniforms

EVAL_BATCH = 250
UNREADABLE = -1  # target of a photo that could not be read: no answer is right


class Photos(NamedTuple):
    """A micro-batch, normalised, on the device.

    Attributes:
        images: ``(N, 3, H, W)``.
        targets: ``(N,)``, or ``(N, classes)`` where they are soft.
    """

    images: Tensor
    targets: Tensor


class Request(NamedTuple):
    """Photos to load for one micro-batch of an epoch.

    Attributes:
        epoch: Together with the index it decides on the crop.
        indices: ``(N,)`` of the training photos.
        mixing: The photos to mix them with, and how; None where nothing is mixed.
        size: Pixels.
    """

    epoch: int
    indices: np.ndarray
    mixing: Mixing | None
    size: int


class Loaded(NamedTuple):
    """What a source made of a request: augmented photos, not normalised, and their partners."""

    request: Request
    photos: Photos
    partners: Photos | None


class Source(Protocol):
    """Where photos come from; 0 to 255, not normalised, on the device.

    Attributes:
        num_classes: Of the set.
        held_out_count: Photos to evaluate on.
        digest: Changes with the photos' names, order and classes.
    """

    num_classes: int
    held_out_count: int
    digest: str

    def __len__(self) -> int:
        """Training photos."""

    def load(self, requests: Iterator[Request]) -> Iterator[Loaded]:
        """Augmented photos, ``(N, 3, size, size)``, for each request in turn."""

    def names(self, indices: np.ndarray) -> list[str]:
        """Paths of training photos."""

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The training photos in the order of ``epoch``."""

    def stretches(self) -> np.ndarray:
        """First training photo of each part that is fetched as one, ascending from 0."""

    def held_out(self, chunks: Sequence[range], size: int, crop: float) -> Iterator[Photos]:
        """Photos to evaluate on, not normalised, by chunks of their numbers."""

    def close(self) -> None:
        """End what the source has started."""


def digest_of(names: Iterable[str], targets: Iterable[int]) -> str:
    """Of file names, wherever the set lies, and of their classes."""
    digest = hashlib.sha256()
    for name, target in zip(names, targets, strict=True):
        digest.update(f"{PurePath(name).name}\t{target}\n".encode())
    return digest.hexdigest()[:16]


class Classification:
    """Trains a classifier by a recipe; see ``wszoo.training.run.Task``."""

    judged_by = "held_out_top1"

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        plan: BatchPlan,
        ranks: Ranks,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        channels_last: bool = False,
    ) -> None:
        self.source, self.recipe, self.plan, self.ranks = source, recipe, plan, ranks
        self.batch_size = plan.batch_size
        self.steps_per_epoch = steps_per_epoch(len(source), plan.batch_size)
        self._mean = torch.tensor(mean, device=ranks.device).view(3, 1, 1) * 255
        self._std = torch.tensor(std, device=ranks.device).view(3, 1, 1) * 255
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._stretches = source.stretches()
        self._teacher = _load_teacher(recipe, source.num_classes, (mean, std), ranks.device)

    def batches(self, epoch: int, first_step: int) -> Iterator[list[Photos]]:
        """This rank's micro-batches of each step of ``epoch`` from ``first_step`` on."""
        order = self.source.order(self.recipe.seed, epoch)
        loaded = self.source.load(self._requests(epoch, order, first_step))
        for _ in range(first_step, self.steps_per_epoch):
            yield [self._finish(next(loaded)) for _ in range(self.plan.accumulation_steps)]

    def _requests(self, epoch: int, order: np.ndarray, first_step: int) -> Iterator[Request]:
        for step in range(first_step, self.steps_per_epoch):
            for indices in self.plan.shares(self._chosen(order, step), self.ranks.rank):
                mixing = self._draw_mixing(epoch, indices)
                yield Request(epoch, indices, mixing, self.recipe.size_at(epoch))

    def _chosen(self, order: np.ndarray, step: int) -> np.ndarray:
        return order[step * self.batch_size :][: self.batch_size]

    def _draw_mixing(self, epoch: int, indices: np.ndarray) -> Mixing | None:
        recipe = self.recipe
        if not recipe.mixes:
            return None
        return draw_mixing(
            recipe.seed,
            epoch,
            indices,
            len(self.source),
            stretches=self._stretches,
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            prob=recipe.mix_prob,
            switch_prob=0.5,
        )

    def _finish(self, loaded: Loaded) -> Photos:
        """Normalise, erase and mix."""
        request, (images, targets), _ = loaded
        images = self._erased(self._normalised(images), request, request.indices)
        mixing = request.mixing
        if mixing is not None and loaded.partners is not None:
            partners = self._normalised(loaded.partners.images)
            images = mix(images, self._erased(partners, request, mixing.partner), mixing)
            targets = soft_targets(
                targets,
                loaded.partners.targets,
                torch.as_tensor(mixing.lam, dtype=torch.float32, device=images.device),
                self.source.num_classes,
                self.recipe.label_smoothing,
            )
        return Photos(images, targets)

    def _erased(self, images: Tensor, request: Request, indices: np.ndarray) -> Tensor:
        recipe = self.recipe
        if not recipe.erasing:
            return images
        draws = sample_uniforms(recipe.seed, request.epoch, indices, ERASING_DRAWS, Purpose.ERASE)
        return random_erasing(images, torch.from_numpy(draws), prob=recipe.erasing)

    def _normalised(self, images: Tensor) -> Tensor:
        return ((images - self._mean) / self._std).contiguous(memory_format=self._layout)

    def loss(self, model: nn.Module, batch: Photos) -> Tensor:
        """Mean loss of a micro-batch."""
        recipe = self.recipe
        logits = model(batch.images).float()
        if batch.targets.ndim == 1 and not recipe.bce:
            loss = F.cross_entropy(logits, batch.targets, label_smoothing=recipe.label_smoothing)
        else:
            soft = self._soft(batch.targets, logits.shape[1])
            loss = (binary_cross_entropy if recipe.bce else soft_cross_entropy)(logits, soft)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            answers = self._teacher(batch.images).float()
        heat = recipe.distill_temperature
        wanted, given = (answers / heat).log_softmax(1), (logits / heat).log_softmax(1)
        taught = F.kl_div(given, wanted, reduction="batchmean", log_target=True) * heat**2
        return (1 - recipe.distill_weight) * loss + recipe.distill_weight * taught

    def _soft(self, targets: Tensor, classes: int) -> Tensor:
        if targets.ndim == 2:
            return targets
        ones = torch.ones(len(targets), device=targets.device)
        return soft_targets(targets, targets, ones, classes, self.recipe.label_smoothing)

    @torch.no_grad()
    def evaluate(self, learner: Learner, pause: Callable[[], None]) -> dict[str, float]:
        """Top-1 and top-5 in percent, and the loss, over the photos kept to choose by."""
        recipe, ranks, source = self.recipe, self.ranks, self.source
        model = learner.best_model()
        model.eval()
        chunks = rank_chunks(source.held_out_count, EVAL_BATCH, ranks.rank, ranks.size)
        sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)
        loaded = source.held_out(chunks, recipe.test_size, recipe.test_crop)
        for _ in rank_chunks(source.held_out_count, EVAL_BATCH, 0, ranks.size):
            pause()  # rank 0 has the most chunks: all ranks pause as often as it does
            if (photos := next(loaded, None)) is not None:
                sums += _tally(model, learner, self._normalised(photos.images), photos.targets)
        model.train(model is learner.model)
        top1, top5, loss = (ranks.sum(sums) / source.held_out_count).tolist()
        return {
            "held_out_top1": 100 * top1,
            "held_out_top5": 100 * top5,
            "held_out_loss": loss,
        }

    def facts(self, epoch: int) -> dict[str, Any]:
        """The size of the images."""
        return {"pixels": self.recipe.size_at(epoch)}

    def names(self, epoch: int, step: int) -> list[str]:
        """The photos in step ``step`` of ``epoch``, over all ranks."""
        order = self.source.order(self.recipe.seed, epoch)
        return self.source.names(self._chosen(order, step))

    def close(self) -> None:
        """End the processes that read."""
        self.source.close()


def _tally(model: nn.Module, learner: Learner, images: Tensor, targets: Tensor) -> Tensor:
    """How many are right, how many among the first five, and the sum of the losses."""
    with learner.autocast():
        logits = model(images)
    logits = logits.float()
    hits = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
    loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=UNREADABLE)
    return torch.stack([hits[:, 0].sum(), hits.sum(), loss]).double()


def _load_teacher(
    recipe: Recipe,
    num_classes: int,
    normalisation: tuple[Sequence[float], Sequence[float]],
    device: torch.device,
) -> nn.Module | None:
    """The net whose answers are learned.

    Raises:
        ValueError: It rates other classes, or sees photos with another mean or deviation.
    """
    if recipe.distill is None:
        return None
    teacher: nn.Module = timm.create_model(recipe.distill, pretrained=True)
    if teacher.num_classes != num_classes:
        raise ValueError(
            f"the teacher {recipe.distill} has {teacher.num_classes} classes, the data has "
            f"{num_classes}; choose one that was trained on them"
        )
    cfg = resolve_model_data_config(teacher)
    if (tuple(cfg["mean"]), tuple(cfg["std"])) != tuple(map(tuple, normalisation)):
        raise ValueError(
            f"the teacher {recipe.distill} takes photos with mean {cfg['mean']} and deviation "
            f"{cfg['std']}, the student with {normalisation[0]} and {normalisation[1]}; choose "
            f"another teacher"
        )
    return teacher.eval().requires_grad_(False).to(device)
