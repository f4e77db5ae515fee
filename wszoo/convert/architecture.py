"""The nets that foreign weights belong to, as lists of layers: names and shapes, no modules."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_STEM_CHANNELS = 64


class Layer(NamedTuple):
    """One layer as timm names it.

    Attributes:
        kind: ``"conv"``, ``"norm"`` or ``"classifier"``.
        name: Path in timm's net.
        shape: Of its weight.
    """

    kind: str
    name: str
    shape: tuple[int, ...]


def _conv(name: str, out_channels: int, in_channels: int, size: int = 1) -> Layer:
    return Layer("conv", name, (out_channels, in_channels, size, size))


def _norm(name: str, channels: int) -> Layer:
    return Layer("norm", name, (channels,))


@dataclass(frozen=True)
class ResNet:
    """A post-activation ResNet or ResNeXt, in the order of timm's and torchvision's state dict.

    Attributes:
        depths: Blocks per stage.
        bottleneck: Blocks of three convolutions, not of two.
        channels: Width of each stage before the expansion of bottlenecks.
        cardinality: Groups of the 3x3 convolutions.
        base_width: Channels per group at the first stage.
    """

    depths: tuple[int, ...]
    bottleneck: bool = True
    channels: tuple[int, ...] = (64, 128, 256, 512)
    cardinality: int = 1
    base_width: int = 64

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the feature maps of the four stages."""
        return tuple(channels * (4 if self.bottleneck else 1) for channels in self.channels)

    def layers(self, num_classes: int) -> Iterator[Layer]:
        """Every layer with weights; ``num_classes`` is that of the classifier."""
        yield _conv("conv1", _STEM_CHANNELS, 3, 7)
        yield _norm("bn1", _STEM_CHANNELS)
        incoming = _STEM_CHANNELS
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                yield from self._block(f"layer{stage + 1}.{block}", stage, block, incoming)
                incoming = self.stage_channels[stage]
        yield Layer("classifier", "fc", (num_classes, incoming))

    def _block(self, path: str, stage: int, block: int, incoming: int) -> Iterator[Layer]:
        channels, outgoing = self.channels[stage], self.stage_channels[stage]
        if self.bottleneck:
            width = channels * self.base_width // 64 * self.cardinality
            convs = [(width, incoming, 1), (width, width // self.cardinality, 3)]
            convs.append((outgoing, width, 1))
        else:
            convs = [(channels, incoming, 3), (channels, channels, 3)]
        for number, (out_channels, in_channels, size) in enumerate(convs, start=1):
            yield _conv(f"{path}.conv{number}", out_channels, in_channels, size)
            yield _norm(f"{path}.bn{number}", out_channels)
        has_stride = block == 0 and stage > 0
        if has_stride or incoming != outgoing:
            yield _conv(f"{path}.downsample.0", outgoing, incoming)
            yield _norm(f"{path}.downsample.1", outgoing)


@dataclass(frozen=True)
class PreActivationResNet:
    """Google's BiT, a pre-activation ResNet, in the order of timm's state dict."""

    depths: tuple[int, ...]
    width: int

    def layers(self, num_classes: int) -> Iterator[Layer]:
        """Every layer with weights; ``num_classes`` is that of the classifier."""
        incoming = _STEM_CHANNELS * self.width
        yield _conv("stem.conv", incoming, 3, 7)
        for stage, depth in enumerate(self.depths):
            outgoing = 256 * 2**stage * self.width
            for block in range(depth):
                path, inner = f"stages.{stage}.blocks.{block}", outgoing // 4
                if block == 0:
                    yield _conv(f"{path}.downsample.conv", outgoing, incoming)
                convs = [(inner, incoming, 1), (inner, inner, 3), (outgoing, inner, 1)]
                for number, (out_channels, in_channels, size) in enumerate(convs, start=1):
                    yield _norm(f"{path}.norm{number}", in_channels)
                    yield _conv(f"{path}.conv{number}", out_channels, in_channels, size)
                incoming = outgoing
        yield _norm("norm", incoming)
        yield Layer("classifier", "head.fc", (num_classes, incoming, 1, 1))


Net = ResNet | PreActivationResNet

RESNETS: dict[str, Net] = {
    "test_resnet": ResNet((1, 1, 1, 1), bottleneck=False, channels=(16, 32, 64, 128)),
    "resnet10": ResNet((1, 1, 1, 1), bottleneck=False),
    "resnet14": ResNet((1, 1, 1, 1)),
    "resnet18": ResNet((2, 2, 2, 2), bottleneck=False),
    "resnet26": ResNet((2, 2, 2, 2)),
    "resnet34": ResNet((3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNet((3, 4, 6, 3)),
    "resnet101": ResNet((3, 4, 23, 3)),
    "resnet152": ResNet((3, 8, 36, 3)),
    "resnext26_32x4d": ResNet((2, 2, 2, 2), cardinality=32, base_width=4),
    "resnext50_32x4d": ResNet((3, 4, 6, 3), cardinality=32, base_width=4),
    "resnext101_32x4d": ResNet((3, 4, 23, 3), cardinality=32, base_width=4),
    "resnext101_32x8d": ResNet((3, 4, 23, 3), cardinality=32, base_width=8),
    "wide_resnet50_2": ResNet((3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": ResNet((3, 4, 23, 3), base_width=128),
}
BIT_NETS: dict[str, Net] = {
    f"resnetv2_{depth}x{width}_bit": PreActivationResNet(depths, width)
    for depth, depths in {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}.items()
    for width in ((2, 4) if depth == 152 else (1, 3))
}
