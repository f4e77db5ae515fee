from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import cutmix_bbox_and_lam, mixup_target
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor

from wszoo.training.mixing import (
    Mixing,
    binary_cross_entropy,
    draw_mixing,
    mix,
    soft_cross_entropy,
    soft_targets,
)

MANY = np.arange(10_000)


def drawn(
    indices: np.ndarray = MANY,
    length: int = 10_000,
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
) -> Mixing:
    return draw_mixing(
        3,
        5,
        indices,
        length,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        prob=prob,
        switch_prob=switch_prob,
    )


def is_cutmix(mixing: Mixing) -> np.ndarray:
    return np.asarray(mixing.box[:, 2] > mixing.box[:, 0])


def by_hand(lam: list[float], box: list[list[float]]) -> Mixing:
    partner = np.zeros(len(lam), np.int64)
    return Mixing(partner, np.array(lam, np.float32), np.array(box, np.float32).reshape(-1, 4))


def test_the_mixing_of_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    whole = drawn()
    order = np.random.default_rng(0).permutation(10_000)[:300]

    for indices in (order, order[:7], order[:1]):
        for part, all_of_it in zip(drawn(indices), whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[indices])


def test_the_mixing_of_an_image_stays_the_same_from_release_to_release() -> None:
    mixing = drawn(np.array([7, 8]), length=20_000)

    assert mixing.partner.tolist() == [19813, 6934]
    np.testing.assert_allclose(mixing.lam, [0.6773456, 0.5673531], rtol=1e-6)


def test_partners_are_drawn_from_the_whole_data_set_and_are_never_the_image_itself() -> None:
    indices = np.arange(500)

    partner = drawn(indices, length=20_000).partner

    assert partner.dtype == np.int64
    assert (partner != indices).all()
    quarters = np.bincount(partner // 5000, minlength=4) / 500
    np.testing.assert_allclose(quarters, 0.25, atol=0.06)
    two = drawn(np.array([0, 1] * 20), length=2).partner
    np.testing.assert_array_equal(two, [1, 0] * 20)


def test_partners_of_a_set_in_parts_come_from_the_part_of_the_image() -> None:
    stretches, indices = np.array([0, 3, 4, 9]), np.arange(12)
    chances: Any = dict(mixup_alpha=0.8, cutmix_alpha=1.0, stretches=stretches)

    partner = np.concatenate([draw_mixing(e, 5, indices, 12, **chances).partner for e in range(99)])

    indices = np.tile(indices, 99)
    part, its_own = (np.searchsorted(stretches, each, "right") for each in (partner, indices))
    np.testing.assert_array_equal(part, its_own)
    alone = indices == 3  # in a part with no other image
    assert (partner[alone] == 3).all() and (partner[~alone] != indices[~alone]).all()
    assert len(set(zip(indices.tolist(), partner.tolist(), strict=True))) == 6 + 1 + 20 + 6


def test_a_data_set_of_one_image_mixes_it_with_itself() -> None:
    assert drawn(np.zeros(5, np.int64), length=1).partner.tolist() == [0] * 5


def test_an_image_that_is_not_mixed_is_its_own_partner() -> None:
    mixing = drawn(prob=0.3)

    apart = mixing.partner == MANY
    assert apart.mean() == pytest.approx(0.7, abs=0.02)
    assert (mixing.lam[apart] == 1).all()
    assert (mixing.lam[~apart] < 1).all()
    assert (drawn(prob=0).partner == MANY).all()


@pytest.mark.parametrize(
    ("mixup_alpha", "cutmix_alpha", "switch_prob", "share"),
    [
        (0.8, 1.0, 0.5, 0.5),
        (0.8, 1.0, 0.1, 0.1),
        (0.8, 0, 0.5, 0),
        (0, 1.0, 0.5, 1),
        (0, 0, 0.5, 0),
    ],
)
def test_cutmix_is_taken_as_often_as_asked_for(
    mixup_alpha: float, cutmix_alpha: float, switch_prob: float, share: float
) -> None:
    mixing = drawn(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, switch_prob=switch_prob)

    assert is_cutmix(mixing).mean() == pytest.approx(share, abs=0.02)
    assert (mixing.lam < 1).mean() == pytest.approx(float(mixup_alpha + cutmix_alpha > 0), abs=0.01)


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.2, 0.8, 1, 4, 50])
def test_shares_of_mixup_follow_the_beta_distribution(alpha: float) -> None:
    lam = drawn(mixup_alpha=alpha, cutmix_alpha=0).lam

    expected = np.random.default_rng(0).beta(alpha, alpha, 200_000)
    steps = np.linspace(0.001, 0.999, 50)
    ours, theirs = ((shares[:, None] <= steps).mean(0) for shares in (lam, expected))
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    assert lam.dtype == np.float32
    assert np.isfinite(lam).all()


def test_boxes_of_cutmix_are_squares_cut_off_at_the_edges_and_lam_is_what_they_leave() -> None:
    mixing = drawn(mixup_alpha=0)

    left, top, right, bottom = mixing.box.T.astype(np.float64)
    assert mixing.box.min() == 0
    assert mixing.box.max() == 1
    np.testing.assert_allclose(mixing.lam, 1 - (right - left) * (bottom - top), atol=1e-6)
    inside = (left > 0) & (top > 0) & (right < 1) & (bottom < 1)
    np.testing.assert_allclose((right - left)[inside], (bottom - top)[inside], atol=1e-6)
    for centre in ((left + right)[inside] / 2, (top + bottom)[inside] / 2):
        assert centre.mean() == pytest.approx(0.5, abs=0.02)


def test_shares_of_cutmix_are_distributed_as_those_of_timm() -> None:
    np.random.seed(0)
    shares = np.random.beta(1, 1, 10_000)
    expected = [cutmix_bbox_and_lam((3, 1000, 1000), share)[1] for share in shares]

    lam = drawn(mixup_alpha=0).lam

    steps = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.quantile(lam, steps), np.quantile(expected, steps), atol=0.02)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 13), (64, 64)])
def test_the_pasted_area_is_one_minus_lam_at_any_size(height: int, width: int) -> None:
    mixing = drawn(np.arange(200))
    images, partners = torch.ones(200, 3, height, width), torch.zeros(200, 3, height, width)

    mixed = mix(images, partners, mixing)

    shares = mixed.mean((1, 2, 3))
    torch.testing.assert_close(shares, torch.from_numpy(mixing.lam), rtol=0, atol=1e-5)


def test_cutmix_pastes_the_partner_where_the_box_is() -> None:
    images, partners = torch.randn(1, 3, 10, 20), torch.randn(1, 3, 10, 20)

    mixed = mix(images, partners, by_hand([0.76], [[0.25, 0.4, 0.65, 1.0]]))

    expected = images.clone()
    expected[:, :, 4:10, 5:13] = partners[:, :, 4:10, 5:13]
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-5)


def test_a_pixel_on_the_edge_of_a_box_is_blended_by_what_is_covered_of_it() -> None:
    images, partners = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)

    mixed = mix(images, partners, by_hand([0.8125], [[0.0, 0.0, 0.375, 0.5]]))

    row = [1.0, 0.5, 0.0, 0.0]
    assert mixed[0, 0].tolist() == [row, row, [0.0] * 4, [0.0] * 4]


def test_mixup_adds_up_the_shares_of_both() -> None:
    images, partners = torch.randn(2, 3, 5, 5).double(), torch.randn(2, 3, 5, 5).double()

    mixed = mix(images, partners, by_hand([0.25, 0.75], [[0.5] * 4] * 2))

    expected = torch.stack(
        [images[0] / 4 + partners[0] * 3 / 4, images[1] * 3 / 4 + partners[1] / 4]
    )
    torch.testing.assert_close(mixed, expected)


def test_images_that_are_not_mixed_stay_as_they_are() -> None:
    images = torch.randn(5, 3, 9, 9)

    assert torch.equal(mix(images, torch.randn(5, 3, 9, 9), drawn(np.arange(5), prob=0)), images)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("prob", 1.5, "prob must be within 0..1, got 1.5"),
        ("switch_prob", -0.1, "switch_prob must be within 0..1, got -0.1"),
        ("mixup_alpha", -1, "mixup_alpha must be 0 or a positive number, got -1"),
        ("cutmix_alpha", float("inf"), "cutmix_alpha must be 0 or a positive number, got inf"),
        ("cutmix_alpha", float("nan"), "cutmix_alpha must be 0 or a positive number, got nan"),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        drawn(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_the_data_set_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=f"there is no image {index} in a data set of 10"):
        drawn(np.array([3, index]), length=10)


def some_targets() -> tuple[Tensor, Tensor, Tensor]:
    targets, partners = torch.randint(7, (2, 16))
    partners[0] = targets[0]  # both of one class
    return targets, partners, torch.rand(16)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_those_of_timm(smoothing: float) -> None:
    targets, _, lam = some_targets()
    lam = (lam + lam.flip(0)) / 2  # timm takes the opposite image of the batch

    soft = soft_targets(targets, targets.flip(0), lam.numpy(), 7, smoothing)

    expected = mixup_target(targets, 7, lam[:, None], smoothing)
    torch.testing.assert_close(soft, expected)
    torch.testing.assert_close(soft.sum(1), torch.ones(16))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_timm(smoothing: float) -> None:
    targets, partners, lam = some_targets()
    logits = torch.randn(16, 7)
    mixed = soft_targets(targets, partners, lam, 7, smoothing)
    plain = soft_targets(targets, partners, torch.ones(16), 7, smoothing)

    torch.testing.assert_close(
        soft_cross_entropy(logits, mixed), SoftTargetCrossEntropy()(logits, mixed)
    )
    torch.testing.assert_close(
        soft_cross_entropy(logits, plain), LabelSmoothingCrossEntropy(smoothing)(logits, targets)
    )


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
def test_binary_cross_entropy_is_that_of_timm(threshold: float | None) -> None:
    targets, partners, lam = some_targets()
    logits = torch.randn(16, 7)
    theirs = BinaryCrossEntropy(smoothing=0.1, target_threshold=threshold)
    mixed = soft_targets(targets, partners, lam, 7, smoothing=0.0)
    plain = soft_targets(targets, partners, torch.ones(16), 7, smoothing=0.1)

    torch.testing.assert_close(
        binary_cross_entropy(logits, mixed, threshold), theirs(logits, mixed)
    )
    torch.testing.assert_close(
        binary_cross_entropy(logits, plain, threshold), theirs(logits, targets)
    )


def test_losses_are_computed_in_the_precision_of_the_targets() -> None:
    targets, partners, lam = some_targets()
    logits, soft = torch.randn(16, 7).bfloat16(), soft_targets(targets, partners, lam, 7, 0.1)

    for loss in (soft_cross_entropy, binary_cross_entropy):
        assert loss(logits, soft).dtype == torch.float32
        torch.testing.assert_close(loss(logits, soft), loss(logits.float(), soft), rtol=0, atol=0)
