"""Recipes: all that decides the outcome of a pretraining run, except the data."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train a classifier; a variation is a new named recipe, never a flag.

    Attributes:
        phases: ``(epochs, pixels)`` in turn: small images first, since they are cheap.
        batch_size: Images per optimizer step.
        optimizer: ``"muon"`` (orthogonalized steps for kernels, AdamW for the rest) or ``"sgd"``
            (Nesterov momentum).
        lr: Peak learning rate of the kernels.
        head_lr: Peak learning rate of the classifier, the norm affines and the biases.
        warmup: Share of the run over which the rate rises; it then falls linearly to zero.
        weight_decay: Applied to kernels only.
        crop_scale: Least and largest share of a photo's area that a crop covers.
        label_smoothing: Share of the target spread over all classes.
        test_size: Pixels at which the result is evaluated and published.
        seed: Of the initial weights, the order of the photos, and their crops.
    """

    phases: tuple[tuple[int, int], ...]
    batch_size: int
    optimizer: str
    lr: float
    head_lr: float
    test_size: int
    weight_decay: float
    momentum: float = 0.95
    warmup: float = 0.1
    crop_scale: tuple[float, float] = (0.35, 1.0)
    label_smoothing: float = 0.1
    seed: int = 0

    @property
    def epochs(self) -> int:
        return sum(epochs for epochs, _ in self.phases)

    def size_at(self, epoch: int) -> int:
        """Pixels of the training images in ``epoch``."""
        for epochs, size in self.phases:
            if epoch < epochs:
                return size
            epoch -= epochs
        raise ValueError(f"the recipe has {self.epochs} epochs, there is no epoch {epoch}")


CPU_TIN200 = Recipe(
    phases=((5, 64), (4, 80), (3, 96)),
    batch_size=256,
    optimizer="muon",
    lr=0.02,
    head_lr=2e-3,
    weight_decay=0.05,
    test_size=128,
)

RECIPES: dict[str, Recipe] = {
    "cpu_tin200": CPU_TIN200,
    "smoke": replace(CPU_TIN200, phases=((1, 32), (1, 40)), batch_size=8, test_size=32),
    "x_muon": replace(CPU_TIN200, phases=((3, 48),), test_size=64),
    "x_muon_hi": replace(CPU_TIN200, phases=((3, 48),), test_size=64, lr=.04),
    "x_sgd": replace(CPU_TIN200, phases=((3, 48),), test_size=64, optimizer="sgd", lr=0.2, head_lr=.2, momentum=.9, weight_decay=5e-4),
}
