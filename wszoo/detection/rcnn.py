"""Two-stage detectors: Faster R-CNN and Mask R-CNN.

Heads are those of the published GN+WS configurations: four convolutions and one linear layer for
boxes, four convolutions for masks, all standardized with a GroupNorm behind; the convolutions of
the region proposal network have no norm and stay plain.

Sources: Ren et al., https://arxiv.org/abs/1506.01497; He et al., https://arxiv.org/abs/1703.06870;
Lin et al., https://arxiv.org/abs/1612.03144; the heads: mmdetection, ``configs/gn+ws``.
"""

from typing import Any

from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from wszoo.backbone import Backbone, formula_of
from wszoo.detection.assembly import checked_arguments, finish, normalisation
from wszoo.detection.inputs import ROI_DEVICES, InputCheck
from wszoo.detection.pyramid import PyramidBackbone, as_backbone
from wszoo.layers import GroupNorm, WSFormula, standardize_convs
from wszoo.memory import Memory

_STRIDES = (4, 8, 16, 32)
_OUT_INDICES = (1, 2, 3, 4)
_POOLED = 7  # bins per side of a box, torchvision's default
_REPRESENTATION = 1024  # of a box, torchvision's and the published


def faster_rcnn(
    backbone: str | Backbone,
    *,
    num_classes: int,
    pretrained: bool = True,
    trainable_stages: int | None = None,
    in_chans: int = 3,
    min_size: int | tuple[int, ...] = 800,
    max_size: int = 1333,
    pyramid_channels: int = 256,
    memory: Memory | None = None,
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN with a feature pyramid, GroupNorm and Weight Standardization throughout.

    Args:
        backbone: A name as for ``load_backbone``, or what it returned; the next three arguments
            then belong to that call.
        num_classes: The background counted, as in torchvision: 2 for one kind of object.
        pretrained: Load the backbone's weights; the rest starts from random ones.
        trainable_stages: Stages of the backbone to train, from the top; see ``load_backbone``.
        in_chans: Channels of the images.
        min_size: Shorter side that images are resized to, in pixels; of several, training draws
            one per image.
        max_size: Limit of the longer side, in pixels.
        pyramid_channels: Width of the pyramid and of the heads' convolutions, a multiple of 32.
        memory: Of the backbone in training: ``"fast"``, ``"lean"``, ``"small"`` or ``"smallest"``,
            see ``wszoo.memory.save_memory``. By default the first, or that of a loaded one.
        **kwargs: As for ``torchvision.models.detection.FasterRCNN``.

    Returns:
        torchvision's model in training mode. It takes images ``(in_chans, H, W)`` in 0..1 and
        targets ``{"boxes": (N, 4) in pixels, x1 y1 x2 y2, "labels": (N,)}``.

    Raises:
        TypeError: torchvision's class takes no such argument.
        ValueError: An argument makes no sense, the backbone's strides do not fit, or a part given
            in ``kwargs`` has BatchNorm.

    Example:
        >>> import torch
        >>> sizes = dict(min_size=64, pyramid_channels=32)
        >>> model = faster_rcnn("test_resnet_gn_ws", num_classes=2, **sizes).eval()
        >>> sorted(model([torch.rand(3, 64, 64)])[0])
        ['boxes', 'labels', 'scores']
    """
    sizes = dict(num_classes=num_classes, pyramid_channels=pyramid_channels)
    kwargs = checked_arguments("faster_rcnn", FasterRCNN, kwargs, **sizes)
    loading: Any = dict(pretrained=pretrained, trainable_stages=trainable_stages, in_chans=in_chans)
    pyramid = _pyramid(backbone, pyramid_channels, memory=memory, **loading)
    parts = _box_parts(pyramid, num_classes, kwargs) | kwargs
    parts |= normalisation(pyramid.source, kwargs)
    model = FasterRCNN(pyramid, min_size=min_size, max_size=max_size, **parts)
    return finish(model, _check("faster_rcnn", pyramid, num_classes))


def mask_rcnn(
    backbone: str | Backbone,
    *,
    num_classes: int,
    pretrained: bool = True,
    trainable_stages: int | None = None,
    in_chans: int = 3,
    min_size: int | tuple[int, ...] = 800,
    max_size: int = 1333,
    pyramid_channels: int = 256,
    memory: Memory | None = None,
    **kwargs: Any,
) -> MaskRCNN:
    """Mask R-CNN with a feature pyramid, GroupNorm and Weight Standardization throughout.

    Args:
        backbone, num_classes, pretrained, trainable_stages, in_chans, min_size, max_size,
            pyramid_channels, memory: As for ``faster_rcnn``.
        **kwargs: As for ``torchvision.models.detection.MaskRCNN``.

    Returns:
        torchvision's model in training mode. Targets also have ``"masks": (N, H, W)`` of 0 and 1.

    Raises:
        TypeError, ValueError: As for ``faster_rcnn``.
    """
    sizes = dict(num_classes=num_classes, pyramid_channels=pyramid_channels)
    kwargs = checked_arguments("mask_rcnn", MaskRCNN, kwargs, **sizes)
    loading: Any = dict(pretrained=pretrained, trainable_stages=trainable_stages, in_chans=in_chans)
    pyramid = _pyramid(backbone, pyramid_channels, memory=memory, **loading)
    mask_parts = {
        "mask_head": _mask_head(pyramid_channels, formula_of(pyramid.body)),
        "mask_predictor": MaskRCNNPredictor(pyramid_channels, pyramid_channels, num_classes),
    }
    parts = _box_parts(pyramid, num_classes, kwargs) | mask_parts | kwargs
    parts |= normalisation(pyramid.source, kwargs)
    model = MaskRCNN(pyramid, min_size=min_size, max_size=max_size, **parts)
    return finish(model, _check("mask_rcnn", pyramid, num_classes, has_masks=True))


def _pyramid(backbone: str | Backbone, channels: int, **loading: Any) -> PyramidBackbone:
    loaded = as_backbone(backbone, out_indices=_OUT_INDICES, **loading)
    extra = LastLevelMaxPool()
    return PyramidBackbone(loaded, strides=_STRIDES, out_channels=channels, extra_blocks=extra)


def _box_parts(
    pyramid: PyramidBackbone, num_classes: int, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The box head and its predictor, with which torchvision wants no ``num_classes``."""
    pool = kwargs.get("box_roi_pool")
    height, width = pool.output_size if pool is not None else (_POOLED, _POOLED)
    channels = pyramid.out_channels
    head = FastRCNNConvFCHead(
        (channels, height, width), [channels] * 4, [_REPRESENTATION], norm_layer=GroupNorm
    )
    standardize_convs(head, formula_of(pyramid.body))
    return {"box_head": head, "box_predictor": FastRCNNPredictor(_REPRESENTATION, num_classes)}


def _mask_head(channels: int, formula: WSFormula) -> MaskRCNNHeads:
    head = MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=GroupNorm)
    standardize_convs(head, formula)
    return head


def _check(
    detector: str, pyramid: PyramidBackbone, num_classes: int, *, has_masks: bool = False
) -> InputCheck:
    return InputCheck(
        detector=detector,
        num_classes=num_classes,
        in_chans=pyramid.source.in_chans,
        devices=ROI_DEVICES,
        has_masks=has_masks,
    )
