"""Weights standardized once for all passes that one optimizer step adds up."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wszoo.layers.freezing import FrozenWSConv2d
from wszoo.layers.kept import Sight, may_keep
from wszoo.layers.weight import WSConv2d, connect, measure


class _Kernel:
    """The standardized kernel of one layer: a leaf, so that gradients gather at it."""

    def __init__(self, layer: WSConv2d) -> None:
        self._raw, self._formula = layer.weight, layer.formula
        # Steps of other nets' optimizers are allowed: those of an adversary, say.
        self._sight = Sight.of(self._raw, self._formula, steps=False)
        kernel, self._measured = measure(self._raw, self._formula)
        self._trains = self._raw.requires_grad
        self._leaf: Tensor | None = kernel.requires_grad_(self._raw.requires_grad)

    @property
    def pending(self) -> bool:
        """Whether gradients have gathered that the weight does not have yet."""
        return self._leaf is not None and self._leaf.grad is not None

    def kernel(self, layer: nn.Conv2d) -> Tensor | None:
        """What ``layer`` convolves with, or None where it must standardize by itself."""
        raw = layer.weight
        if raw is not self._raw or not may_keep(raw):
            return None
        self._require_unchanged()
        if self._leaf is not None:
            return self._leaf
        return connect(raw, self._formula, self._measured)

    def settle(self) -> None:
        """Hand what has gathered to the weight; from here on passes reach it by themselves."""
        leaf, self._leaf = self._leaf, None
        if leaf is not None and leaf.requires_grad:
            leaf.register_hook(_refuse_late)
        if leaf is not None and leaf.grad is not None:
            self._require_unchanged()
            with torch.enable_grad():
                kernel = connect(self._raw, self._formula, self._measured)
            torch.autograd.backward(kernel, leaf.grad)

    def _require_unchanged(self) -> None:
        trains = self._raw.requires_grad == self._trains
        if not (trains and self._sight.holds(self._raw, self._formula)):
            raise RuntimeError(
                f"a kernel of shape {tuple(self._raw.shape)} was changed inside standardized_once; "
                f"take the optimizer step after it"
            )


def _refuse_late(_grad: Tensor) -> None:
    raise RuntimeError(
        "a backward pass reached kernels of standardized_once that are settled already; run the "
        "backward pass inside it, before settle() where the forward pass was"
    )


class Once:
    """The standardized kernels that ``standardized_once`` shares between passes."""

    def __init__(self, kernels: list[_Kernel]) -> None:
        self._kernels = kernels

    def settle(self) -> None:
        """Hand the gradients so far to the weights, and let later passes reach them directly.

        For ``DistributedDataParallel``, which adds up over the ranks in the last pass only what
        reaches the weights: call it between the last pass under ``no_sync`` and the one that
        synchronizes, see ``standardized_once``. Nothing is standardized again.
        """
        for kernel in self._kernels:
            kernel.settle()

    def _close(self) -> None:
        late = sum(kernel.pending for kernel in self._kernels)
        if late and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise RuntimeError(
                f"the ranks have not added up the gradients of {late} kernels; "
                f"call settle() before the last forward pass of standardized_once"
            )
        self.settle()


@contextmanager
def standardized_once(module: nn.Module) -> Iterator[Once]:
    """Standardize the weights of ``module`` once for all passes inside, forward and backward.

    For gradient accumulation: the passes share each standardized kernel, their gradients gather
    at it, and on leaving they are pulled through the standardization together. That is linear, so
    the gradients are the same but for rounding, and K passes pay for one. Between passes it takes
    as much more memory as the kernels. The weights must rest meanwhile, and their ``grad`` is
    complete only afterwards: clip it and step the optimizer outside.

    Checkpointed layers, autocast and gradient scalers work as ever. Frozen layers keep their own
    kernels. Compiled nets, and whatever else is not an ordinary parameter, standardize in every
    pass.

    Under ``DistributedDataParallel`` it goes together with ``no_sync``: all passes but the last
    run under ``no_sync``, then comes ``Once.settle``, then the last pass, in which the ranks add
    up. Without ``settle`` the gradients of this rank would miss those of the others, which is
    refused on leaving::

        ddp = DistributedDataParallel(net)
        with standardized_once(net) as once:
            with ddp.no_sync():
                for images, labels in micro_batches[:-1]:
                    loss(ddp(images), labels).backward()
            once.settle()
            images, labels = micro_batches[-1]
            loss(ddp(images), labels).backward()
        optimizer.step()

    Args:
        module: The net, or a part of it.

    Yields:
        What is shared.

    Raises:
        RuntimeError: A layer is in such a context already, a weight was changed inside, or the
            ranks have not added up a gradient. After an error inside, gathered gradients are lost.

    Example:
        >>> net = nn.Sequential(WSConv2d(3, 8, 3), nn.GroupNorm(4, 8))
        >>> with standardized_once(net):
        ...     for image in torch.randn(4, 1, 3, 8, 8):
        ...         net(image).square().mean().backward()
        >>> net[0].weight.grad.shape
        torch.Size([8, 3, 3, 3])
    """
    layers = [layer for layer in module.modules() if isinstance(layer, WSConv2d) and _shares(layer)]
    if any("_once" in layer.__dict__ for layer in layers):
        raise RuntimeError("standardized_once is entered already for this net; leave it first")
    try:
        kernels = []
        for layer in layers:
            kernels.append(_Kernel(layer))
            layer.__dict__["_once"] = kernels[-1]
        once = Once(kernels)
        yield once
        once._close()
    finally:
        for layer in layers:
            layer.__dict__.pop("_once", None)


def _shares(layer: WSConv2d) -> bool:
    at_rest = isinstance(layer, FrozenWSConv2d) and not layer.weight.requires_grad
    return not at_rest and may_keep(layer.weight)
