"""What can be asked of a net about how it trains: its loss along the gradient, its channels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.studies.nets import Block


class Along(NamedTuple):
    """The loss at a point and along its gradient.

    Attributes:
        loss: Where the net is.
        gradient: Its length, over all kernels of convolutions.
        losses: After each step.
        smoothness: Length by which the gradient changed over that of the step, for each step: an
            estimate from below of the Lipschitz constant of the gradient.
    """

    loss: float
    gradient: float
    losses: tuple[float, ...]
    smoothness: tuple[float, ...]


def along_gradient(
    net: nn.Module, images: Tensor, targets: Tensor, rates: Sequence[float]
) -> Along:
    """Step along the gradient of the kernels, by each of ``rates``, and come back.

    Source: Santurkar et al., "How Does Batch Normalization Help Optimization?", section 3.1,
    https://arxiv.org/abs/1805.11604
    """
    kernels = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    start = [kernel.detach().clone() for kernel in kernels]
    loss, gradient = _gradient(net, images, targets, kernels)
    length = _length(gradient)
    losses, smoothness = [], []
    for rate in rates:
        with torch.no_grad():
            for kernel, origin, slope in zip(kernels, start, gradient, strict=True):
                kernel.copy_(origin - rate * slope)
        there, other = _gradient(net, images, targets, kernels)
        change = _length([a - b for a, b in zip(other, gradient, strict=True)])
        losses.append(there)
        smoothness.append(change / (rate * length))
    with torch.no_grad():
        for kernel, origin in zip(kernels, start, strict=True):
            kernel.copy_(origin)
    return Along(loss, length, tuple(losses), tuple(smoothness))


def _gradient(
    net: nn.Module, images: Tensor, targets: Tensor, kernels: Sequence[Tensor]
) -> tuple[float, tuple[Tensor, ...]]:
    loss = F.cross_entropy(net(images), targets)
    return loss.item(), torch.autograd.grad(loss, kernels)


def _length(tensors: Sequence[Tensor]) -> float:
    return torch.linalg.vector_norm(torch.stack([t.norm() for t in tensors])).item()


def kernel_length(net: nn.Module) -> float:
    """Length of all kernels of convolutions, as one vector."""
    return _length([m.weight.detach() for m in net.modules() if isinstance(m, nn.Conv2d)])


class Channels(NamedTuple):
    """What single channels do before their ReLU, over photos and places.

    Attributes:
        active: Share of values above zero, by channel.
        mean: By channel.
        deviation: By channel.
    """

    active: Tensor
    mean: Tensor
    deviation: Tensor


@torch.no_grad()
def channels(net: nn.Module, images: Tensor) -> Channels:
    """Watch every norm that a ReLU follows at once: that of the stem, the first of each block."""
    with _watched(net) as seen:
        net(images)
    values = [x.transpose(0, 1).flatten(1) for x in seen]
    return Channels(
        active=torch.cat([(x > 0).float().mean(1) for x in values]),
        mean=torch.cat([x.mean(1) for x in values]),
        deviation=torch.cat([x.std(1) for x in values]),
    )


@contextmanager
def _watched(net: nn.Module) -> Iterator[list[Tensor]]:
    """Outputs of the norms, in a list that fills as the net runs."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append(output.clone())  # the ReLU behind it works in place

    norms = [net.get_submodule("1"), *(m.norm1 for m in net.modules() if isinstance(m, Block))]
    hooks = [norm.register_forward_hook(keep) for norm in norms]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
