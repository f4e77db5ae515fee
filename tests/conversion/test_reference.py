from statistics import fmean, pstdev, pvariance, stdev, variance

import pytest
import torch

from wszoo.conversion.reference import (
    PublishedBatchChannelNorm,
    reference_net,
    standardize_as_published,
)
from wszoo.layers import FORMULAS, BatchChannelNorm

# What each formula divides a centred filter by, in the words of Python's statistics module.
DIVISORS = {
    "jhu": lambda values: stdev(values) + 1e-5,
    "tf": lambda values: pstdev(values) + 1e-5,
    "bcn": lambda values: (variance(values) + 1e-5) ** 0.5,
    "bit": lambda values: (pvariance(values) + 1e-10) ** 0.5,
    "timm": lambda values: (pvariance(values) + 1e-6) ** 0.5,
    "timm_bit": lambda values: (pvariance(values) + 1e-8) ** 0.5,
}


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_kernel_is_standardized_filter_by_filter(formula: str, scale: float) -> None:
    kernel = scale * (torch.randn(5, 4, 3, 3) + 0.3)

    standardized = standardize_as_published(kernel, formula)

    for found, raw in zip(standardized, kernel.double(), strict=True):
        values = raw.flatten().tolist()
        mean, divisor = fmean(values), DIVISORS[formula](values)
        right = torch.tensor(
            [(value - mean) / divisor for value in values], dtype=torch.float64
        ).view(4, 3, 3)
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    assert standardized.dtype == torch.float64


def test_batch_channel_norm_as_published_is_that_of_our_nets() -> None:
    ours = BatchChannelNorm(64).double().eval()
    for value in (*ours.parameters(), *ours.buffers()):
        if value.is_floating_point():
            value.data.uniform_(0.5, 1.5)
    published = PublishedBatchChannelNorm(64).double().eval()
    published.load_state_dict(ours.state_dict())
    images = torch.randn(3, 64, 7, 5, dtype=torch.float64)

    torch.testing.assert_close(published(images), ours(images), rtol=1e-12, atol=1e-12)


def test_a_formula_without_published_arithmetic_is_refused() -> None:
    with pytest.raises(ValueError, match="no published arithmetic for the WS formula 'fba'; known"):
        standardize_as_published(torch.randn(2, 2, 3, 3), "fba")


@pytest.mark.parametrize("architecture", ["resnet18d_gn_ws", "resnet18", "test_resnet_gn_ws"])
def test_a_net_without_an_independent_twin_is_refused(architecture: str) -> None:
    with pytest.raises(ValueError, match=f"no independent net to prove a '{architecture}' against"):
        reference_net(architecture, {}, "jhu")


def test_weights_of_another_net_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="do not fit a plain resnet10_gn: .*Missing key") as caught:
        reference_net("resnet10_gn", {"fc.bias": torch.zeros(3)}, None)
    assert "\n" not in str(caught.value)
