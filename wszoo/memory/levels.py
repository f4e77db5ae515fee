"""The levels, and blocks of timm's ResNets that heed them."""

from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from wszoo.layers.blocks import FusingBasicBlock, FusingBottleneck, plain_forward
from wszoo.memory.recompute import again, chain
from wszoo.tangents import has_tangent

Module = TypeVar("Module", bound=nn.Module)
Memory = Literal["fast", "lean", "small", "smallest"]
MEMORY: tuple[Memory, ...] = get_args(Memory)  # from the fastest to the smallest


class _Sparing:
    """A block at a level other than ``"fast"``."""

    memory: str
    _plain: ClassVar[Any]

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            x = self._plain(x)
        else:  # TorchScript compiles nothing of this
            x = _spared(self, x) if _is_differentiated(self, x) else self._plain(x)
        return x

    def extra_repr(self) -> str:
        return f"memory={self.memory!r}"


class SparingBasicBlock(_Sparing, BasicBlock):
    """timm's block at a level other than ``"fast"``. ``save_memory`` makes it."""

    _plain = plain_forward(BasicBlock)

    def _parts(self) -> list[list[nn.Module]]:
        return [
            [self.conv1],
            _present(self.bn1, self.drop_block, self.act1, self.aa, self.conv2),
            _present(self.bn2, self.se),
        ]

    def _last_act(self, x: Tensor) -> Tensor:
        return self.act2(x)


class SparingBottleneck(_Sparing, Bottleneck):
    """timm's block at a level other than ``"fast"``. ``save_memory`` makes it."""

    _plain = plain_forward(Bottleneck)

    def _parts(self) -> list[list[nn.Module]]:
        return [
            [self.conv1],
            _present(self.bn1, self.act1, self.conv2),
            _present(self.bn2, self.drop_block, self.act2, self.aa, self.conv3),
            _present(self.bn3, self.se),
        ]

    def _last_act(self, x: Tensor) -> Tensor:
        return self.act3(x)


class SparingFusingBasicBlock(SparingBasicBlock, FusingBasicBlock):
    """The same in place of this zoo's block."""


class SparingFusingBottleneck(SparingBottleneck, FusingBottleneck):
    """The same in place of this zoo's block."""


_SPARING: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: SparingBasicBlock,
    Bottleneck: SparingBottleneck,
    FusingBasicBlock: SparingFusingBasicBlock,
    FusingBottleneck: SparingFusingBottleneck,
}
_PLAIN = {sparing: plain for plain, sparing in _SPARING.items()}


def save_memory(module: Module, level: Memory) -> Module:
    """Decide what the residual blocks of ``module`` keep for the backward pass, in place.

    Gradients stay the same to the bit where kernels compute the same twice, state dicts and
    outputs in any case. A level replaces an earlier one. What is kept of each block:

    ``"fast"``
        Everything, as timm does.
    ``"lean"``
        Its input and the outputs of its convolutions. Norms and activations are computed again.
    ``"small"``
        Its input and the outputs of its convolutions but the last. That one, the shortcut's and
        all norms and activations are computed again.
    ``"smallest"``
        Its input alone. All else is computed again, standardized kernels among it, from the
        weights as they are then: they must rest between forward and backward pass.

    The stem, pyramids, heads and foreign layers stay as they are. Passes without a gradient, those
    of frozen blocks, and graphs (scripted, traced, compiled, exported, of ``torch.func``) are the
    plain ones. Forward hooks inside of blocks may run twice.

    Args:
        module: A net, backbone, detector or segmenter with timm's ResNet blocks in it.
        level: One of ``MEMORY``.

    Returns:
        ``module`` itself.

    Raises:
        ValueError: There is no such level, or no such block.

    Example:
        >>> import timm, wszoo
        >>> net = save_memory(timm.create_model("test_resnet_gn_ws"), "lean")
        >>> net(torch.randn(1, 3, 64, 64)).mean().backward()
    """
    require_memory(level)
    if level != "fast" and not can_save_memory(module):
        raise ValueError(
            f"memory={level!r} is for timm's ResNet blocks, and this {type(module).__name__} has "
            f"none; leave it at 'fast'"
        )
    for block in _blocks(module):
        kind = type(block)
        if level == "fast":
            block.__class__ = _PLAIN.get(kind, kind)
            block.__dict__.pop("memory", None)
        else:
            block.__class__ = _SPARING.get(kind, kind)
            block.__dict__["memory"] = level
    return module


def require_memory(level: str) -> None:
    """Check the name of a level.

    Raises:
        ValueError: There is none of that name.
    """
    if level not in MEMORY:
        raise ValueError(f"memory must be one of {', '.join(MEMORY)}, got {level!r}")


def can_save_memory(module: nn.Module) -> bool:
    """Whether there are blocks in ``module`` that heed levels other than ``"fast"``."""
    return bool(_blocks(module))


def memory_of(module: nn.Module) -> Memory:
    """The level of the blocks of ``module``; of several, that which keeps least."""
    levels: set[Memory] = {getattr(block, "memory", "fast") for block in _blocks(module)}
    return max(levels, key=MEMORY.index, default="fast")


def _blocks(module: nn.Module) -> list[nn.Module]:
    # Of these types exactly: other blocks that derive from them compute something else.
    return [m for m in module.modules() if type(m) in _SPARING or type(m) in _PLAIN]


def _present(*layers: nn.Module | None) -> list[nn.Module]:
    return [layer for layer in layers if layer is not None]


def _is_differentiated(block: Any, x: Tensor) -> bool:
    """Whether a backward pass may come that can run the block again."""
    if isinstance(x, torch.fx.Proxy) or torch.compiler.is_compiling() or torch._C._is_tracing():
        return False
    # torch.func knows no hooks on saved tensors, by which checkpoints work; tangents go forward.
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return False
    if has_tangent(x, *block.parameters()):
        return False
    return x.requires_grad or any(p.requires_grad for p in block.parameters())


def _spared(block: Any, x: Tensor) -> Tensor:
    """A pass through ``block`` that keeps what its level allows."""
    level: Memory = block.memory
    parts: list[list[nn.Module]] = block._parts()
    down: nn.Module | None = block.downsample
    if level == "smallest":
        y = again([layer for part in parts for layer in part], x, keep_kernels=False)
    else:
        first, *inner, last = parts
        if level == "small":
            inner[-1] = inner[-1] + last
        y = chain(first, x)
        for part in inner:
            y = again(part, y, keep_kernels=True)
        if level == "lean":
            y = chain(last, y)
    if block.drop_path is not None:
        y = block.drop_path(y)
    if down is None:
        shortcut = x
    elif level == "lean":
        shortcut = down(x)
    else:
        shortcut = again([down], x, keep_kernels=level == "small")
    # Added and clipped outside: what that keeps is the output, which is there in any case.
    y += shortcut
    result: Tensor = block._last_act(y)
    return result
