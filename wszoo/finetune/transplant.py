"""Going on from an earlier run with other classes: heads are moved row by row, by class name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wszoo.finetune.settings import TaskName

_BACKGROUND = "\0background"  # of detectors; no class can be named so
_PER_CLASS: dict[str, tuple[str, ...]] = {
    "faster_rcnn": ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"),
    "mask_rcnn": (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    ),
    "retinanet": ("head.classification_head.cls_logits",),
    "fcos": ("head.classification_head.cls_logits",),
}


@dataclass(frozen=True, kw_only=True)
class Transplant:
    """What became of the classes.

    Attributes:
        kept: In both; their rows were taken over.
        new: Their rows are random.
        dropped: Only the earlier net knew them.
    """

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        parts = ("kept", self.kept), ("new, from random rows", self.new), ("dropped", self.dropped)
        return "; ".join(
            f"{len(names)} {what}: {', '.join(names)}" if names else f"0 {what}"
            for what, names in parts
        )


def transplant(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    task: TaskName,
    head: str,
    before: Sequence[str],
    now: Sequence[str],
) -> Transplant:
    """Load ``state`` of a net of other classes into ``model``, in place.

    Backbone, neck and all else that does not depend on the classes are taken over whole. Rows of
    classes that both know, by name, are moved to where ``model`` wants them.

    Args:
        model: Of the same head and backbone, with ``len(now)`` classes.
        state: Of the earlier net.
        task: Of both.
        head: Of both.
        before: Classes of ``state`` in the order of its rows.
        now: Those of ``model``.

    Raises:
        ValueError: Tensors are missing, unknown or of another shape.
    """
    layers = _class_layers(model, task, head)
    extra = (_BACKGROUND,) if task == "detect" else ()
    rows_before, rows_now = (*extra, *before), (*extra, *now)
    target = model.state_dict()
    _require_same(state, target, layers)
    for key, value in target.items():
        if key.rpartition(".")[0] in layers:
            _move_rows(key, state[key], value, rows_before, rows_now)
        else:
            value.copy_(state[key])
    return Transplant(
        kept=tuple(name for name in now if name in before),
        new=tuple(name for name in now if name not in before),
        dropped=tuple(name for name in before if name not in now),
    )


def _class_layers(model: nn.Module, task: TaskName, head: str) -> tuple[str, ...]:
    """Paths of the layers whose rows belong to classes."""
    if task == "detect":
        return _PER_CLASS[head]
    if task == "segment":
        return ("head",)
    name = model.pretrained_cfg["classifier"]  # type: ignore[index]
    assert isinstance(name, str)
    return (name,)


@torch.no_grad()
def _move_rows(
    key: str, source: Tensor, target: Tensor, before: Sequence[str], now: Sequence[str]
) -> None:
    old, new = _by_class(key, source, len(before)), _by_class(key, target, len(now))
    place = {name: row for row, name in enumerate(before)}
    for row, name in enumerate(now):
        if name in place:
            new[:, row] = old[:, place[name]]


def _by_class(key: str, values: Tensor, classes: int) -> Tensor:
    """A view ``(anchors, classes, values per class)``; torchvision has anchors outermost."""
    anchors = 1 if ".bbox_pred." in key else len(values) // classes
    return values.view(anchors, classes, -1)


def _require_same(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], layers: Sequence[str]
) -> None:
    if odd := sorted(state.keys() ^ target.keys()):
        raise ValueError(
            f"the earlier net and this one differ in {len(odd)} tensors, first {odd[0]!r}; go on "
            f"with the same model and head"
        )
    for key, value in target.items():
        first = 1 if key.rpartition(".")[0] in layers else 0  # rows may differ in number
        if state[key].shape[first:] != value.shape[first:]:
            raise ValueError(
                f"the earlier net has {key} of shape {tuple(state[key].shape)}, this one "
                f"{tuple(value.shape)}; go on with the same model and head"
            )
