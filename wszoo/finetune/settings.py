"""What decides the outcome of a fine-tuning run, except the data."""

import math
from dataclasses import dataclass
from typing import Literal

from wszoo.training.engine import Precision

TaskName = Literal["classify", "detect", "segment"]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Settings of one run, written to its run.json.

    Attributes:
        task: What the net is to do.
        model: Backbone, as for ``timm.create_model``.
        head: Constructor in ``wszoo.detection`` or ``wszoo.segmentation``; ``"linear"`` for
            classifiers.
        pretrained: Whether the backbone starts from its published weights.
        epochs: Passes over the training photos.
        batch_size: Photos per optimizer step, over all ranks and accumulated passes.
        image_size: Classifiers: side of the square; detectors: of the short side at most;
            segmenters: of the square crop. In pixels.
        max_size: Of the long side at most, in pixels (detectors, and segmenters when they judge).
        trainable_stages: 0 to 5 from the top, as ``wszoo.load_backbone`` counts them.
        lr: Peak learning rate of AdamW, for this ``batch_size``.
        weight_decay: Of kernels and matrices; norms and biases are not decayed.
        warmup_steps: Over which the rate rises linearly, at most a fifth of the run; then half a
            cosine to zero.
        scale: Least and largest factor by which a photo is resized at random (detectors and
            segmenters) or share of its area that a crop covers (classifiers).
        hflip: Probability that left and right are swapped (detectors and segmenters; of a
            classifier's photos always every second).
        label_smoothing: Share of a target spread over all classes (classifiers).
        clip_grad: Bound on the length of the gradient.
        ema: Decay per step of the moving average of the weights; None keeps none.
        precision: Of activations.
        patience: Epochs without progress after which the run ends.
        allow_batch_norm: Take a backbone with BatchNorm, to compare with.
        seed: Of new layers, the order of the photos and their augmentation.
    """

    task: TaskName
    model: str
    head: str
    pretrained: bool = True
    epochs: int
    batch_size: int
    image_size: int
    max_size: int = 1333
    trainable_stages: int | None = None
    lr: float
    weight_decay: float = 0.02
    warmup_steps: int = 50
    scale: tuple[float, float]
    hflip: float = 0.5
    label_smoothing: float = 0.0
    clip_grad: float | None = 10.0
    ema: float | None = None
    precision: Precision = "fp32"
    patience: int | None = None
    allow_batch_norm: bool = False
    seed: int = 0

    def rate_at(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at ``step`` of ``steps``."""
        warmup = min(self.warmup_steps, steps // 5)
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return (1 + math.cos(math.pi * done)) / 2
