"""The decoder of a U-Net.

Source: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
https://arxiv.org/abs/1505.04597.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.segmentation.blocks import ConvNormAct


class UNetDecoder(nn.Module):
    """From the coarsest map up: enlarge, put the next finer map beside it, convolve twice.

    Behind the finest map come as many doublings as its stride asks for, with nothing beside.

    Args:
        in_channels, strides: Of the backbone's maps, the finest first.
        channels: Of the result of each step up, the coarsest first.

    Raises:
        ValueError: ``channels`` has not one width per step.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        *,
        channels: Sequence[int] = (256, 128, 64, 32, 16),
    ) -> None:
        super().__init__()
        doublings = strides[0].bit_length() - 1
        beside = [*reversed(in_channels[:-1]), *[0] * doublings]
        if len(channels) != len(beside):
            raise ValueError(
                f"channels has {len(channels)} widths, but a backbone of strides "
                f"{tuple(strides)} takes {len(beside)} steps up; give one width for each"
            )
        self.out_channels = channels[-1]
        coming = [in_channels[-1], *channels[:-1]]
        self.steps = nn.ModuleList(
            nn.Sequential(ConvNormAct(below + skip, width, 3), ConvNormAct(width, width, 3))
            for below, skip, width in zip(coming, beside, channels, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        *finer, x = features
        for step in self.steps:
            if finer:
                skip = finer.pop()
                enlarged = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
                x = step(torch.cat([enlarged, skip], dim=1))
            else:
                x = step(F.interpolate(x, scale_factor=2, mode="nearest"))
        return x
