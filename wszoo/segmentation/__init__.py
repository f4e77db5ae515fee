"""Segmentation models without BatchNorm: one call, and they train at batch size 1.

``wszoo.segmentation.<name>(backbone, num_classes=...)`` takes photos in 0..1 and gives a score per
class and pixel.
"""

from wszoo.segmentation.loss import segmentation_loss
from wszoo.segmentation.models import deeplab_v3_plus, semantic_fpn, unet, upernet
from wszoo.segmentation.segmenter import MIN_SIZE, Segmenter, describe_segmenter

__all__ = [
    "MIN_SIZE",
    "Segmenter",
    "deeplab_v3_plus",
    "describe_segmenter",
    "segmentation_loss",
    "semantic_fpn",
    "unet",
    "upernet",
]
