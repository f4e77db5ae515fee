"""The net of the studies: a ResNet-20 for 32 pixels, in five kinds that differ in norm and WS."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.layers import BatchChannelNorm, GroupNorm, WSConv2d

GROUPS = 8  # so that the 16 channels of the first stage make two a group
WIDTHS, BLOCKS = (16, 32, 64), 3


class Kind(NamedTuple):
    """What sets one net apart from the others.

    Attributes:
        label: For figures and tables.
        norm: Makes the norm of so many channels.
        standardized: Whether its convolutions are.
    """

    label: str
    norm: Callable[[int], nn.Module]
    standardized: bool


def _group_norm(channels: int) -> nn.Module:
    return GroupNorm(channels, GROUPS)


def _bcn(channels: int) -> nn.Module:
    return BatchChannelNorm(channels, GROUPS, estimate=True)


KINDS = {
    "bn": Kind("BN", nn.BatchNorm2d, False),
    "gn": Kind("GN", _group_norm, False),
    "bn_ws": Kind("BN+WS", nn.BatchNorm2d, True),
    "gn_ws": Kind("GN+WS", _group_norm, True),
    "bcn_ws": Kind("BCN+WS", _bcn, True),
}


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters, option A of the ResNet paper."""

    def __init__(self, kind: Kind, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(kind, channels_in, channels, stride)
        self.norm1 = kind.norm(channels)
        self.conv2 = _conv(kind, channels, channels, 1)
        self.norm2 = kind.norm(channels)
        self.added = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.added:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.added))
        return F.relu(y + x, inplace=True)


def _conv(kind: Kind, channels_in: int, channels: int, stride: int) -> nn.Conv2d:
    make = WSConv2d if kind.standardized else nn.Conv2d
    conv: nn.Conv2d = make(channels_in, channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def make_net(kind: str, classes: int, seed: int) -> nn.Sequential:
    """A ResNet-20 of 0.27 M parameters in channels_last; all kinds start from the same kernels.

    Source: He et al., "Deep Residual Learning for Image Recognition", section 4.2,
    https://arxiv.org/abs/1512.03385
    """
    torch.manual_seed(seed)
    chosen = KINDS[kind]
    layers: list[nn.Module] = [_conv(chosen, 3, WIDTHS[0], 1), chosen.norm(WIDTHS[0]), nn.ReLU()]
    before = WIDTHS[0]
    for channels in WIDTHS:
        for _ in range(BLOCKS):
            layers.append(Block(chosen, before, channels, 2 if channels != before else 1))
            before = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    net = nn.Sequential(*layers)
    return net.to(memory_format=torch.channels_last)
