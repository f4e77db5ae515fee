"""Freezing: parameters that stay as they are, and kernels that are standardized only once."""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from wszoo.layers.weight import WSConv2d, WSFormula

Module = TypeVar("Module", bound=nn.Module)


class _Kept(NamedTuple):
    """A standardized kernel and what it was made of; the tensor itself, as ids are used again."""

    raw: Tensor
    version: int
    address: int
    formula: WSFormula
    kernel: Tensor

    def fits(self, raw: Tensor, formula: WSFormula) -> bool:
        return (
            self.raw is raw
            and self.version == raw._version
            and self.address == raw.data_ptr()  # another, once ``raw.data`` was set
            and self.formula == formula
        )


class FrozenWSConv2d(WSConv2d):
    """A ``WSConv2d`` at rest: its kernel is standardized once and kept. ``freeze`` makes it.

    The raw kernel stays the parameter and all that a state dict, a copy or a pickle holds. It is
    standardized again after it was loaded, replaced, moved, converted or changed in place, and in
    every pass, with a gradient, once its ``requires_grad`` is set. A change made in place through
    ``weight.data`` goes unseen, as autograd does not see it either; ``freeze`` again after one.

    Compiled, exported, traced or scripted, it standardizes in every pass: such a graph could not
    notice that the kernel has changed. ``fold`` is for those.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel: Tensor | None = None
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            kernel = self._kept_kernel()
        if kernel is None:
            kernel = self._standardized()
        return self._conv_forward(x, kernel, self.bias)

    def _kept_kernel(self) -> Tensor | None:
        """The standardized kernel, or None where it must not be kept."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return None
        raw, formula = self.weight, self.formula
        # Symbolic tracing, fake tensors, shards and functional calls put another type here.
        if type(raw) is not nn.Parameter or torch._C._are_functorch_transforms_active():
            return None
        if raw.requires_grad or raw.is_inference():  # inference tensors count no versions
            self._forget()  # fused optimizers do not count either
            return None
        kept: _Kept | None = self.__dict__.get("_kept")
        if kept is not None and kept.fits(raw, formula):
            return kept.kernel
        # A kernel made in inference mode could not be used in training afterwards.
        with torch.inference_mode(False), torch.no_grad():
            kernel = self._standardized()
        if type(kernel) is Tensor:  # not under a mode that fakes tensors
            self._kept = _Kept(raw, raw._version, raw.data_ptr(), formula, kernel)
        return kernel

    def _forget(self) -> None:
        self.__dict__.pop("_kept", None)

    def _apply(self, fn: Any, recurse: bool = True) -> "FrozenWSConv2d":
        super()._apply(fn, recurse)
        self._forget()  # conversions count no version, and an address is used again
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Versions start anew in a copy, where a kept kernel could pass for a fresh one.
        return {key: value for key, value in self.__dict__.items() if key != "_kept"}

    def fuse(self) -> nn.Conv2d:
        self._forget()  # else the plain convolution would inherit it
        return super().fuse()


def freeze(module: Module) -> Module:
    """Take every parameter of ``module`` out of training, in place.

    Standardized convolutions become ``FrozenWSConv2d``, which cost no more than plain ones from
    the second pass on. State dicts stay the same, ``train()`` changes nothing about it, and
    gradients left over from earlier steps are dropped: an optimizer would still apply them.

    The running statistics of BatchNorm are no parameters. They rest in eval mode only, in which
    ``wszoo.backbone.Backbone`` keeps its frozen stages.

    Args:
        module: A whole net or a part of one.

    Returns:
        ``module`` itself.

    Example:
        >>> net = freeze(nn.Sequential(WSConv2d(3, 8, 3), nn.GroupNorm(4, 8)))
        >>> net(torch.randn(1, 3, 8, 8)).requires_grad
        False
    """
    module.requires_grad_(False)
    for parameter in module.parameters():
        parameter.grad = None
    for layer in module.modules():
        if isinstance(layer, FrozenWSConv2d):
            layer._forget()
        elif type(layer) is WSConv2d:
            layer.__class__ = FrozenWSConv2d
    return module


def unfreeze(module: Module) -> Module:
    """Put every parameter of ``module`` into training, in place; the reverse of ``freeze``.

    Returns:
        ``module`` itself.
    """
    module.requires_grad_(True)
    for layer in module.modules():
        if isinstance(layer, FrozenWSConv2d):
            layer._forget()
            layer.__class__ = WSConv2d  # type: ignore[assignment]
    return module
