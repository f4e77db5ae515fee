"""Pretrained ResNets and ResNeXts with Weight Standardization and batch-free norms, for timm.

Importing this package registers the variants: ``timm.create_model("resnet50_gn_ws")``.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import Any

from wszoo import interrupt as interrupt  # first: it takes Ctrl-C over while a command imports
from wszoo import ws_resnet
from wszoo.backbone import Backbone, load_backbone
from wszoo.layers import (
    FORMULAS,
    BatchChannelNorm,
    GroupNorm,
    WSConv2d,
    WSFormula,
    fold,
    refresh,
    standardize_convs,
    standardize_weight,
    to_group_norm,
)
from wszoo.memory import save_memory
from wszoo.weights import WEIGHTS, Weights
from wszoo.ws_resnet import WSResNet

__all__ = [
    "FORMULAS",
    "WEIGHTS",
    "Backbone",
    "BatchChannelNorm",
    "GroupNorm",
    "WSConv2d",
    "WSFormula",
    "WSResNet",
    "Weights",
    "fold",
    "load_backbone",
    "refresh",
    "save_memory",
    "standardize_convs",
    "standardize_weight",
    "to_group_norm",
    "ws_resnet",
]


def __getattr__(name: str) -> Any:
    """Import ``detection``, ``segmentation`` and ``load_finetuned`` where they are first used."""
    if name in ("detection", "segmentation"):
        return import_module(f"wszoo.{name}")
    if name == "load_finetuned":
        return import_module("wszoo.finetune.loading").load_finetuned
    raise AttributeError(f"module 'wszoo' has no attribute {name!r}")
