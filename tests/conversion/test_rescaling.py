import pytest
import torch

from wszoo.conversion.reference import standardize_as_published
from wszoo.conversion.rescaling import rescale_kernel
from wszoo.layers import FORMULAS, WSFormula


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("scale", [1e4, 1.0, 0.05, 1e-3, 1e-7])
def test_a_rescaled_kernel_standardizes_to_the_same_under_the_other_formula(
    formula: str, scale: float
) -> None:
    kernel = scale * (torch.randn(6, 32, 3, 3, dtype=torch.float64) + 5)

    rescaled = rescale_kernel(kernel, formula, "timm_bit")

    right = standardize_as_published(kernel, formula)
    found = standardize_as_published(rescaled, "timm_bit")
    assert (found - right).abs().max() <= 1e-12 * right.abs().max()


@pytest.mark.parametrize("formula", FORMULAS)
def test_one_rounding_of_the_rescaled_kernel_costs_no_more_than_that(formula: str) -> None:
    scales = torch.randn(200, 1, 1, 1, dtype=torch.float64).mul(2).exp() * 1e-3
    kernel = scales * torch.randn(200, 64, 3, 3, dtype=torch.float64)

    rounded = rescale_kernel(kernel, formula, "timm_bit").float()

    right = standardize_as_published(kernel, formula)
    found = standardize_as_published(rounded, "timm_bit")
    errors = (found - right).flatten(1).abs().amax(1) / right.flatten(1).abs().amax(1)
    assert errors.max() < 2e-7


def test_a_constant_filter_stays_one() -> None:
    rescaled = rescale_kernel(torch.full((2, 4, 3, 3), 0.25), "jhu", "timm_bit")

    assert torch.equal(rescaled, torch.zeros(2, 4, 3, 3, dtype=torch.float64))


def test_only_biased_formulas_with_eps_inside_can_be_aimed_at() -> None:
    for target in ("jhu", "tf", "bcn", WSFormula(unbiased=True, eps=1e-8, eps_inside=True)):
        with pytest.raises(ValueError, match="rescaled for biased formulas with eps inside, not"):
            rescale_kernel(torch.randn(2, 2, 3, 3), "bit", target)
