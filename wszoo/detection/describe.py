"""What there is to say about a detector."""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wszoo.lint import lint


def describe_detector(model: nn.Module, *, size: int | None = None) -> dict[str, Any]:
    """Parameters, arithmetic and norms of a detector.

    The multiply-accumulates are those of one image at inference: the backbone and what runs on
    every position, and in two-stage detectors the heads on as many proposals and detections as
    the model keeps at most. Nothing is run; resizing and suppression are not counted.

    Args:
        model: What a constructor of this package returned, or another of torchvision's detectors.
        size: Side of the square image, in pixels; by default the model's ``min_size``.

    Returns:
        ``model``, ``params``, ``trainable``, ``MACs`` and ``norms`` (class name to count).
    """
    meta: Any = copy.deepcopy(model).to("meta").eval()
    transform: Any = model.transform
    side = size or transform.min_size[-1]
    padded = math.ceil(side / transform.size_divisible) * transform.size_divisible
    image = torch.empty(1, len(transform.image_mean), padded, padded, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = meta.backbone(image)
        if hasattr(meta, "roi_heads"):
            remark = _run_two_stages(meta, features)
        else:
            meta.head(list(features.values()))
            remark = ""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "model": type(model).__name__,
        "params": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        "trainable": f"{trainable / 1e6:.2f} M",
        "MACs": f"{counter.get_total_flops() / 2e9:.2f} G at {padded} x {padded}{remark}",
        "norms": lint(model).norms,
    }


def _run_two_stages(meta: Any, features: dict[str, torch.Tensor]) -> str:
    """Run all heads on empty boxes; how many proposals and detections that were, in words."""
    channels = meta.backbone.out_channels
    heads = meta.roi_heads
    proposals, detections = meta.rpn.post_nms_top_n(), heads.detections_per_img
    meta.rpn.head(list(features.values()))
    bins = heads.box_roi_pool.output_size
    pooled = torch.empty(proposals, channels, *bins, device="meta")
    heads.box_predictor(heads.box_head(pooled))
    if heads.has_mask():
        bins = heads.mask_roi_pool.output_size
        pooled = torch.empty(detections, channels, *bins, device="meta")
        heads.mask_predictor(heads.mask_head(pooled))
        return f", {proposals} proposals, {detections} detections"
    return f", {proposals} proposals"
