"""Detectors without BatchNorm: torchvision's, over any backbone, with GroupNorm and WS throughout.

Each constructor returns torchvision's own class, so its losses, predictions and ``num_classes``
(the background counted) are torchvision's. Images are floats in 0..1; the detector normalises them
with the mean and std of its weights. What torchvision would train on silently, such as label 0 or
boxes of NaN, is refused with one line.
"""

from wszoo.detection.dense import fcos, retinanet
from wszoo.detection.describe import describe_detector
from wszoo.detection.inputs import InputCheck
from wszoo.detection.pyramid import PyramidBackbone
from wszoo.detection.rcnn import faster_rcnn, mask_rcnn

__all__ = [
    "InputCheck",
    "PyramidBackbone",
    "describe_detector",
    "faster_rcnn",
    "fcos",
    "mask_rcnn",
    "retinanet",
]
