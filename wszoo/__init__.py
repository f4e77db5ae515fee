"""Pretrained ResNets and ResNeXts with Weight Standardization and batch-free norms, for timm.

Importing this package registers the variants: ``timm.create_model("resnet50_gn_ws")``.
"""

__version__ = "0.1.0"

from wszoo import ws_resnet
from wszoo.layers import (
    FORMULAS,
    BatchChannelNorm,
    GroupNorm,
    WSConv2d,
    WSFormula,
    fold,
    standardize_convs,
    standardize_weight,
    to_group_norm,
)
from wszoo.weights import WEIGHTS, Weights
from wszoo.ws_resnet import WSResNet

__all__ = [
    "FORMULAS",
    "WEIGHTS",
    "BatchChannelNorm",
    "GroupNorm",
    "WSConv2d",
    "WSFormula",
    "WSResNet",
    "Weights",
    "fold",
    "standardize_convs",
    "standardize_weight",
    "to_group_norm",
    "ws_resnet",
]
