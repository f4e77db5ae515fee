"""Converted detectors, and torchvision's own with GroupNorm to prove them against.

What is proven is all that has weights: backbone, pyramid, RPN and heads, on the same maps. Anchors,
RoIAlign and non-maximum suppression have none and are torchvision's on both sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from wszoo import detection
from wszoo.conversion.nets import Target
from wszoo.conversion.reference import lay_in, standardize_as_published, torchvision_resnet
from wszoo.convert import Converted

_PLAIN = ("rpn.", "roi_heads.mask_predictor.")  # convolutions without a norm behind them
_OUTPUTS = {
    "objectness": "rpn.head.cls_logits",
    "proposals": "rpn.head.bbox_pred",
    "classes": "roi_heads.box_predictor.cls_score",
    "boxes": "roi_heads.box_predictor.bbox_pred",
    "masks": "roi_heads.mask_predictor",
}
TAPS = {
    "stem": "backbone.body.maxpool",
    **{f"stage {i}": f"backbone.body.layer{i}" for i in range(1, 5)},
    **{f"pyramid {i + 1}": f"backbone.fpn.layer_blocks.{i}" for i in range(4)},
    **_OUTPUTS,
}
_CLASSES = "roi_heads.box_predictor.cls_score.bias"
_BOX_BINS, _MASK_BINS = 7, 14  # per side of a box; torchvision's and the published
_REPRESENTATION = 1024  # of a box
_WIDTH = 256  # of the pyramid, by default


@dataclass(frozen=True, kw_only=True)
class DetectorTarget(Target):
    """A detector of ``wszoo.detection``.

    Attributes:
        missing: Keys that the source has nothing for; those parts have to be trained.
    """

    missing: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """With the background; 2 where the source has no classes of ours."""
        return len(self.state_dict[_CLASSES]) if _CLASSES in self.state_dict else 2

    @property
    def call(self) -> str:
        arguments = {**self.model_args, "num_classes": self.num_classes, "pretrained": False}
        backbone = repr(arguments.pop("backbone"))
        others = [f"{key}={value!r}" for key, value in arguments.items()]
        return f"wszoo.detection.{self.model}({', '.join([backbone, *others])})"

    def build(self, state_dict: Mapping[str, Tensor] | None = None) -> nn.Module:
        make = {"faster_rcnn": detection.faster_rcnn, "mask_rcnn": detection.mask_rcnn}[self.model]
        with torch.device("meta"):
            net = make(**self.model_args, num_classes=self.num_classes, pretrained=False)
        tensors = self.state_dict if state_dict is None else state_dict
        return lay_in(net, tensors, self.model, missing=self.missing)

    def run(self, net: nn.Module, image: Tensor) -> None:
        """Each part on the maps of the one below, as far as it has weights."""
        detector: Any = net
        heads = detector.roi_heads
        maps = list(detector.backbone(image).values())
        if _is_here(detector.rpn.head):
            detector.rpn.head(maps)
        if _is_here(heads.box_head):
            vectors = heads.box_head(F.adaptive_avg_pool2d(maps[0], _BOX_BINS))
            if _is_here(heads.box_predictor):
                heads.box_predictor(vectors)
        if heads.has_mask() and _is_here(heads.mask_head):
            deep = heads.mask_head(F.adaptive_avg_pool2d(maps[0], _MASK_BINS))
            if _is_here(heads.mask_predictor):
                heads.mask_predictor(deep)


def _is_here(module: nn.Module) -> bool:
    return not any(parameter.is_meta for parameter in module.parameters())


def detector_target(converted: Converted) -> DetectorTarget:
    """Our detector that runs ``converted``, and its weights.

    Raises:
        ValueError: Its pyramid is another than ours, so that nothing above it has its maps.
    """
    if any(key.startswith("backbone.fpn.") for key in converted.missing):
        reason = next(why for key, why in converted.dropped.items() if key.startswith("neck."))
        raise ValueError(f"the heads of this detector stand on another pyramid than ours: {reason}")
    width = len(converted.state_dict["backbone.fpn.inner_blocks.0.0.weight"])
    other_width = {"pyramid_channels": width} if width != _WIDTH else {}
    return DetectorTarget(
        model=converted.architecture,
        model_args={"backbone": converted.backbone, **other_width},
        formula=converted.source.formula,
        state_dict=converted.state_dict,
        taps=TAPS,
        outputs=tuple(_OUTPUTS),
        missing=converted.missing,
    )


def reference_detector(converted: Converted, state: Mapping[str, Tensor]) -> nn.Module:
    """Torchvision's detector with GroupNorm that computes what a file means, in float64.

    Args:
        converted: Says which detector it is, its formula, and which parts have no weights.
        state: The weights of the file, see ``wszoo.conversion.renaming.as_stock_net``.

    Raises:
        ValueError: They do not fit.
    """
    formula = converted.source.formula
    assert converted.backbone is not None
    with torch.device("meta"):
        net = _torchvision_detector(converted.architecture, converted.backbone, state)
    kernels = {
        f"{path}.weight"
        for path, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and not path.startswith(_PLAIN)
    }
    ready = {
        key: standardize_as_published(value, formula) if formula and key in kernels else value
        for key, value in state.items()
    }
    return lay_in(net, ready, f"plain {converted.architecture}", missing=converted.missing)


def _torchvision_detector(
    architecture: str, backbone: str, state: Mapping[str, Tensor]
) -> FasterRCNN:
    laterals = [state[f"backbone.fpn.inner_blocks.{i}.0.weight"] for i in range(4)]
    width = len(laterals[0])
    below = BackboneWithFPN(
        torchvision_resnet(backbone, 0),
        {f"layer{i + 1}": str(i) for i in range(4)},
        [lateral.shape[1] for lateral in laterals],
        width,
        norm_layer=_group_norm,
    )
    classes = len(state[_CLASSES]) if _CLASSES in state else 2
    box_head = FastRCNNConvFCHead(
        (width, _BOX_BINS, _BOX_BINS), [width] * 4, [_REPRESENTATION], norm_layer=_group_norm
    )
    heads = {"box_head": box_head, "box_predictor": FastRCNNPredictor(_REPRESENTATION, classes)}
    if architecture == "faster_rcnn":
        return FasterRCNN(below, **heads)
    mask_head = MaskRCNNHeads(width, [width] * 4, 1, norm_layer=_group_norm)
    predictor = MaskRCNNPredictor(width, width, classes)
    return MaskRCNN(below, **heads, mask_head=mask_head, mask_predictor=predictor)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)
