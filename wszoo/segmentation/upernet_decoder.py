"""The decoder of UPerNet.

Source: Xiao et al., "Unified Perceptual Parsing for Scene Understanding",
https://arxiv.org/abs/1807.10221, section 3.2; widths as in the authors' code,
https://github.com/CSAILVision/unifiedparsing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wszoo.segmentation.blocks import ConvNormAct, PooledBranch, resize


class PyramidPooling(nn.Module):
    """The map beside its averages over ever finer grids, brought together by a 3x3 convolution.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, channels, H, W)``.
    """

    def __init__(
        self, in_channels: int, channels: int, *, pool_sizes: Sequence[int], pool_channels: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            PooledBranch(in_channels, pool_channels, size) for size in pool_sizes
        )
        self.project = ConvNormAct(in_channels + len(pool_sizes) * pool_channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([x, *(branch(x) for branch in self.branches)], dim=1))


class UPerNetDecoder(nn.Module):
    """A feature pyramid topped by pyramid pooling; all its levels are fused at the finest size.

    Args:
        in_channels: Of the backbone's maps, the finest first.
        pool_sizes: Sides of the grids of averages.
        pool_channels: Of each grid.
        channels: Of the pyramid and of the result.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        pool_sizes: Sequence[int] = (1, 2, 3, 6),
        pool_channels: int = 512,
        channels: int = 512,
    ) -> None:
        super().__init__()
        self.out_channels = channels
        self.pooling = PyramidPooling(
            in_channels[-1], channels, pool_sizes=pool_sizes, pool_channels=pool_channels
        )
        self.laterals = nn.ModuleList(ConvNormAct(width, channels) for width in in_channels[:-1])
        self.outputs = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in in_channels[:-1])
        self.fuse = ConvNormAct(len(in_channels) * channels, channels, 3)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.pooling(features[-1])
        pyramid = [x]
        finer = list(zip(self.laterals, self.outputs, features, strict=False))
        for lateral, output, feature in reversed(finer):
            x = lateral(feature) + resize(x, feature.shape[-2:])
            pyramid.insert(0, output(x))
        finest = pyramid[0].shape[-2:]
        return self.fuse(torch.cat([resize(level, finest) for level in pyramid], dim=1))
