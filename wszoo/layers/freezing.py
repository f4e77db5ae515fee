"""Freezing: parameters that stay as they are, and kernels that are standardized only once."""

from typing import TypeVar

from torch import Tensor, nn

from wszoo.layers.kept import may_keep, refresh
from wszoo.layers.weight import WSConv2d

Module = TypeVar("Module", bound=nn.Module)


class FrozenWSConv2d(WSConv2d):
    """A ``WSConv2d`` at rest: its kernel is standardized once and kept. ``freeze`` makes it.

    The raw kernel stays the parameter and all that a state dict, a copy or a pickle holds. It is
    standardized again after it was loaded, replaced, moved, converted or changed in place, and in
    every pass, with a gradient, once its ``requires_grad`` is set. A change made in place through
    ``weight.data`` goes unseen, as autograd does not see it either; ``wszoo.refresh`` after one.

    Compiled, exported, traced or scripted, it standardizes in every pass: such a graph could not
    notice that the kernel has changed. ``fold`` is for those.
    """

    def _kept_kernel(self) -> Tensor | None:
        raw = self.weight
        if not may_keep(raw):
            return None
        if raw.requires_grad:
            self._forget()
            return None
        return self._keep(raw, steps=False)  # those of other layers are none of its business

    def train(self, mode: bool = True) -> "FrozenWSConv2d":
        nn.Conv2d.train(self, mode)  # forgets nothing
        return self


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
        >>> import torch
        >>> net = freeze(nn.Sequential(WSConv2d(3, 8, 3), nn.GroupNorm(4, 8)))
        >>> net(torch.randn(1, 3, 8, 8)).requires_grad
        False
    """
    module.requires_grad_(False)
    for parameter in module.parameters():
        parameter.grad = None
    for layer in refresh(module).modules():
        if type(layer) is WSConv2d:
            layer.__class__ = FrozenWSConv2d
    return module


def unfreeze(module: Module) -> Module:
    """Put every parameter of ``module`` into training, in place; the reverse of ``freeze``.

    Returns:
        ``module`` itself.
    """
    module.requires_grad_(True)
    for layer in refresh(module).modules():
        if isinstance(layer, FrozenWSConv2d):
            layer.__class__ = WSConv2d  # type: ignore[assignment]
    return module
