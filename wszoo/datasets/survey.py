"""What a look at every file of a set has shown: findings, and figures for each split."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wszoo.datasets.classification import SPLITS
from wszoo.datasets.findings import Finding, Level

ALL = "all"  # the one split of a set without splits
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
Unit = Literal["images", "objects", "pixels"]


@dataclass(frozen=True, kw_only=True)
class SplitSurvey:
    """Figures of one split.

    Attributes:
        split: ``"train"``, ``"val"`` or ``"test"``; ``"all"`` of a set without splits.
        images: How many there are.
        per_class: Images, objects or pixels of each class.
        sizes: ``(N, 2)`` width and height in pixels of each upright image that can be decoded.
        box_sizes: Of each object, the square root of its share of the image's area.
        objects: How many there are in each image.
    """

    split: str
    images: int
    per_class: dict[str, int]
    sizes: np.ndarray
    box_sizes: tuple[float, ...] = ()
    objects: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data, with the least, median and largest sizes instead of all."""
        quantiles = np.quantile(self.sizes, [0, 0.5, 1], axis=0).tolist() if len(self.sizes) else []
        return {
            "split": self.split,
            "images": self.images,
            **({"objects": sum(self.objects)} if self.objects else {}),
            "per_class": self.per_class,
            "width_height": dict(zip(("least", "median", "most"), quantiles, strict=False)),
        }

    def summary(self, unit: Unit) -> str:
        """One line; ``unit`` is what ``per_class`` counts."""
        parts = [f"{self.split}: {self.images} images"]
        if self.objects:
            parts.append(f"{sum(self.objects)} objects")
        if total := sum(self.per_class.values()):
            least = min(self.per_class, key=self.per_class.__getitem__)
            most = max(self.per_class, key=self.per_class.__getitem__)
            low, high = (
                f"{self.per_class[name] / total:.2%}" if unit == "pixels" else self.per_class[name]
                for name in (least, most)
            )
            span = low if low == high else f"{low} ({least}) to {high} ({most})"
            parts.append(f"{len(self.per_class)} classes of {span} {unit}")
        if len(self.sizes):
            spans = [
                str(low) if low == high else f"{low}-{high}"
                for low, high in zip(self.sizes.min(axis=0), self.sizes.max(axis=0), strict=True)
            ]
            parts.append(f"{' x '.join(spans)} pixels each")
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All that was found.

    Attributes:
        unit: What is counted per class.
        classes: Their names.
        splits: Figures of each split.
        findings: What is wrong, errors first.
    """

    unit: Unit
    classes: tuple[str, ...]
    splits: tuple[SplitSurvey, ...]
    findings: tuple[Finding, ...]


def by_level(findings: list[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def in_order(splits: Iterable[str]) -> list[str]:
    """Names of splits, each once: train, val, test and what is none."""
    return sorted(set(splits), key=[*SPLITS, ALL].index)


def sizes_array(sizes: list[tuple[int, int]]) -> np.ndarray:
    """``(N, 2)`` also where there are none."""
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)
