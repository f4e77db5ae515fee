from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wszoo.finetune.defaults import HEADS, settings_for
from wszoo.finetune.models import build
from wszoo.finetune.settings import TaskName
from wszoo.finetune.transplant import Transplant, transplant

ALL: list[tuple[TaskName, str]] = [
    ("classify", "linear"),
    *(("detect", head) for head in HEADS["detect"]),
    ("segment", "semantic_fpn"),  # all segmenters end alike
]
BEFORE, NOW = ("cat", "dog", "bird"), ("owl", "bird", "cat", "fish")


def make(task: TaskName, head: str, classes: int, seed: int) -> nn.Module:
    settings = settings_for(
        task,
        model="test_resnet_gn_ws",
        head=head,
        image_size=64,
        max_size=64,
        pretrained=False,
        seed=seed,
    )
    model = build(settings, classes)
    with torch.no_grad():  # biases that start alike could not be told apart
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    return model.eval()


def scores_by_class(model: Any, task: TaskName, head: str, images: Tensor) -> Tensor:
    """Last dimension: classes, the background of a detector first."""
    with torch.no_grad():
        if task != "detect":
            scores = model(images)
            return scores if task == "classify" else scores.movedim(1, -1)
        features = model.backbone(images)
        if head in ("retinanet", "fcos"):
            return model.head([*features.values()])["cls_logits"]
        pooled = torch.ones(2, 256, 7, 7) * features["0"].mean()
        logits, boxes = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
        per_class = [logits, *boxes.view(len(boxes), -1, 4).unbind(-1)]
        if head == "mask_rcnn":
            pooled = torch.ones(2, 256, 2, 2) * features["0"].mean()
            masks = model.roi_heads.mask_predictor(model.roi_heads.mask_head(pooled))
            per_class.append(masks.sum((2, 3)))
        return torch.stack(per_class)


@pytest.mark.parametrize(("task", "head"), ALL)
def test_a_class_that_both_know_is_scored_as_before(task: TaskName, head: str) -> None:
    old, new = make(task, head, len(BEFORE), seed=1), make(task, head, len(NOW), seed=2)
    images = torch.rand(1, 3, 64, 64)
    first = scores_by_class(new, task, head, images)

    moved = transplant(new, old.state_dict(), task=task, head=head, before=BEFORE, now=NOW)

    assert moved == Transplant(kept=("bird", "cat"), new=("owl", "fish"), dropped=("dog",))
    was, now = (scores_by_class(model, task, head, images) for model in (old, new))
    background = int(task == "detect")
    for name in ("bird", "cat"):
        torch.testing.assert_close(
            now[..., background + NOW.index(name)], was[..., background + BEFORE.index(name)]
        )
    if background:
        torch.testing.assert_close(now[..., 0], was[..., 0])
    assert not torch.allclose(now, first)


def test_rows_of_new_classes_stay_as_they_were_made() -> None:
    old, new = (make("classify", "linear", count, seed=count) for count in (3, 4))
    before = new.state_dict()["fc.weight"].clone()

    transplant(new, old.state_dict(), task="classify", head="linear", before=BEFORE, now=NOW)

    after = new.state_dict()["fc.weight"]
    assert [bool((after[row] == before[row]).all()) for row in range(4)] == [
        True,
        False,
        False,
        True,
    ]


def test_what_became_of_the_classes_is_told() -> None:
    moved = Transplant(kept=("a", "b"), new=(), dropped=("c",))

    assert str(moved) == "2 kept: a, b; 0 new, from random rows; 1 dropped: c"


def test_a_net_of_another_kind_is_refused() -> None:
    fcos, retina = (make("detect", head, 2, seed=0) for head in ("fcos", "retinanet"))
    larger = make("classify", "linear", 2, seed=0)
    state = larger.state_dict() | {"conv1.weight": torch.zeros(8, 3, 3, 3)}

    with pytest.raises(ValueError, match=r"differ in \d+ tensors, first .*; go on with the same"):
        transplant(
            fcos, retina.state_dict(), task="detect", head="fcos", before=("a", "b"), now=("a", "b")
        )
    with pytest.raises(ValueError, match=r"has conv1.weight of shape \(8, 3, 3, 3\), this one"):
        transplant(larger, state, task="classify", head="linear", before=("a", "b"), now=("a", "b"))
