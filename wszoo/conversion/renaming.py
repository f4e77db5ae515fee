"""The tensors of a foreign file under the names of the stock net that stands for their source.

A second way to the same place as ``wszoo.convert``, and independent of it: nothing here comes from
there. A proof whose two nets got their weights by one mapping could not see a fault in it.
"""

import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# A pattern of whole keys, and what they become; the first that fits is taken.
_Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

_AS_IT_IS: _Rules = ((r"(.*)", r"\1"),)
_GN_TO_BN: _Rules = ((r"(.*\b)gn([1-3]\..*)", r"\1bn\2"), *_AS_IT_IS)
_BCN: _Rules = ((r"(.*)\.pbn\.(.*)", r"\1.bn.\2"), *_AS_IT_IS)

_BRANCHES = {
    "1": ("downsample.0", "downsample.1"),
    "2a": ("conv1", "bn1"),
    "2b": ("conv2", "bn2"),
    "2c": ("conv3", "bn3"),
}
_BLOBS = {"w": (0, "weight"), "gn_s": (1, "weight"), "gn_b": (1, "bias")}
_DETECTRON: _Rules = (
    (r"conv1_w", "conv1.weight"),
    (r"conv1_gn_s", "bn1.weight"),
    (r"conv1_gn_b", "bn1.bias"),
    (r"pred_w", "fc.weight"),
    (r"pred_b", "fc.bias"),
    (
        r"res([2-5])_(\d+)_branch(1|2[abc])_(w|gn_s|gn_b)",
        lambda m: (
            f"layer{int(m[1]) - 1}.{m[2]}.{_BRANCHES[m[3]][_BLOBS[m[4]][0]]}.{_BLOBS[m[4]][1]}"
        ),
    ),
)

_TF_KINDS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
_TF: _Rules = (
    (
        r"(.+)/(kernel|gamma|beta|bias)",
        lambda m: f"{m[1].replace('/', '.')}.{_TF_KINDS[m[2]]}",
    ),
)

_LETTERS = {"a": 1, "b": 2, "c": 3}


def _bit_block(match: re.Match[str]) -> str:
    return f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}"


_BIT: _Rules = (
    (r"resnet/root_block/standardized_conv2d/kernel", "stem.conv.weight"),
    (r"resnet/group_norm/gamma", "norm.weight"),
    (r"resnet/group_norm/beta", "norm.bias"),
    (r"resnet/head/conv2d/kernel", "head.fc.weight"),
    (r"resnet/head/conv2d/bias", "head.fc.bias"),
    (
        r"resnet/block(\d)/unit(\d+)/a/proj/standardized_conv2d/kernel",
        lambda m: f"{_bit_block(m)}.downsample.conv.weight",
    ),
    (
        r"resnet/block(\d)/unit(\d+)/([abc])/standardized_conv2d/kernel",
        lambda m: f"{_bit_block(m)}.conv{_LETTERS[m[3]]}.weight",
    ),
    (
        r"resnet/block(\d)/unit(\d+)/([abc])/group_norm/(gamma|beta)",
        lambda m: f"{_bit_block(m)}.norm{_LETTERS[m[3]]}.{_TF_KINDS[m[4]]}",
    ),
)

_MMDET: _Rules = (
    (r"backbone\.(.*\b)gn([1-3]\..*)", r"backbone.body.\1bn\2"),
    (r"backbone\.(.*)", r"backbone.body.\1"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(.*)", r"backbone.fpn.inner_blocks.\1.0.\2"),
    (r"neck\.lateral_convs\.(\d)\.gn\.(.*)", r"backbone.fpn.inner_blocks.\1.1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.*)", r"backbone.fpn.layer_blocks.\1.0.\2"),
    (r"neck\.fpn_convs\.(\d)\.gn\.(.*)", r"backbone.fpn.layer_blocks.\1.1.\2"),
    (r"rpn_head\.rpn_conv\.(.*)", r"rpn.head.conv.0.0.\1"),
    (r"rpn_head\.rpn_cls\.(.*)", r"rpn.head.cls_logits.\1"),
    (r"rpn_head\.rpn_reg\.(.*)", r"rpn.head.bbox_pred.\1"),
    (r"roi_head\.bbox_head\.shared_convs\.(\d)\.conv\.(.*)", r"roi_heads.box_head.\1.0.\2"),
    (r"roi_head\.bbox_head\.shared_convs\.(\d)\.gn\.(.*)", r"roi_heads.box_head.\1.1.\2"),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.(.*)", r"roi_heads.box_head.5.\1"),
    (r"roi_head\.bbox_head\.fc_cls\.(.*)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(.*)", r"roi_heads.box_predictor.bbox_pred.\1"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(.*)", r"roi_heads.mask_head.\1.0.\2"),
    (r"roi_head\.mask_head\.convs\.(\d)\.gn\.(.*)", r"roi_heads.mask_head.\1.1.\2"),
    (r"roi_head\.mask_head\.upsample\.(.*)", r"roi_heads.mask_predictor.conv5_mask.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(.*)", r"roi_heads.mask_predictor.mask_fcn_logits.\1"),
)

_RULES: dict[str, _Rules] = {
    "jhu": _AS_IT_IS,
    "timm": _AS_IT_IS,
    "timm_bit": _AS_IT_IS,
    "openmmlab": _GN_TO_BN,
    "openmmlab_gn": _GN_TO_BN,
    "openmmlab_detectron": _GN_TO_BN,
    "groupnorm_reproduce": _GN_TO_BN,
    "bcn": _BCN,
    "detectron": _DETECTRON,
    "jhu_detectron": _DETECTRON,
    "tf": _TF,
    "bit": _BIT,
    "mmdet": _MMDET,
}


def as_stock_net(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a file under the keys and in the layout of torchvision's or timm's net.

    Args:
        state: All of the file that belongs to the net, under its keys; where all have ``module.``
            before them, that is taken off.
        source: Key of ``wszoo.convert.SOURCES``.

    Returns:
        Tensors under the keys of ``wszoo.conversion.reference_net``, or of ``reference_detector``.

    Raises:
        ValueError: A key is none of this source, or two become one.
    """
    renamed: dict[str, Tensor] = {}
    is_parallel = all(key.startswith("module.") for key in state)
    for key, tensor in state.items():
        name = _renamed(key.removeprefix("module.") if is_parallel else key, source)
        if name in renamed:
            raise ValueError(f"two tensors of this file are {name}, one of them is {key}")
        renamed[name] = _laid_out(tensor, name, source)
    return renamed


def _renamed(key: str, source: str) -> str:
    for pattern, name in _RULES[source]:
        if match := re.fullmatch(pattern, key):
            return match.expand(name) if isinstance(name, str) else name(match)
    raise ValueError(f"{key} is no tensor of {source!r}")


def _laid_out(tensor: Tensor, name: str, source: str) -> Tensor:
    if source in ("tf", "bit") and tensor.ndim == 4:
        return torch.einsum("hwio->oihw", tensor)
    if source == "tf" and tensor.ndim == 2:
        return tensor.T
    if source == "mmdet":
        return _with_background_first(tensor, name)
    return tensor


def _with_background_first(rows: Tensor, name: str) -> Tensor:
    """For mmdetection the background is the last class, and has no boxes or masks."""
    if ".cls_score." in name:
        return torch.roll(rows, 1, dims=0)
    added = {"bbox_pred": 4, "mask_fcn_logits": 1}.get(name.split(".")[-2], 0)
    if not added or not name.startswith("roi_heads."):
        return rows
    return F.pad(rows, [0, 0] * (rows.ndim - 1) + [added, 0])
