"""The check that an exported file has to pass, against files that are wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from wszoo.exporting import CheckFailed, Plan, Subject, make_plan, subject_of_classifier
from wszoo.exporting.checking import check, check_batches
from wszoo.exporting.graphs import graph_of
from wszoo.finetune.settings import TaskName

SMALL = "test_resnet_gn_ws"
SIZE = (64, 96)
BOXES = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]])
ONES = torch.ones(2)


class Answer(nn.Module):
    """Finds the same in every image."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.tensors = tensors

    def forward(self, _: Tensor) -> tuple[Tensor, ...]:
        return self.tensors


def plan_of(task: TaskName) -> Plan:
    return make_plan(Path("net.onnx"), task, size=SIZE)


def subject_of(task: TaskName) -> tuple[Subject, list[Tensor]]:
    """Something of that task, and the batches that it is checked on."""
    third = (0.5, 0.5, 0.5)
    subject = Subject(
        net=nn.Identity(), name="none", task=task, head="none", size=SIZE, mean=third, std=third
    )
    return subject, check_batches(subject, plan_of(task), SIZE)


@pytest.mark.parametrize(("shift", "message"), [(1e-3, "differs from torch by 1.0e-03"), (0, None)])
def test_the_check_finds_another_net(shift: float, message: str | None) -> None:
    subject = subject_of_classifier(timm.create_model(SMALL).eval(), SMALL)
    graph = graph_of(subject, plan_of("classify"))
    batches = check_batches(subject, plan_of("classify"), SIZE)

    def shifted(images: Tensor) -> tuple[Tensor, ...]:
        logits = graph(images)
        return (logits + shift * logits.abs().max(),)

    if message is None:
        assert check(graph, shifted, subject, batches).error == 0
    else:
        with pytest.raises(CheckFailed, match=message):
            check(graph, shifted, subject, batches)


def test_another_shape_fails_the_check() -> None:
    subject, batches = subject_of("segment")

    with pytest.raises(CheckFailed, match=r"gives shape \(3, 64, 96\) on .*, torch \(1, 3, 64, 96"):
        check(nn.Identity(), lambda images: (images[0],), subject, batches)


def test_values_that_are_not_finite_fail_the_check() -> None:
    subject, batches = subject_of("segment")

    with pytest.raises(CheckFailed, match="differs from torch by nan"):
        check(nn.Identity(), lambda images: (images * float("nan"),), subject, batches)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((BOXES[:1], ONES[:1], ONES[:1]), "the file finds 1 objects .*, torch 2"),
        ((BOXES + 1, ONES, ONES), "differs from torch by"),
        ((BOXES, ONES - 0.1, ONES), "differs from torch by 1.0e-01"),
        ((BOXES, ONES, torch.tensor([1.0, 2])), "finds other objects|differs from torch by inf"),
        ((BOXES[[0, 0]], ONES, ONES), "finds other objects"),
    ],
)
def test_other_objects_fail_the_check(found: tuple[Tensor, ...], message: str) -> None:
    subject, batches = subject_of("detect")

    with pytest.raises(CheckFailed, match=message):
        check(Answer(BOXES, ONES, ONES), lambda _: found, subject, batches)


def test_other_masks_fail_the_check() -> None:
    subject, batches = subject_of("detect")
    masks = torch.rand(2, 1, *SIZE)

    with pytest.raises(CheckFailed, match="the masks of the file differ from torch's by"):
        check(
            Answer(BOXES, ONES, ONES, masks),
            lambda _: (BOXES, ONES, ONES, masks.flip(0)),
            subject,
            batches,
        )


def test_objects_may_come_in_another_order() -> None:
    subject, batches = subject_of("detect")
    masks = torch.rand(2, 1, *SIZE)

    result = check(
        Answer(BOXES, ONES, ONES, masks),
        lambda _: (BOXES.flip(0), ONES, ONES, masks.flip(0)),
        subject,
        batches,
    )

    assert (result.error, result.objects) == (0, 6)


def test_a_check_that_proves_nothing_fails() -> None:
    subject, batches = subject_of("detect")
    nothing = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))

    with pytest.raises(CheckFailed, match="finds nothing in the images of the check.*--photo"):
        check(Answer(*nothing), lambda _: nothing, subject, batches)


def test_a_file_that_does_not_run_fails_the_check() -> None:
    subject, batches = subject_of("segment")

    def broken(_: Tensor) -> tuple[Tensor, ...]:
        raise IndexError("no such axis")

    with pytest.raises(CheckFailed, match=r"does not run .*\(1, 3, 64, 96\): no such axis"):
        check(nn.Identity(), broken, subject, batches)


def test_more_is_allowed_of_nets_of_a_hundred_layers() -> None:
    shallow, batches = subject_of("segment")
    convolutions = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(101)))
    deep = replace(shallow, net=convolutions)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return (images * 1.0001,)

    assert check(nn.Identity(), run, deep, batches).tolerance == 3e-4
    with pytest.raises(CheckFailed, match="more than 5e-05"):
        check(nn.Identity(), run, shallow, batches)
