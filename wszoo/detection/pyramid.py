"""A backbone with a feature pyramid on top, as torchvision's detectors want it."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from wszoo.backbone import Backbone, formula_of, load_backbone
from wszoo.layers import GroupNorm, standardize_convs
from wszoo.memory import Memory, save_memory


class PyramidBackbone(nn.Module):
    """Feature maps of a ``Backbone``, merged top-down and brought to one width.

    Every convolution of the pyramid is standardized and has a GroupNorm behind it, as in the
    published GN+WS detectors; those of ``extra_blocks`` have no norm and stay plain. Keys of the
    state dict are torchvision's: ``body.*`` and ``fpn.*``.

    Args:
        backbone: Maps of strides not in ``strides`` are left out.
        strides: Those of the maps to merge, finest first.
        out_channels: Width of the pyramid.
        extra_blocks: Makes the coarser levels above it.

    Shape:
        Normalised images ``(N, in_chans, H, W)`` to ``{level: (N, out_channels, H / s, W / s)}``,
        finest first.

    Raises:
        ValueError: The backbone has no map of a stride, or several.
    """

    source: Backbone

    def __init__(
        self,
        backbone: Backbone,
        *,
        strides: tuple[int, ...],
        out_channels: int,
        extra_blocks: ExtraFPNBlock,
    ) -> None:
        super().__init__()
        self._merged = maps_of_strides(backbone, strides)
        self.body = backbone.body
        # Not registered as a module: the keys of its body would come twice.
        self.__dict__["source"] = backbone
        self.fpn = FeaturePyramidNetwork(
            [backbone.out_channels[index] for index in self._merged],
            out_channels,
            extra_blocks=extra_blocks,
            norm_layer=GroupNorm,
        )
        standardize_convs(self.fpn, formula_of(backbone.body))
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.source(x)
        merged = OrderedDict((str(level), maps[index]) for level, index in enumerate(self._merged))
        pyramid: dict[str, Tensor] = self.fpn(merged)
        return pyramid

    def train(self, mode: bool = True) -> "PyramidBackbone":
        """As for ``nn.Module``; what the backbone holds in eval mode, such as frozen BN, stays."""
        super().train(mode)
        self.source.train(mode)
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in the backbone."""
        self.source.set_grad_checkpointing(enable)


def maps_of_strides(backbone: Backbone, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Which of the backbone's feature maps has each of ``strides``.

    Raises:
        ValueError: None has, or several have.
    """
    if any(backbone.strides.count(stride) != 1 for stride in strides):
        raise ValueError(
            f"a pyramid needs one feature map of each of the strides {strides}, but those of "
            f"{backbone.name} have {backbone.strides}; load it with output_stride=32 and "
            f"out_indices that give these strides"
        )
    return tuple(backbone.strides.index(stride) for stride in strides)


def as_backbone(
    backbone: str | Backbone,
    *,
    out_indices: tuple[int, ...],
    pretrained: bool,
    trainable_stages: int | None,
    in_chans: int,
    memory: Memory | None = None,
) -> Backbone:
    """Load a backbone by name, or check that a loaded one is not told how to be loaded.

    Its level of memory can be changed at any time; None leaves that of a loaded one.

    Raises:
        ValueError: ``backbone`` is loaded already, and asked for other channels or frozen stages.
    """
    if isinstance(backbone, str):
        options: dict[str, Any] = dict(pretrained=pretrained, trainable_stages=trainable_stages)
        options |= {"in_chans": in_chans, "memory": "fast" if memory is None else memory}
        return load_backbone(backbone, out_indices=out_indices, **options)
    if trainable_stages is not None:
        raise ValueError(
            f"trainable_stages={trainable_stages} comes too late for a loaded Backbone; "
            f"give it to load_backbone"
        )
    if in_chans not in (3, backbone.in_chans):
        raise ValueError(
            f"in_chans={in_chans} comes too late for a Backbone of {backbone.in_chans} channels; "
            f"give it to load_backbone"
        )
    return backbone if memory is None else save_memory(backbone, memory)
