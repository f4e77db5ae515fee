"""The segmentation loss against loops and torch's own, and against strange targets."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wszoo.segmentation import segmentation_loss
from wszoo.segmentation.loss import dice_loss

K, VOID = 4, 255


def batch(size: int = 3) -> tuple[Tensor, Tensor]:
    logits = torch.randn(size, K, 6, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, K, (size, 6, 5))
    target[0, :2] = VOID
    return logits, target


def dice_by_hand(logits: Tensor, target: Tensor) -> float:
    losses = []
    for scores, labels in zip(logits.softmax(dim=1), target, strict=True):
        valid = labels != VOID
        for k in labels[valid].unique():
            share, truth = scores[k][valid], (labels[valid] == k).double()
            losses.append(1 - 2 * (share * truth).sum() / (share.sum() + truth.sum()))
    return float(torch.stack(losses).mean().detach())


def test_the_loss_is_the_mean_over_valid_pixels() -> None:
    logits, target = batch()

    ours = segmentation_loss(logits, target)

    torch.testing.assert_close(ours, F.cross_entropy(logits, target, ignore_index=VOID))


def test_pixels_of_heavier_classes_count_more_as_in_torch() -> None:
    logits, target = batch()
    weights = [1.0, 0.0, 2.5, 0.5]

    ours = segmentation_loss(logits, target, class_weights=weights)

    exact = torch.tensor(weights, dtype=torch.float64)
    theirs = F.cross_entropy(logits, target, exact, ignore_index=VOID)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(segmentation_loss(logits, target, class_weights=exact), theirs)


def test_dice_is_that_of_loops_over_images_and_present_classes() -> None:
    logits, target = batch()
    target[1] = 2

    assert dice_loss(logits, target).item() == pytest.approx(dice_by_hand(logits, target))
    both = segmentation_loss(logits, target, dice_weight=0.7)
    alone = segmentation_loss(logits, target)
    assert (both - alone).item() == pytest.approx(0.7 * dice_by_hand(logits, target))


def test_dice_of_a_perfect_prediction_is_nothing() -> None:
    _, target = batch()
    perfect = 100.0 * F.one_hot(target.where(target != VOID, 0), K).movedim(-1, 1)

    assert dice_loss(perfect, target).item() == pytest.approx(0, abs=1e-6)


def test_an_ignored_pixel_has_no_gradient_and_any_other_has() -> None:
    logits, target = batch()

    segmentation_loss(logits, target, dice_weight=1.0).backward()

    assert logits.grad is not None
    moved = logits.grad.abs().amax(dim=1) > 0
    assert torch.equal(moved, target != VOID)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0, 4.0]])
def test_a_batch_without_valid_pixels_has_no_loss_and_no_gradient(
    dtype: torch.dtype, weights: list[float] | None
) -> None:
    logits = torch.randn(2, K, 6, 5).to(dtype).requires_grad_()
    target = torch.full((2, 6, 5), VOID)

    loss = segmentation_loss(logits, target, class_weights=weights, dice_weight=1.0)
    loss.backward()

    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_micro_batches_with_a_common_normalizer_add_up_to_the_whole_batch() -> None:
    logits, target = batch(4)
    valid = (target != VOID).sum()

    whole = torch.autograd.grad(segmentation_loss(logits, target), logits)[0]
    parts = [
        torch.autograd.grad(segmentation_loss(x, y, normalizer=valid), x)[0]
        for x, y in zip(logits.split(1), target.split(1), strict=True)
    ]

    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_void_label_of_zero_can_be_ignored() -> None:
    logits, target = batch()
    target = target.where(target != VOID, 0)

    ours = segmentation_loss(logits, target, ignore_index=0)

    torch.testing.assert_close(ours, F.cross_entropy(logits, target, ignore_index=0))


def test_labels_may_be_bytes_and_half_precision_is_summed_in_float32() -> None:
    logits, target = batch()
    half = logits.detach().bfloat16()

    ours = segmentation_loss(half, target.to(torch.uint8))

    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, F.cross_entropy(half.float(), target, ignore_index=VOID))


@pytest.mark.parametrize("value", [K, -1, 254])
def test_a_label_beyond_the_classes_is_refused_by_image_and_value(value: int) -> None:
    logits, target = batch()
    target[2, 3, 1] = value

    with pytest.raises(ValueError, match=f"the target of image 2 of the batch holds {value}, but"):
        segmentation_loss(logits, target)
    with pytest.raises(ValueError, match=rf"4 classes, 0\.\.3; .* pass ignore_index={value} if"):
        segmentation_loss(logits, target)


def test_targets_of_another_shape_or_kind_are_refused() -> None:
    logits, target = batch()

    with pytest.raises(ValueError, match=r"target has shape \(3, 6, 4\), .* want \(3, 6, 5\)"):
        segmentation_loss(logits, target[..., :4])
    with pytest.raises(ValueError, match=r"target is torch.float32; give labels as integers"):
        segmentation_loss(logits, target.float())


def test_class_weights_must_be_one_per_class_and_finite() -> None:
    logits, target = batch()

    with pytest.raises(ValueError, match=r"class_weights has shape \(2,\), .* of 4 classes"):
        segmentation_loss(logits, target, class_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="finite and not negative, got -1"):
        segmentation_loss(logits, target, class_weights=[1.0, -1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="finite and not negative, got inf"):
        segmentation_loss(logits, target, class_weights=[1.0, float("inf"), 1.0, 1.0])
