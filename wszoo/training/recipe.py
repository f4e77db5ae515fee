"""Recipes: all that decides the outcome of a training run, except the data and the net."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import Muon, create_optimizer_v2
from torch import nn

from wszoo.training.engine import ClipMode, Precision

Schedule = Literal["linear", "cosine", "onecycle", "step"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train a classifier; a variation is a new named recipe, never a flag.

    Attributes:
        phases: ``(epochs, pixels)`` in turn: small images first, since they are cheap.
        batch_size: Images per optimizer step, over all ranks and accumulated passes.
        test_size: Pixels at which the result is evaluated.
        test_crop: Share of the side of a photo that evaluation crops at the centre.
        optimizer: ``"muon"`` (kernels take orthogonalized steps, all else AdamW's at ``head_lr``)
            or any name that ``timm.optim.create_optimizer_v2`` knows.
        lr: Peak learning rate.
        head_lr: Of the classifier, norm affines and biases, with Muon only.
        weight_decay: Applied to kernels and the classifier's matrix; with Muon to kernels only.
        decay_all: Decay norm affines and biases as well (not with Muon).
        momentum: Of SGD, LAMB and Muon.
        layer_decay: Factor of the learning rate from one layer group to the one below.
        schedule: How the rate falls. ``linear``: flat, then linearly to zero over the share
            ``decay`` of the run. ``cosine``: half a cosine to zero. ``onecycle``: up along half a
            cosine over the share ``1 - decay``, then down to zero along another. ``step``: times
            0.1 after each epoch in ``milestones``.
        milestones: See ``schedule``.
        warmup_steps: Over which the rate rises linearly to its peak (not with ``onecycle``).
        warmup_epochs: Instead of ``warmup_steps``, in epochs.
        decay: See ``schedule``.
        crop_scale: Least and largest share of a photo's area that a crop covers.
        auto_augment: timm's string, such as ``"rand-m9-mstd0.5-inc1"``.
        color_jitter: Strength of brightness, contrast and saturation changes.
        erasing: Probability that a part of an image is erased.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none. With both, one is drawn for each image.
        mix_prob: Probability that an image is mixed at all.
        label_smoothing: Share of the target spread over all classes.
        bce: Binary cross-entropy instead of softmax cross-entropy.
        distill: Name of a timm model with weights for the same classes, whose answers are learned.
        distill_weight: Share of its answers in the loss.
        distill_temperature: At which they are softened.
        linear_probe: Train the classifier alone, on frozen features.
        start_tag: Tag of the weights of the same net to begin with; None begins anew.
        drop_path: Probability at the last block that a block is skipped.
        ema: Decay per step of the moving average of the weights; None keeps none.
        clip_grad: Bound on the gradient.
        clip_mode: Of its length, of each value, or by timm's adaptive rule (AGC).
        precision: Of activations.
        stored_pixels: Decode the set once into memory at this size; None reads the files anew.
        held_out_per_class: Training photos kept to choose by; 0 evaluates on the val split.
        patience: Epochs without progress after which the run ends.
        seed: Of the initial weights, the order of the photos, and their crops.
    """

    phases: tuple[tuple[int, int], ...]
    batch_size: int
    test_size: int
    test_crop: float = 1.0
    optimizer: str = "muon"
    lr: float
    head_lr: float = 0.0
    weight_decay: float
    decay_all: bool = False
    momentum: float = 0.95
    layer_decay: float | None = None
    schedule: Schedule = "linear"
    milestones: tuple[int, ...] = ()
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    decay: float = 0.45
    crop_scale: tuple[float, float] = (0.35, 1.0)
    auto_augment: str | None = None
    color_jitter: float | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    label_smoothing: float = 0.1
    bce: bool = False
    distill: str | None = None
    distill_weight: float = 0.5
    distill_temperature: float = 1.0
    linear_probe: bool = False
    start_tag: str | None = None
    drop_path: float = 0.0
    ema: float | None = None
    clip_grad: float | None = None
    clip_mode: ClipMode = "norm"
    precision: Precision = "bf16"
    stored_pixels: int | None = None
    held_out_per_class: int = 0
    patience: int | None = None
    seed: int = 0

    @property
    def epochs(self) -> int:
        return sum(epochs for epochs, _ in self.phases)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0

    def size_at(self, epoch: int) -> int:
        """Pixels of the training images in ``epoch``."""
        end = 0
        for epochs, size in self.phases:
            end += epochs
            if epoch < end:
                return size
        raise ValueError(f"the recipe has {self.epochs} epochs, there is no epoch {epoch}")

    def rate_at(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at ``step`` of ``steps``."""
        warmup = self.warmup_steps or round(self.warmup_epochs * steps / self.epochs)
        if self.schedule == "onecycle":
            return _one_cycle(step / steps, 1 - self.decay)
        rising = (step + 1) / warmup if warmup else 1.0
        if self.schedule == "linear":
            return min(1.0, rising, (steps - step) / (steps * self.decay))
        done = max(0.0, (step - warmup) / max(1, steps - warmup))
        if self.schedule == "cosine":
            return min(rising, (1 + math.cos(math.pi * done)) / 2)
        falls = sum(step * self.epochs >= steps * epoch for epoch in self.milestones)
        return min(rising, 0.1**falls)


def _one_cycle(done: float, top: float) -> float:
    share = done / top if done < top else (1 - done) / (1 - top)
    return (1 - math.cos(math.pi * share)) / 2


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer that ``recipe`` names, over the parameters that are trained.

    Raises:
        ValueError: timm knows no such optimizer, or Muon is to decay by layers.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer != "muon":
        more: dict[str, Any] = {"layer_decay": recipe.layer_decay}
        return create_optimizer_v2(
            model,
            opt=recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            filter_bias_and_bn=not recipe.decay_all,
            **more,
        )
    if recipe.layer_decay is not None:
        raise ValueError("muon takes no layer_decay; choose another optimizer or leave it out")
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in trained if p.ndim == 4],
            "lr": recipe.lr,
            "weight_decay": recipe.weight_decay,
        },
        {
            "params": [p for p in trained if p.ndim != 4],
            "lr": recipe.head_lr,
            "weight_decay": 0.0,
            "use_fallback": True,
        },
    ]
    return Muon(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=True,
    )
