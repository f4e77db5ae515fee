"""mmdetection's Faster and Mask R-CNN onto ours, which are torchvision's over a timm backbone."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from wszoo.convert.architecture import RESNETS, ResNet
from wszoo.convert.layouts import AS_IS, Change, Entry, differences_of, fit, key_of, summary_of

_BACKBONE, _BODY = "backbone.", "backbone.body."
_BOX, _MASK = "roi_head.bbox_head.", "roi_head.mask_head."
_HEADS = "roi_heads."


def _zeros_before(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])


_BACKGROUND_FIRST = Change(
    "background row moved from last to first",
    lambda rows: torch.cat([rows[-1:], rows[:-1]]),
    lambda rows: torch.cat([rows[1:], rows[:1]]),
)
_BACKGROUND_BOXES = Change(
    "zeros added for boxes of the background", lambda r: _zeros_before(r, 4), lambda r: r[4:]
)
_BACKGROUND_MASK = Change(
    "zeros added for masks of the background", lambda r: _zeros_before(r, 1), lambda r: r[1:]
)


class Part(NamedTuple):
    """A piece of a detector that is taken over as a whole or not at all."""

    name: str
    entries: list[Entry]


class Detector(NamedTuple):
    """What of a detector fits ours.

    Attributes:
        backbone: Name of the net below, without what its norms and kernels add to it.
        has_masks: It is a Mask R-CNN.
        entries: Tensors that are taken over, in mmdetection's order.
        missing: Keys of ours that nothing is there for.
        reasons: Key of theirs to the reason why it is left out.
    """

    backbone: str
    has_masks: bool
    entries: list[Entry]
    missing: tuple[str, ...]
    reasons: dict[str, str]


def fit_detector(state: Mapping[str, Tensor], *, by: str = "theirs") -> Detector:
    """Sort the tensors of a detector: backbone, neck, heads, and what has no place in ours.

    Args:
        state: Tensors under mmdetection's keys, or under ours.
        by: ``"theirs"`` or ``"ours"``.

    Raises:
        ValueError: The backbone is none that is known, or this is no two-stage detector.
    """
    below, masks = (_BACKBONE, _MASK) if by == "theirs" else (_BODY, f"{_HEADS}mask_")
    if not any(key.startswith(("rpn_head.", "rpn.head.")) for key in state):
        raise ValueError("only detectors with an RPN, Faster and Mask R-CNN, can be converted")
    if any(key.startswith("bbox_head.") for key in state):
        raise ValueError(
            "detectors of mmdetection 1.x measure boxes otherwise; convert a file of 2.0 or later"
        )
    body = {k.removeprefix(below): v for k, v in state.items() if k.startswith(below)}
    net = fit(body, "openmmlab", by=by)
    entries = [
        replace(entry, theirs=f"{_BACKBONE}{entry.theirs}", ours=f"{_BODY}{entry.ours}")
        for entry in net.entries
    ]
    has_masks = any(key.startswith(masks) for key in state)
    missing: list[str] = []
    reasons: dict[str, str] = {}
    for part in _parts(state, by, net.name, has_masks):
        wanted = {key_of(entry, by) for entry in part.entries}
        present = {key: tensor for key, tensor in state.items() if key in wanted}
        if differences := differences_of(present, part.entries, by=by):
            missing += [entry.ours for entry in part.entries]
            reason = f"our {part.name} is another: {summary_of(differences)}"
            reasons |= dict.fromkeys(present, reason)
        else:
            entries += part.entries
    taken = {key_of(entry, by) for entry in entries}
    for key in state.keys() - taken - reasons.keys():
        reasons[key] = "our detectors have no such part"
    ordered = {key: reasons[key] for key in state if key in reasons}
    return Detector(net.name, has_masks, entries, tuple(missing), ordered)


class _Sizes:
    """Widths of a detector, read off the tensors that are there; 1 where one is not."""

    def __init__(self, state: Mapping[str, Tensor], by: str) -> None:
        self._state, self._by = state, by

    def __call__(self, theirs: str, ours: str, axis: int) -> int:
        tensor = self._state.get(theirs if self._by == "theirs" else ours)
        return tensor.shape[axis] if tensor is not None and tensor.ndim > axis else 1


def _parts(state: Mapping[str, Tensor], by: str, backbone: str, has_masks: bool) -> Iterator[Part]:
    """The parts of our detector in mmdetection's order."""
    sizes = _Sizes(state, by)
    width = sizes("neck.lateral_convs.0.conv.weight", "backbone.fpn.inner_blocks.0.0.weight", 0)
    yield Part("FPN", _neck(backbone, width))
    yield Part("RPN", _rpn(width, sizes("rpn_head.rpn_cls.bias", "rpn.head.cls_logits.bias", 0)))
    classes = sizes(f"{_BOX}fc_cls.bias", f"{_HEADS}box_predictor.cls_score.bias", 0) - 1
    last = (f"{_BOX}shared_fcs.0.weight", f"{_HEADS}box_head.5.weight")
    hidden, flattened = sizes(*last, 0), sizes(*last, 1)
    yield Part("box predictor", _box_predictor(classes, hidden))
    inner = sizes(f"{_BOX}shared_convs.0.conv.weight", f"{_HEADS}box_head.0.0.weight", 0)
    convs = _four_convs(f"{_BOX}shared_convs", f"{_HEADS}box_head", inner, width)
    fc = _affine(f"{_BOX}shared_fcs.0", f"{_HEADS}box_head.5", (hidden, flattened))
    yield Part("box head", [*convs, *fc])
    if has_masks:
        inner = sizes(f"{_MASK}convs.0.conv.weight", f"{_HEADS}mask_head.0.0.weight", 0)
        upsample = (f"{_MASK}upsample", f"{_HEADS}mask_predictor.conv5_mask")
        reduced = sizes(f"{upsample[0]}.bias", f"{upsample[1]}.bias", 0)
        yield Part("mask head", _four_convs(f"{_MASK}convs", f"{_HEADS}mask_head", inner, width))
        yield Part("mask predictor", _mask_predictor(upsample, classes, inner, reduced))


def _affine(
    theirs: str, ours: str, shape: tuple[int, ...], change: Change = AS_IS, bias: int | None = None
) -> list[Entry]:
    """Weight and bias of a layer; the bias is as long as the weight has rows, if not ``bias``."""
    length = shape[0] if bias is None else bias
    return [
        Entry(f"{theirs}.weight", f"{ours}.weight", shape, change),
        Entry(f"{theirs}.bias", f"{ours}.bias", (length,), change),
    ]


def _conv_norm(theirs: str, ours: str, shape: tuple[int, int, int, int]) -> list[Entry]:
    conv = Entry(f"{theirs}.conv.weight", f"{ours}.0.weight", shape)
    return [conv, *_affine(f"{theirs}.gn", f"{ours}.1", shape[:1])]


def _four_convs(theirs: str, ours: str, inner: int, incoming: int) -> list[Entry]:
    return [
        entry
        for i in range(4)
        for entry in _conv_norm(
            f"{theirs}.{i}", f"{ours}.{i}", (inner, inner if i else incoming, 3, 3)
        )
    ]


def _neck(backbone: str, width: int) -> list[Entry]:
    net = RESNETS[backbone]
    assert isinstance(net, ResNet)
    fpn = "backbone.fpn"
    laterals = [
        _conv_norm(f"neck.lateral_convs.{i}", f"{fpn}.inner_blocks.{i}", (width, channels, 1, 1))
        for i, channels in enumerate(net.stage_channels)
    ]
    outputs = [
        _conv_norm(f"neck.fpn_convs.{i}", f"{fpn}.layer_blocks.{i}", (width, width, 3, 3))
        for i in range(4)
    ]
    return [entry for block in (*laterals, *outputs) for entry in block]


def _rpn(width: int, anchors: int) -> list[Entry]:
    return [
        *_affine("rpn_head.rpn_conv", "rpn.head.conv.0.0", (width, width, 3, 3)),
        *_affine("rpn_head.rpn_cls", "rpn.head.cls_logits", (anchors, width, 1, 1)),
        *_affine("rpn_head.rpn_reg", "rpn.head.bbox_pred", (4 * anchors, width, 1, 1)),
    ]


def _box_predictor(classes: int, hidden: int) -> list[Entry]:
    ours = f"{_HEADS}box_predictor"
    rows = classes + 1
    return [
        *_affine(f"{_BOX}fc_cls", f"{ours}.cls_score", (rows, hidden), _BACKGROUND_FIRST),
        *_affine(f"{_BOX}fc_reg", f"{ours}.bbox_pred", (4 * rows, hidden), _BACKGROUND_BOXES),
    ]


def _mask_predictor(
    upsample: tuple[str, str], classes: int, incoming: int, reduced: int
) -> list[Entry]:
    logits = (classes + 1, reduced, 1, 1)
    return [
        *_affine(*upsample, (incoming, reduced, 2, 2), bias=reduced),
        *_affine(
            f"{_MASK}conv_logits",
            f"{_HEADS}mask_predictor.mask_fcn_logits",
            logits,
            _BACKGROUND_MASK,
        ),
    ]
