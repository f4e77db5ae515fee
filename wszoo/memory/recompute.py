"""Layers whose activations are dropped after the forward pass and computed again for backward."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from timm.layers import DropBlock2d, DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from wszoo.layers import WSConv2d
from wszoo.layers.blocks import is_watched

Layer = Callable[[Tensor], Tensor]
_DRAWING = (DropPath, DropBlock2d, _DropoutNd, nn.RReLU)


def chain(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """``x`` through all ``layers``."""
    for layer in layers:
        x = layer(x)
    return x


def again(layers: Sequence[nn.Module], x: Tensor, *, keep_kernels: bool) -> Tensor:
    """``x`` through ``layers``, of which only ``x`` is kept for the backward pass.

    That pass computes again as far as the last tensor that it needs, so a convolution at the end
    is not run twice. Random numbers are drawn again alike, running statistics move once.

    Args:
        layers: Modules that hold no state but parameters, and the buffers of BatchNorm.
        x: Their input.
        keep_kernels: Keep standardized kernels, which else are standardized again, too.
    """
    inner = [module for layer in layers for module in layer.modules()]
    draws = any(isinstance(module, _DRAWING) and module.training for module in inner)
    norms = [m for m in inner if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    options: dict[str, Any] = (
        {"context_fn": lambda: (nullcontext(), _SameStatistics(norms))} if norms else {}
    )
    run: Sequence[Layer] = [_with_kernel(layer) for layer in layers] if keep_kernels else layers
    result: Tensor = checkpoint(
        chain, run, x, use_reentrant=False, preserve_rng_state=draws, **options
    )
    return result


def _with_kernel(layer: nn.Module) -> Layer:
    """``layer`` with the kernel of this pass, standardized outside of what is computed again."""
    if is_watched(layer):
        return layer
    # What derives from these may compute something else.
    if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
        inner = [_with_kernel(each) for each in layer]
        return partial(chain, inner)
    if not isinstance(layer, WSConv2d) or type(layer).forward is not WSConv2d.forward:
        return layer
    ready = layer._ready()
    kernel = _as_autocast_takes_it(layer._standardized() if ready is None else ready)
    return partial(_convolve, layer, kernel)


def _convolve(layer: WSConv2d, kernel: Tensor, x: Tensor) -> Tensor:
    return layer._conv_forward(x, kernel, layer.bias)


def _as_autocast_takes_it(kernel: Tensor) -> Tensor:
    """Cast here: the copy is what the pass keeps, and the wider kernel is not kept beside it."""
    device = kernel.device.type
    if (
        not torch.amp.is_autocast_available(device)
        or not torch.is_autocast_enabled(device)
        or kernel.dtype is torch.float64  # which autocast leaves
    ):
        return kernel
    return kernel.to(torch.get_autocast_dtype(device))


class _SameStatistics:
    """Context of a later pass: norms begin with the buffers of the first one, and end with theirs.

    A new set of tensors each time: a change in place would spoil what other passes have saved.
    """

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        self._norms = norms
        self._before = [_copies(norm) for norm in norms]
        self._now: list[dict[str, Any]] = []

    def __enter__(self) -> None:
        self._now = [dict(norm._buffers) for norm in self._norms]
        for norm, buffers in zip(self._norms, self._before, strict=True):
            norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items()})

    def __exit__(self, *_: object) -> None:
        for norm, buffers in zip(self._norms, self._now, strict=True):
            norm._buffers.update(buffers)


def _copies(norm: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in norm._buffers.items() if buffer is not None}
