"""The parts of decoders against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wszoo.layers import WSConv2d, convs_with_norms
from wszoo.segmentation.blocks import (
    ConvNormAct,
    PooledBranch,
    SeparableConvNormAct,
    average_cells,
    resize,
)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(2, 2), (5, 5), (7, 4), (16, 33)])
def test_averages_of_cells_are_adaptive_average_pooling(size: int, shape: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)

    ours, theirs = average_cells(x, size), F.adaptive_avg_pool2d(x, size)

    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(pooled, x, upstream)[0] for pooled in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("dilation", [1, 6])
def test_a_block_keeps_the_size_of_its_map(kernel_size: int, dilation: int) -> None:
    block = ConvNormAct(4, 6, kernel_size, dilation=dilation)

    assert block(torch.randn(1, 4, 5, 9)).shape == (1, 6, 5, 9)


def test_every_convolution_is_standardized_and_has_a_norm_behind_it() -> None:
    net = nn.Sequential(ConvNormAct(4, 8), SeparableConvNormAct(8, 8), PooledBranch(8, 8, 2))

    found = list(convs_with_norms(net))

    assert len(found) == 4
    assert all(isinstance(conv, WSConv2d) and norm is not None for _, conv, norm in found)
    assert all(conv.bias is None for _, conv, _ in found)


@pytest.mark.parametrize("channels", [4, 16, 64, 256, 512])
def test_a_norm_that_sees_one_pixel_has_groups_of_eight_channels_or_all(channels: int) -> None:
    norm = PooledBranch(8, channels, 1).project.norm

    assert isinstance(norm, nn.GroupNorm)
    assert channels // norm.num_groups >= min(8, channels)


def test_an_average_over_the_image_tells_images_of_the_same_signs_apart() -> None:
    branch = PooledBranch(8, 64, 1)
    x = torch.randn(1, 8, 4, 4)

    one, other = branch(x), branch(x + 0.3 * torch.randn(1, 8, 1, 1))

    assert one.std(dim=(2, 3)).max() < 1e-6, "one value, spread over the map"
    assert (one - other).abs().max() > 0.05


def test_resizing_to_the_same_size_copies_nothing() -> None:
    x = torch.randn(1, 2, 5, 7)

    assert resize(x, (5, 7)) is x
    assert resize(x, torch.Size((10, 3))).shape == (1, 2, 10, 3)
