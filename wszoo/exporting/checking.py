"""Whether an exported file gives what the net gives in torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.exporting.formats import Runner
from wszoo.exporting.plan import Plan
from wszoo.exporting.subject import Subject

_DEEP = 60  # convolutions; nets of 101 layers have more
_TOLERANCE, _TOLERANCE_DEEP = 5e-5, 3e-4  # relative, of single precision
_MASK_TOLERANCE = 1e-3  # of probabilities, which are resampled at the borders of boxes
_LONGER = ((0, 0), (33, 6), (32, 64))  # pixels added to height and width, odd and even


class CheckFailed(ValueError):  # noqa: N818  it is the outcome of a check
    """The file does not give what torch gives."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """How far a file is from torch.

    Attributes:
        shapes: Of the batches that both were run on, ``(N, C, H, W)``.
        error: Largest difference over the largest value (logits); of detectors that of boxes in
            shares of the image's longer side, and of scores.
        tolerance: What it may be.
        objects: That a detector found, over all images.
    """

    shapes: tuple[tuple[int, ...], ...]
    error: float
    tolerance: float
    objects: int | None = None

    def __str__(self) -> str:
        found = "" if self.objects is None else f", {self.objects} objects"
        batches = f"{len(self.shapes)} batch{'es' * (len(self.shapes) > 1)}"
        return (
            f"differs from torch by {self.error:.1e} (relative, up to {self.tolerance:.0e} passes) "
            f"on {batches}{found}"
        )


def check_batches(
    subject: Subject, plan: Plan, size: tuple[int, int], photos: Sequence[Tensor] = ()
) -> list[Tensor]:
    """What to run both on: noise, fine and coarse, and photos resized to the file's size.

    Returns:
        Batches ``(N, C, H, W)`` as the file takes them; of a file that is free in batch and size,
        one to three images of three sizes.
    """
    random = torch.Generator().manual_seed(0)
    height, width = size
    sizes = [(height + h, width + w) if plan.dynamic else size for h, w in _LONGER]
    batches = []
    for number, (h, w) in enumerate(sizes, start=1):
        count = number if plan.dynamic else 1
        noise = torch.rand(count, len(subject.mean), h, w, generator=random)
        if number > 1:  # coarse: something for a detector to see
            noise = F.interpolate(noise[:, :, : h // 8, : w // 8], (h, w), mode="bilinear")
        batches.append(noise)
    batches += [
        F.interpolate(photo[None], size, mode="bilinear", antialias=True).clamp(0, 1)
        for photo in photos
    ]
    if plan.preprocessing:
        return batches
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (subject.mean, subject.std))
    return [(batch - mean) / std for batch in batches]


@torch.inference_mode()
def check(reference: nn.Module, run: Runner, subject: Subject, batches: Sequence[Tensor]) -> Check:
    """Run a file beside the net, standardized as it was trained.

    Args:
        reference: The net with the inputs and outputs of the file, unfolded.
        run: The file.
        subject: What was exported.
        batches: For both.

    Raises:
        CheckFailed: They disagree, the file does not run, or a detector found nothing at all.
    """
    convolutions = sum(isinstance(module, nn.Conv2d) for module in subject.net.modules())
    tolerance = _TOLERANCE_DEEP if convolutions > _DEEP else _TOLERANCE
    errors, objects = [], 0
    for batch in batches:
        expected = reference(batch)
        expected = expected if isinstance(expected, tuple) else (expected,)
        where = f"on a batch of shape {tuple(batch.shape)}"
        try:
            found = run(batch)
        except Exception as error:  # onnxruntime's and those of guards have no common base
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckFailed(f"the file does not run {where}: {reason}") from error
        if subject.task == "detect":
            errors.append(_object_error(expected, found, max(batch.shape[-2:]), where))
            objects += len(expected[0])
        else:
            errors.append(_relative_error(expected[0], found[0], where))
        if not errors[-1] <= tolerance:
            raise CheckFailed(
                f"the file differs from torch by {errors[-1]:.1e} {where}, "
                f"more than {tolerance:.0e}; nothing was written"
            )
    if subject.task == "detect" and not objects:
        raise CheckFailed(
            "the detector finds nothing in the images of the check, which so proves nothing; "
            "name a photo with --photo in which there is something to find"
        )
    return Check(
        shapes=tuple(tuple(batch.shape) for batch in batches),
        error=max(errors),
        tolerance=tolerance,
        objects=objects if subject.task == "detect" else None,
    )


def _relative_error(expected: Tensor, found: Tensor, where: str) -> float:
    if expected.shape != found.shape:
        raise CheckFailed(
            f"the file gives shape {tuple(found.shape)} {where}, torch {tuple(expected.shape)}; "
            f"nothing was written"
        )
    return float((expected - found).abs().max() / expected.abs().max())


def _object_error(
    expected: tuple[Tensor, ...], found: tuple[Tensor, ...], side: int, where: str
) -> float:
    """Of pairs of objects, which near ties may bring in another order."""
    count = len(expected[0])
    if len(found[0]) != count:
        raise CheckFailed(
            f"the file finds {len(found[0])} objects {where}, torch {count}; nothing was written"
        )
    if not count:
        return 0.0
    (boxes, scores, labels, *masks), (their_boxes, their_scores, their_labels, *others) = (
        expected,
        found,
    )
    distance = (boxes[:, None] - their_boxes[None]).abs().amax(-1) / side
    distance = distance.maximum((scores[:, None] - their_scores[None]).abs())
    distance = distance.masked_fill(labels[:, None] != their_labels[None], float("inf"))
    nearest, partner = distance.min(dim=1)
    if len(partner.unique()) != count:
        raise CheckFailed(f"the file finds other objects {where} than torch; nothing was written")
    for mine, theirs in zip(masks, others, strict=True):
        if (error := float((mine - theirs[partner]).abs().max())) > _MASK_TOLERANCE:
            raise CheckFailed(
                f"the masks of the file differ from torch's by {error:.1e} {where}, "
                f"more than {_MASK_TOLERANCE:.0e}; nothing was written"
            )
    return float(nearest.max())
