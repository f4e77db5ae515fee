"""The decoder of Semantic FPN.

Source: Kirillov et al., "Panoptic Feature Pyramid Networks", https://arxiv.org/abs/1901.02446,
section 3 and figure 3.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from wszoo.layers import GroupNorm, standardize_convs
from wszoo.segmentation.blocks import ConvNormAct, resize


class SemanticFPNDecoder(nn.Module):
    """A feature pyramid whose levels are brought to the finest one step by step, and summed.

    A level halved k times against the finest takes k steps of a 3x3 convolution and a doubling;
    the finest takes one convolution.

    Args:
        in_channels, strides: Of the backbone's maps, the finest first.
        fpn_channels: Of the pyramid.
        channels: Of the sum.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        *,
        fpn_channels: int = 256,
        channels: int = 128,
    ) -> None:
        super().__init__()
        self.out_channels = channels
        self.fpn = FeaturePyramidNetwork([*in_channels], fpn_channels, norm_layer=GroupNorm)
        standardize_convs(self.fpn)
        self.levels = nn.ModuleList()
        for stride in strides:
            steps = max(1, (stride // strides[0]).bit_length() - 1)
            widths = [fpn_channels, *[channels] * steps]
            convs = [ConvNormAct(*pair, 3) for pair in pairwise(widths)]
            self.levels.append(nn.ModuleList(convs))

    def forward(self, features: list[Tensor]) -> Tensor:
        pyramid = self.fpn(OrderedDict((str(level), x) for level, x in enumerate(features)))
        finest = features[0].shape[-2:]
        total = None
        for convs, x, feature in zip(self.levels, pyramid.values(), features, strict=True):
            assert isinstance(convs, nn.ModuleList)
            is_finest = feature.shape[-2:] == finest
            for left, conv in zip(reversed(range(len(convs))), convs, strict=True):
                x = conv(x)
                if not is_finest:
                    # Odd sizes do not double; the last step lands on the finest map exactly.
                    doubled = (2 * x.shape[-2], 2 * x.shape[-1])
                    x = resize(x, doubled if left else finest)
            total = x if total is None else total + x
        assert total is not None
        return total
