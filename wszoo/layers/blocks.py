"""timm's residual blocks, with a norm and what follows it as one operator where that is faster.

That is on CUDA, where ``wszoo.triton_kernels`` is asked for or was measured to be faster. Elsewhere
the blocks run timm's own code, and so they do when scripted, traced, compiled, exported or
transformed by ``torch.func``. Parameters and keys of state dicts are timm's. Stems, necks and
heads call norm and ReLU one by one, and so do blocks of ``wszoo.memory`` while they are trained at
a level other than ``"fast"``.
"""

from types import FunctionType
from typing import Any, ClassVar

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn.modules import module as modules

from wszoo.layers.group_norm import in_a_graph
from wszoo.layers.norm import GroupNorm

_DEVICES = ("cuda",)  # where kernels may be wanted; elsewhere they are not worth the import


def plain_forward(block: type[nn.Module]) -> Any:
    """A block's ``forward`` under a name by which TorchScript compiles it beside another one."""
    code: Any = block.forward
    return FunctionType(code.__code__, code.__globals__, "_plain")


def is_watched(layer: nn.Module) -> bool:
    """Whether hooks, or a ``forward`` in the place of its own, miss a pass not by the module."""
    return "forward" in vars(layer) or any(
        (
            layer._forward_hooks,
            layer._forward_pre_hooks,
            layer._backward_hooks,
            layer._backward_pre_hooks,
            modules._has_any_global_hook(),
        )
    )


def norm_act(norm: nn.Module, act: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """``act(norm(x) + residual)``, as one operator where it is wanted.

    Args:
        norm: Any layer; one operator takes the place of this zoo's ``GroupNorm`` alone.
        act: Any layer; likewise of ``nn.ReLU``.
        x: ``(N, C, H, W)``.
        residual: Of the shape of ``x``; zeros if ``None``.
    """
    if _is_one_operator(norm, act, x, residual):
        from wszoo.triton_kernels import group_norm_act

        assert isinstance(norm, GroupNorm)
        return group_norm_act(
            x, norm.num_groups, norm.weight, norm.bias, norm.eps, relu=True, residual=residual
        )
    x = norm(x)
    if residual is not None:
        x += residual
    result: Tensor = act(x)
    return result


def _is_one_operator(norm: nn.Module, act: nn.Module, x: Tensor, residual: Tensor | None) -> bool:
    # These types exactly: what derives from them may compute something else.
    if type(norm) is not GroupNorm or type(act) is not nn.ReLU:
        return False
    if is_watched(norm) or is_watched(act) or norm.num_channels != x.shape[1]:
        return False
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        return False
    from wszoo.triton_kernels import usable

    return usable(x, norm.num_groups, norm.weight, norm.bias, residual)


class _Fusing:
    """A block that may take fewer operators than timm's."""

    _plain: ClassVar[Any]

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            x = self._plain(x)
        else:  # TorchScript compiles nothing of this
            x = _pass(self, x) if _may_fuse(x) else self._plain(x)
        return x


class FusingBasicBlock(_Fusing, BasicBlock):
    """timm's block, with norm and ReLU as one operator where that is wanted."""

    _plain = plain_forward(BasicBlock)

    def _inner(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if isinstance(self.drop_block, nn.Identity):
            x = norm_act(self.bn1, self.act1, x)
        else:
            x = self.act1(self.drop_block(self.bn1(x)))
        assert self.aa is not None
        return self.conv2(self.aa(x))

    def _last(self) -> tuple[nn.Module, nn.Module]:
        return self.bn2, self.act2


class FusingBottleneck(_Fusing, Bottleneck):
    """timm's block, with norm and ReLU as one operator where that is wanted."""

    _plain = plain_forward(Bottleneck)

    def _inner(self, x: Tensor) -> Tensor:
        x = self.conv2(norm_act(self.bn1, self.act1, self.conv1(x)))
        if isinstance(self.drop_block, nn.Identity):
            x = norm_act(self.bn2, self.act2, x)
        else:
            x = self.act2(self.drop_block(self.bn2(x)))
        assert self.aa is not None
        return self.conv3(self.aa(x))

    def _last(self) -> tuple[nn.Module, nn.Module]:
        return self.bn3, self.act3


def _may_fuse(x: Tensor) -> bool:
    if isinstance(x, torch.fx.Proxy):
        return False
    return x.device.type in _DEVICES and not in_a_graph(x)


def _pass(block: Any, x: Tensor) -> Tensor:
    """What timm's ``forward`` computes."""
    shortcut = x if block.downsample is None else block.downsample(x)
    norm, act = block._last()
    x = block._inner(x)
    if block.se is None and block.drop_path is None:
        return norm_act(norm, act, x, shortcut)
    x = norm(x)
    if block.se is not None:
        x = block.se(x)
    if block.drop_path is not None:
        x = block.drop_path(x)
    x += shortcut
    result: Tensor = act(x)
    return result


FUSING: dict[Any, type[nn.Module]] = {BasicBlock: FusingBasicBlock, Bottleneck: FusingBottleneck}
"""What nets of this zoo have in the place of timm's blocks."""
