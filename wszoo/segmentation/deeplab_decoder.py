"""The decoder of DeepLabV3+.

Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", https://arxiv.org/abs/1802.02611, sections 3 and 4.1.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from wszoo.segmentation.blocks import ConvNormAct, PooledBranch, SeparableConvNormAct, resize


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (ASPP): the same map seen through windows of several sizes.

    A 1x1 convolution, one dilated 3x3 convolution per rate and the average over the image, side
    by side, brought together by a 1x1 convolution.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, channels, H, W)``.
    """

    def __init__(
        self, in_channels: int, channels: int, rates: Sequence[int], *, separable: bool
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvNormAct(in_channels, channels)])
        for rate in rates:
            self.branches.append(
                SeparableConvNormAct(in_channels, channels, dilation=rate)
                if separable
                else ConvNormAct(in_channels, channels, 3, dilation=rate)
            )
        self.branches.append(PooledBranch(in_channels, channels, 1))
        self.project = ConvNormAct(channels * len(self.branches), channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x) for branch in self.branches], dim=1))


class DeepLabDecoder(nn.Module):
    """ASPP on the coarsest map, then detail from a fine one and two 3x3 convolutions.

    Args:
        in_channels: Of the fine map and of the coarsest one.
        low_level: Which of the backbone's maps is the fine one.
        rates: Dilations of the ASPP.
        aspp_channels: Of the ASPP.
        low_level_channels: What the fine map is narrowed to, so that it cannot outweigh the ASPP.
        channels: Of the result.
        separable: Make the 3x3 convolutions depthwise separable.
    """

    def __init__(
        self,
        in_channels: tuple[int, int],
        *,
        low_level: int,
        rates: Sequence[int],
        aspp_channels: int = 256,
        low_level_channels: int = 48,
        channels: int = 256,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = channels
        self.low_level = low_level
        fine, coarse = in_channels
        self.aspp = AtrousPyramid(coarse, aspp_channels, rates, separable=separable)
        self.narrow = ConvNormAct(fine, low_level_channels)
        widths = (aspp_channels + low_level_channels, channels, channels)
        self.refine = nn.Sequential(
            *(
                SeparableConvNormAct(*pair) if separable else ConvNormAct(*pair, 3)
                for pair in pairwise(widths)
            )
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        fine = self.narrow(features[self.low_level])
        context = resize(self.aspp(features[-1]), fine.shape[-2:])
        return self.refine(torch.cat([context, fine], dim=1))
