"""Recipes: all that decides the outcome of a pretraining run, except the data."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train a classifier; a variation is a new named recipe, never a flag.

    Attributes:
        phases: ``(epochs, pixels)`` in turn: small images first, since they are cheap.
        batch_size: Images per optimizer step.
        lr: Peak learning rate of the kernels, which take orthogonalized steps (Muon).
        head_lr: Peak learning rate of the classifier, the norm affines and the biases (AdamW).
        warmup_steps: Over which the rate rises to its peak.
        decay: Share of the run at its end over which the rate falls linearly to zero.
        weight_decay: Applied to kernels only.
        crop_scale: Least and largest share of a photo's area that a crop covers.
        label_smoothing: Share of the target spread over all classes.
        test_size: Pixels at which the result is evaluated and published.
        seed: Of the initial weights, the order of the photos, and their crops.
    """

    phases: tuple[tuple[int, int], ...]
    batch_size: int
    lr: float
    head_lr: float
    test_size: int
    weight_decay: float
    momentum: float = 0.95
    warmup_steps: int = 74
    decay: float = 0.45
    crop_scale: tuple[float, float] = (0.35, 1.0)
    label_smoothing: float = 0.1
    seed: int = 0

    @property
    def epochs(self) -> int:
        return sum(epochs for epochs, _ in self.phases)

    def rate_at(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at ``step`` of ``steps``."""
        rising, falling = (step + 1) / self.warmup_steps, (steps - step) / (steps * self.decay)
        return min(1.0, rising, falling)

    def size_at(self, epoch: int) -> int:
        """Pixels of the training images in ``epoch``."""
        end = 0
        for epochs, size in self.phases:
            end += epochs
            if epoch < end:
                return size
        raise ValueError(f"the recipe has {self.epochs} epochs, there is no epoch {epoch}")


# Muon, for it learned more per photo than SGD in a short trial that is not kept here. The rate
# stays flat for long, so that a run can be prolonged.
E6_TIN200 = Recipe(
    phases=((4, 64), (2, 80)),
    batch_size=256,
    lr=0.02,
    head_lr=2e-3,
    weight_decay=0.04,
    test_size=112,
)

E14_TIN200 = replace(E6_TIN200, phases=((10, 64), (4, 80)))

# Enough for the test net, which has 0.3 million parameters in its body.
E3_TIN200 = replace(E6_TIN200, phases=((3, 64),), test_size=64)

RECIPES: dict[str, Recipe] = {
    "e3_tin200": E3_TIN200,
    "e6_tin200": E6_TIN200,
    "e14_tin200": E14_TIN200,
    "smoke": replace(E6_TIN200, phases=((1, 32), (1, 40)), batch_size=8, test_size=32),
}
