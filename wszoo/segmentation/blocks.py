"""What the decoders are made of: convolution, norm and activation; pooling; resizing."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.layers import GroupNorm, WSConv2d

_VALUES_PER_GROUP = 8  # at the least, where a norm sees a single pixel


class ConvNormAct(nn.Sequential):
    """Weight-standardized convolution, GroupNorm, ReLU; the size of the map stays.

    Args:
        in_channels, out_channels, kernel_size, dilation, groups: Of the convolution; the kernel's
            side is odd.
        num_groups: Groups wanted of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        num_groups: int = 32,
    ) -> None:
        conv = WSConv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        norm = GroupNorm(out_channels, num_groups)
        super().__init__(OrderedDict(conv=conv, norm=norm, act=nn.ReLU(inplace=True)))


class SeparableConvNormAct(nn.Sequential):
    """A 3x3 convolution per channel, then a 1x1 over channels, each with a norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        depthwise = ConvNormAct(in_channels, in_channels, 3, dilation=dilation, groups=in_channels)
        pointwise = ConvNormAct(in_channels, out_channels)
        super().__init__(OrderedDict(depthwise=depthwise, pointwise=pointwise))


class PooledBranch(nn.Module):
    """The map averaged over a grid of ``size x size`` cells, convolved, and spread out again.

    Of a single cell each channel has one value: BatchNorm cannot train on that with one image,
    and a GroupNorm with two channels per group would keep nothing but a sign. So the groups hold
    eight channels or more here.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        num_groups = min(32, max(1, out_channels // _VALUES_PER_GROUP))
        self.project = ConvNormAct(in_channels, out_channels, num_groups=num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return resize(self.project(average_cells(x, self.size)), x.shape[-2:])


def average_cells(x: Tensor, size: int) -> Tensor:
    """``F.adaptive_avg_pool2d``, whose gradient on CUDA is not the same in every run.

    Args:
        x: ``(N, C, H, W)``.
        size: Cells along each side.

    Returns:
        ``(N, C, size, size)``.
    """
    rows = _cell_weights(x.shape[-2], size, x)
    # A graph that is exported has to hold for other sizes, too.
    is_square = not torch.compiler.is_exporting() and x.shape[-1] == x.shape[-2]
    columns = rows if is_square else _cell_weights(x.shape[-1], size, x)
    return rows @ x @ columns.T


def _cell_weights(length: int, cells: int, like: Tensor) -> Tensor:
    """``(cells, length)``: how much each pixel counts in the average of each cell."""
    pixel = torch.arange(length, device=like.device)
    cell = torch.arange(cells, device=like.device)[:, None]
    first = cell * length // cells
    behind_last = ((cell + 1) * length + cells - 1) // cells
    inside = ((pixel >= first) & (pixel < behind_last)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` at another height and width, bilinear; ``x`` itself where it has them already."""
    if not torch.compiler.is_exporting() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
