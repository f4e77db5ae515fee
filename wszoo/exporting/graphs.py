"""Nets made ready for an exporter: folded, without hooks, tensors in and tensors out."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from wszoo.exporting.plan import Plan
from wszoo.exporting.subject import Subject
from wszoo.layers import WSConv2d, fold

INPUT = "images"
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class Normalised(nn.Module):
    """A classifier that takes images in 0..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)


class OneImage(nn.Module):
    """A detector that takes a batch of one and gives tensors.

    Shape:
        ``(1, C, H, W)`` in 0..1 to boxes ``(n, 4)``, scores ``(n,)``, labels ``(n,)`` and perhaps
        masks ``(n, 1, H, W)`` in 0..1. One-stage detectors of torchvision score the background
        like a class; it is left out.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        answer: Any = self.net([images[0]])
        found: dict[str, Tensor] = (answer[1] if isinstance(answer, tuple) else answer)[0]
        is_object = found["labels"] > 0
        return tuple(found[name][is_object] for name in _found_names(self.net))


def _found_names(net: nn.Module) -> tuple[str, ...]:
    """What a detector finds, in the order of the file."""
    heads = getattr(net, "roi_heads", None)
    has_masks = heads is not None and heads.has_mask()
    return ("boxes", "scores", "labels", "masks") if has_masks else ("boxes", "scores", "labels")


def output_names(subject: Subject) -> tuple[str, ...]:
    """What comes out of the file, in this order."""
    return _found_names(subject.net) if subject.task == "detect" else ("logits",)


def graph_of(subject: Subject, plan: Plan, *, folded: bool = True) -> nn.Module:
    """The net with the inputs and outputs of the file.

    Args:
        subject: Left as it is.
        plan: Says whether mean and deviation belong to the file.
        folded: Make a copy that holds plain convolutions and no hooks: those of detectors look
            at values, which a graph does not have, and widen half precision, which it is not in.

    Returns:
        A module in eval mode.
    """
    net = subject.net
    if folded:
        net = copy.deepcopy(net)
        for module in net.modules():
            for hooks in _HOOKS:
                getattr(module, hooks).clear()
        if any(isinstance(module, WSConv2d) for module in net.modules()):
            fold(net)
    if subject.task == "detect":
        return OneImage(net).eval()
    if subject.task == "classify" and plan.preprocessing:
        return Normalised(net, subject.mean, subject.std).eval()
    return net
