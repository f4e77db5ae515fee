"""The constructors: ``name(backbone, num_classes=...)`` gives a ``Segmenter``.

All convolutions of the decoders are weight-standardized and followed by GroupNorm; only the
classifier of pixels is plain. So no layer looks at more than one image, and all train at batch
size 1.
"""

from collections.abc import Sequence

from wszoo.backbone import Backbone
from wszoo.memory import Memory
from wszoo.segmentation.deeplab_decoder import DeepLabDecoder
from wszoo.segmentation.fpn_decoder import SemanticFPNDecoder
from wszoo.segmentation.segmenter import Segmenter, to_backbone
from wszoo.segmentation.unet_decoder import UNetDecoder
from wszoo.segmentation.upernet_decoder import UPerNetDecoder

_ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # by output stride; section 4.2 of DeepLabV3
_LOW_LEVEL_STRIDE = 4


def semantic_fpn(
    backbone: str | Backbone,
    *,
    num_classes: int,
    pretrained: bool = True,
    trainable_stages: int | None = None,
    in_chans: int = 3,
    memory: Memory | None = None,
    fpn_channels: int = 256,
    channels: int = 128,
    dropout: float = 0.0,
) -> Segmenter:
    """Semantic FPN: the lightest of the four decoders for large photos.

    Widths are those of Kirillov et al. 2019, https://arxiv.org/abs/1901.02446, which has no
    dropout.

    Args:
        backbone: A name for ``load_backbone``, or what that made.
        num_classes: Labels of pixels, a background among them if it is labelled.
        pretrained, trainable_stages, in_chans: For ``load_backbone``, where it is called here.
        memory: Of the backbone in training, see ``wszoo.memory.save_memory``. By default
            ``"fast"``, or that of a backbone that is given.
        fpn_channels: Of the feature pyramid.
        channels: Of the sum of its levels.
        dropout: Share zeroed before the classifier.

    Raises:
        ValueError: A setting is out of range, or contradicts the backbone.
    """
    body = to_backbone(
        backbone,
        pretrained=pretrained,
        trainable_stages=trainable_stages,
        in_chans=in_chans,
        memory=memory,
    )
    _require_halvings(body)
    decoder = SemanticFPNDecoder(
        body.out_channels, body.strides, fpn_channels=fpn_channels, channels=channels
    )
    return Segmenter(body, decoder, channels=channels, num_classes=num_classes, dropout=dropout)


def deeplab_v3_plus(
    backbone: str | Backbone,
    *,
    num_classes: int,
    pretrained: bool = True,
    trainable_stages: int | None = None,
    in_chans: int = 3,
    memory: Memory | None = None,
    output_stride: int = 16,
    separable: bool = False,
    aspp_channels: int = 256,
    low_level_channels: int = 48,
    channels: int = 256,
    dropout: float = 0.1,
) -> Segmenter:
    """DeepLabV3+: wide context by dilation, and detail from the map at stride 4.

    Widths and rates are those of Chen et al. 2018, https://arxiv.org/abs/1802.02611. Their ResNets
    have plain 3x3 convolutions in the decoder, as here; ``separable`` are those of their Xception.
    The share of dropout is that of the authors' code, which has it one layer earlier, behind the
    pyramid.

    Args:
        backbone: A name for ``load_backbone``, or what that made.
        num_classes: Labels of pixels, a background among them if it is labelled.
        pretrained, trainable_stages, in_chans: For ``load_backbone``, where it is called here.
        memory: Of the backbone in training, see ``wszoo.memory.save_memory``. By default
            ``"fast"``, or that of a backbone that is given.
        output_stride: 16, or 8 for finer context at four times the cost of the last stage; the
            rates of dilation are 6, 12, 18, or twice that.
        separable: Make 3x3 convolutions depthwise separable; both halves are standardized.
        aspp_channels: Of the atrous pyramid.
        low_level_channels: What the map at stride 4 is narrowed to.
        channels: Of the two 3x3 convolutions at the end.
        dropout: Share zeroed before the classifier.

    Raises:
        ValueError: A setting is out of range, or contradicts the backbone.
    """
    if output_stride not in _ATROUS_RATES:
        raise ValueError(f"output_stride must be 8 or 16, got {output_stride}")
    body = to_backbone(
        backbone,
        pretrained=pretrained,
        trainable_stages=trainable_stages,
        in_chans=in_chans,
        memory=memory,
        output_stride=output_stride,
    )
    if body.strides[-1] != output_stride or _LOW_LEVEL_STRIDE not in body.strides:
        raise ValueError(
            f"the backbone's maps have strides {body.strides}, but one of {_LOW_LEVEL_STRIDE} and "
            f"a last one of {output_stride} are needed; give load_backbone "
            f"output_stride={output_stride}"
        )
    low_level = body.strides.index(_LOW_LEVEL_STRIDE)
    decoder = DeepLabDecoder(
        (body.out_channels[low_level], body.out_channels[-1]),
        low_level=low_level,
        rates=_ATROUS_RATES[output_stride],
        aspp_channels=aspp_channels,
        low_level_channels=low_level_channels,
        channels=channels,
        separable=separable,
    )
    return Segmenter(body, decoder, channels=channels, num_classes=num_classes, dropout=dropout)


def upernet(
    backbone: str | Backbone,
    *,
    num_classes: int,
    pretrained: bool = True,
    trainable_stages: int | None = None,
    in_chans: int = 3,
    memory: Memory | None = None,
    pool_sizes: Sequence[int] = (1, 2, 3, 6),
    pool_channels: int = 512,
    channels: int = 512,
    dropout: float = 0.0,
) -> Segmenter:
    """UPerNet: pyramid pooling on top of a feature pyramid; the widest of the four.

    Widths are those of the code of Xiao et al. 2018, https://arxiv.org/abs/1807.10221, which has
    no dropout here.

    Args:
        backbone: A name for ``load_backbone``, or what that made.
        num_classes: Labels of pixels, a background among them if it is labelled.
        pretrained, trainable_stages, in_chans: For ``load_backbone``, where it is called here.
        memory: Of the backbone in training, see ``wszoo.memory.save_memory``. By default
            ``"fast"``, or that of a backbone that is given.
        pool_sizes: Sides of the grids that the coarsest map is averaged over.
        pool_channels: Of each grid.
        channels: Of the feature pyramid.
        dropout: Share zeroed before the classifier.

    Raises:
        ValueError: A setting is out of range, or contradicts the backbone.
    """
    body = to_backbone(
        backbone,
        pretrained=pretrained,
        trainable_stages=trainable_stages,
        in_chans=in_chans,
        memory=memory,
    )
    if not pool_sizes or min(pool_sizes) < 1:
        raise ValueError(f"pool_sizes must name sides of at least 1 cell, got {tuple(pool_sizes)}")
    decoder = UPerNetDecoder(
        body.out_channels, pool_sizes=pool_sizes, pool_channels=pool_channels, channels=channels
    )
    return Segmenter(body, decoder, channels=channels, num_classes=num_classes, dropout=dropout)


def unet(
    backbone: str | Backbone,
    *,
    num_classes: int,
    pretrained: bool = True,
    trainable_stages: int | None = None,
    in_chans: int = 3,
    memory: Memory | None = None,
    channels: Sequence[int] = (256, 128, 64, 32, 16),
    dropout: float = 0.0,
) -> Segmenter:
    """U-Net: up step by step with the backbone's maps beside; for thin structures.

    The steps are those of Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, with padding
    and with resizing in place of transposed convolutions. Their encoder keeps 64 channels at full
    resolution, where a ResNet has none, so the widths are those of segmentation_models_pytorch.

    Args:
        backbone: A name for ``load_backbone``, or what that made; also its map at stride 2 is used.
        num_classes: Labels of pixels, a background among them if it is labelled.
        pretrained, trainable_stages, in_chans: For ``load_backbone``, where it is called here.
        memory: Of the backbone in training, see ``wszoo.memory.save_memory``. By default
            ``"fast"``, or that of a backbone that is given.
        channels: Of each step up, the coarsest first.
        dropout: Share zeroed before the classifier.

    Raises:
        ValueError: A setting is out of range, or contradicts the backbone.
    """
    body = to_backbone(
        backbone,
        pretrained=pretrained,
        trainable_stages=trainable_stages,
        in_chans=in_chans,
        memory=memory,
        out_indices=(0, 1, 2, 3, 4),
    )
    _require_halvings(body)
    decoder = UNetDecoder(body.out_channels, body.strides, channels=channels)
    return Segmenter(body, decoder, channels=channels[-1], num_classes=num_classes, dropout=dropout)


def _require_halvings(backbone: Backbone) -> None:
    """These decoders go up by doubling."""
    finer = (1, *backbone.strides)
    for below, above in zip(finer, backbone.strides, strict=False):
        ratio, rest = divmod(above, below)
        if rest or ratio & (ratio - 1):
            raise ValueError(
                f"the backbone's maps have strides {backbone.strides}; "
                f"this decoder needs each to be a power of two times the one before"
            )
