"""Confirming converted weights: what a person with ImageNet has to run once for each of them."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file

from wszoo.conversion import convert_file
from wszoo.datasets import read_labelled_images
from wszoo.evaluate import evaluate, targets_for
from wszoo.files import sha256_of
from wszoo.origin import cache_root, check_converted, converted, original_of, read_provenance
from wszoo.weights import PUBLISHED, Weights

TOLERANCE = 0.1  # points of top-1
MEASURED = "ImageNet val (measured)"  # in ``Weights.metrics``, where no figure was published
PHOTOS = 50_000  # of ImageNet's validation set, which the published figures are of


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What the real file turned out to be.

    Attributes:
        name: ``model.tag``.
        url: Where the original was fetched from.
        original_sha256: Digest of the original.
        sha256: Digest of the converted file.
        proof_passed: It computes what an independent forward of the source's formula does.
        top1: Percent, measured.
        standard_error: Of ``top1``.
        published_top1: Percent, as the authors say; None where they say nothing.
        photos: Measured on so many.
    """

    name: str
    url: str
    original_sha256: str
    sha256: str
    proof_passed: bool
    top1: float
    standard_error: float
    published_top1: float | None
    photos: int

    @property
    def passed(self) -> bool:
        if self.published_top1 is None:
            return self.proof_passed
        return self.proof_passed and abs(self.top1 - self.published_top1) <= TOLERANCE + 1e-9

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the verdict."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        lines = [
            f"{self.name}, converted from {self.url} (sha256 {self.original_sha256})",
            f"proof: {'passed' if self.proof_passed else 'FAILED'}",
            f"top-1 {self.top1:.2f} % ± {self.standard_error:.2f} of {self.photos} photos, "
            + self._compared(),
        ]
        if not self.passed:
            return "\n".join([*lines, "not confirmed: this is not the published net"])
        commit = f'sha256="{self.sha256}" and checked=True'
        if self.published_top1 is None:
            commit += f' and metrics={{"{MEASURED}": {{"top1": {self.top1:.2f}}}}}'
        return "\n".join(
            [*lines, f"confirmed; to commit, in wszoo/weights_table.py, for {self.name}: {commit}"]
        )

    def _compared(self) -> str:
        if self.published_top1 is None:
            return "measured here; none was published: see whether a trained net would have it"
        return f"published {self.published_top1:.2f} %, {TOLERANCE} points may lie between them"


def confirm(
    weights: Weights,
    data: Path,
    *,
    batch_size: int = 64,
    accept_unverified: bool = False,
    progress: Callable[[Any], Any] = lambda batches: batches,
) -> Confirmation:
    """Convert the real original, prove the conversion, and measure it on ImageNet.

    Args:
        weights: A record with an origin; without a published accuracy the measured one is told.
        data: ImageNet's validation set in class folders.
        batch_size: Photos per forward pass.
        accept_unverified: As for ``wszoo.weights.locate``.
        progress: Wraps the list of batches, as ``tqdm`` does.

    Raises:
        ValueError: ``data`` is another set, or a file is not what it must be.
        ConnectionError: The original cannot be fetched.
    """
    published = weights.metrics.get(PUBLISHED, {}).get("top1")
    images = read_labelled_images(data, None, default="val")
    targets = targets_for(images, weights, weights.num_classes)
    if len(images) != PHOTOS or len(images.classes) != weights.num_classes:
        raise ValueError(
            f"{data} holds {len(images)} photos of {len(images.classes)} classes; figures "
            f"are of the {PHOTOS} of {weights.num_classes} of ImageNet's validation set"
        )
    path = converted(weights, cache_root(), accept_unverified=accept_unverified)
    check_converted(path, weights, accept_unverified=accept_unverified)
    original = original_of(weights, cache_root(), accept_unverified=accept_unverified)
    stated = read_provenance(path.parent)
    if stated is None or stated.original_sha256 != original.sha256:
        raise ValueError(f"{path} was not made from {original.path}; delete it and try again")
    proof_passed = _prove(weights, original.path, original.file.source, path)
    model = timm.create_model(
        weights.name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    )
    result = evaluate(model, images, targets, batch_size=batch_size, progress=progress)
    return Confirmation(
        name=weights.name,
        url=original.file.url,
        original_sha256=original.sha256,
        sha256=sha256_of(path),
        proof_passed=proof_passed,
        top1=round(result.top1, 3),
        standard_error=result.standard_error,
        published_top1=published,
        photos=result.count,
    )


def _prove(weights: Weights, original: Path, source: str, path: Path) -> bool:
    """Whether the report of ``wszoo convert`` holds, and holds for the file in the cache."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "proof"
        report = convert_file(original, folder, model=weights.model, source=source)
        if not report.passed:
            return False
        proved, ours = load_file(folder / path.name), load_file(path)
    return proved.keys() == ours.keys() and all(torch.equal(proved[k], ours[k]) for k in ours)
