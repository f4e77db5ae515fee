"""One-stage detectors: RetinaNet and FCOS.

The four convolutions of each branch of the heads are standardized with a GroupNorm behind; the
predictors have none and stay plain, with torchvision's bias, which starts every class at 1 %.

Sources: Lin et al., https://arxiv.org/abs/1708.02002; Tian et al.,
https://arxiv.org/abs/2006.09214
"""

from typing import Any

from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import (
    FCOSClassificationHead,
    FCOSHead,
    FCOSRegressionHead,
)
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from wszoo.backbone import Backbone, formula_of
from wszoo.detection.assembly import checked_arguments, finish, normalisation
from wszoo.detection.inputs import DENSE_DEVICES, InputCheck
from wszoo.detection.pyramid import PyramidBackbone, as_backbone, maps_of_strides
from wszoo.layers import GroupNorm, WSFormula, standardize_convs
from wszoo.memory import Memory

_STRIDES = (8, 16, 32)
_OUT_INDICES = (2, 3, 4)


def retinanet(
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
) -> RetinaNet:
    """RetinaNet with GroupNorm and Weight Standardization throughout.

    Boxes are regressed with the GIoU loss and the levels above the pyramid are made from the
    backbone's last map, both as in ``torchvision.models.detection.retinanet_resnet50_fpn_v2``.

    Args:
        backbone, num_classes, pretrained, trainable_stages, in_chans, min_size, max_size,
            pyramid_channels, memory: As for ``faster_rcnn``.
        **kwargs: As for ``torchvision.models.detection.RetinaNet``.

    Returns:
        torchvision's model in training mode; images and targets are those of ``faster_rcnn``.

    Raises:
        TypeError, ValueError: As for ``faster_rcnn``.
    """
    sizes = dict(num_classes=num_classes, pyramid_channels=pyramid_channels)
    kwargs = checked_arguments("retinanet", RetinaNet, kwargs, **sizes)
    loading: Any = dict(pretrained=pretrained, trainable_stages=trainable_stages, in_chans=in_chans)
    loaded = as_backbone(backbone, out_indices=_OUT_INDICES, memory=memory, **loading)
    deepest = loaded.out_channels[maps_of_strides(loaded, _STRIDES)[-1]]
    pyramid = _pyramid(loaded, pyramid_channels, LastLevelP6P7(deepest, pyramid_channels))
    parts: dict[str, Any] = {"anchor_generator": _retinanet_anchors()} | kwargs
    if "head" not in parts:
        num_anchors = parts["anchor_generator"].num_anchors_per_location()[0]
        formula = formula_of(pyramid.body)
        parts["head"] = _retinanet_head(pyramid_channels, num_anchors, num_classes, formula)
    parts |= normalisation(loaded, kwargs)
    model = RetinaNet(pyramid, num_classes, min_size=min_size, max_size=max_size, **parts)
    return finish(model, _check("retinanet", loaded, num_classes))


def fcos(
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
) -> FCOS:
    """FCOS, which needs no anchors, with GroupNorm and Weight Standardization throughout.

    Args:
        backbone, num_classes, pretrained, trainable_stages, in_chans, min_size, max_size,
            pyramid_channels, memory: As for ``faster_rcnn``.
        **kwargs: As for ``torchvision.models.detection.FCOS``.

    Returns:
        torchvision's model in training mode; images and targets are those of ``faster_rcnn``.

    Raises:
        TypeError, ValueError: As for ``faster_rcnn``.
    """
    sizes = dict(num_classes=num_classes, pyramid_channels=pyramid_channels)
    kwargs = checked_arguments("fcos", FCOS, kwargs, **sizes)
    loading: Any = dict(pretrained=pretrained, trainable_stages=trainable_stages, in_chans=in_chans)
    loaded = as_backbone(backbone, out_indices=_OUT_INDICES, memory=memory, **loading)
    extra = LastLevelP6P7(pyramid_channels, pyramid_channels)
    pyramid = _pyramid(loaded, pyramid_channels, extra)
    parts = dict(kwargs)
    if "head" not in parts:
        parts["head"] = _fcos_head(pyramid_channels, num_classes, formula_of(pyramid.body))
    parts |= normalisation(loaded, kwargs)
    model = FCOS(pyramid, num_classes, min_size=min_size, max_size=max_size, **parts)
    return finish(model, _check("fcos", loaded, num_classes))


def _pyramid(backbone: Backbone, channels: int, extra: LastLevelP6P7) -> PyramidBackbone:
    return PyramidBackbone(backbone, strides=_STRIDES, out_channels=channels, extra_blocks=extra)


def _retinanet_anchors() -> AnchorGenerator:
    """Three octaves' thirds per level, 32 px and up, as the paper and torchvision have it."""
    sizes = tuple(
        (base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3)))
        for base in (32, 64, 128, 256, 512)
    )
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))


def _retinanet_head(
    channels: int, num_anchors: int, num_classes: int, formula: WSFormula
) -> RetinaNetHead:
    head = RetinaNetHead(channels, num_anchors, num_classes, norm_layer=GroupNorm)
    head.regression_head._loss_type = "giou"  # torchvision sets it so, too
    standardize_convs(head, formula)
    return head


def _fcos_head(channels: int, num_classes: int, formula: WSFormula) -> FCOSHead:
    head = FCOSHead(channels, 1, num_classes)
    # Its constructor takes no norm_layer, unlike those of its branches.
    head.classification_head = FCOSClassificationHead(
        channels, 1, num_classes, norm_layer=GroupNorm
    )
    head.regression_head = FCOSRegressionHead(channels, 1, norm_layer=GroupNorm)
    standardize_convs(head, formula)
    return head


def _check(detector: str, backbone: Backbone, num_classes: int) -> InputCheck:
    return InputCheck(
        detector=detector,
        num_classes=num_classes,
        in_chans=backbone.in_chans,
        devices=DENSE_DEVICES,
    )
