"""Convolutions whose kernel is computed from their weight, and kept while that rests."""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from wszoo.tangents import has_tangent

Self = TypeVar("Self", bound="KeepingConv2d")
Module = TypeVar("Module", bound=nn.Module)

_TRACING_MODES = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
    torch._C._TorchDispatchModeKey.PROXY,
)
PASSING = ("_kept", "_once")  # attributes that no copy takes along

_last_step = object()  # another one after every step of any optimizer


def _note_step(*_: object) -> None:
    global _last_step
    _last_step = object()


# Fused optimizers change a weight without counting it as a new version.
register_optimizer_step_post_hook(_note_step)


def may_keep(raw: Tensor) -> bool:
    """Whether a kernel made of ``raw`` may be used again after the pass that makes it.

    Not in graphs, which could not notice that the weight has changed, nor where its tangent would
    get lost. Compilers do not ask.
    """
    if torch._C._is_tracing() or has_tangent(raw):
        return False
    # Symbolic tracing, shards and functional calls put another type here.
    if type(raw) is not nn.Parameter or torch._C._are_functorch_transforms_active():
        return False
    if raw.is_inference():  # these count no versions
        return False
    if raw.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not torch._C._len_torch_dispatch_stack() or not any(
        map(torch._C._get_dispatch_mode, _TRACING_MODES)
    )


class Sight(NamedTuple):
    """A weight as it was when a kernel was made of it."""

    raw: Tensor
    memory: Tensor  # held, lest ``raw.data`` is set to another tensor at the same address
    address: int
    shape: torch.Size
    stride: tuple[int, ...]
    version: int
    formula: object
    step: object | None

    @classmethod
    def of(cls, raw: Tensor, formula: object, *, steps: bool) -> "Sight":
        """See ``raw``; with ``steps``, only until an optimizer takes one."""
        step = _last_step if steps else None
        version, memory = raw._version, raw.detach()
        return cls(
            raw, memory, memory.data_ptr(), memory.shape, memory.stride(), version, formula, step
        )

    def holds(self, raw: Tensor, formula: object) -> bool:
        """Whether ``raw`` is what was seen, and unchanged."""
        return (
            self.raw is raw
            and self.version == raw._version
            and self.address == raw.data_ptr()
            and self.stride == raw.stride()
            and self.shape == raw.shape
            and self.formula is formula
            and (self.step is None or self.step is _last_step)
        )


class Kept(NamedTuple):
    """A kernel and what it was made of; never changed, so that threads may share it."""

    sight: Sight
    device: str
    dtype: torch.dtype | None  # of autocast, which would cast the kernel in every pass
    kernel: Tensor


def _autocast_dtype(device: str) -> torch.dtype | None:
    if not torch.amp.is_autocast_available(device):  # such as meta
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class KeepingConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a kernel that ``_standardized`` makes, once while the weight rests.

    Attributes:
        keep_kernel: Whether a kernel may be kept; ``keep_kernels`` sets it.
    """

    formula: tuple[Any, ...]
    keep_kernel = True

    def _standardized(self) -> Tensor:
        raise NotImplementedError

    def _ready(self) -> Tensor | None:
        """A kernel that is there already, or None where this pass has to make its own."""
        if torch.compiler.is_compiling():  # or exporting
            return None
        once = self.__dict__.get("_once")
        return self._kept_kernel() if once is None else once.kernel(self)

    def _kept_kernel(self) -> Tensor | None:
        if self.training:
            return None
        raw = self.weight
        if not may_keep(raw) or (raw.requires_grad and torch.is_grad_enabled()):
            return None
        return self._keep(raw, steps=True)

    def _keep(self, raw: Tensor, *, steps: bool) -> Tensor | None:
        """The kernel of ``raw``, made only if none that fits is there."""
        if not self.keep_kernel:
            return None
        kept: Kept | None = self.__dict__.get("_kept")
        if (
            kept is not None
            and kept.sight.holds(raw, self.formula)
            and kept.dtype is _autocast_dtype(kept.device)
        ):
            return kept.kernel
        sight = Sight.of(raw, self.formula, steps=steps)  # first: another thread may train
        device = raw.device.type
        dtype = _autocast_dtype(device)
        # A kernel made in inference mode could not be used in training afterwards.
        with torch.inference_mode(False), torch.no_grad():
            kernel = self._standardized()
            if dtype is not None and kernel.dtype is not torch.float64:  # which autocast leaves
                kernel = kernel.to(dtype)
        if kernel.is_cuda:  # other streams may be next to read it
            torch.cuda.current_stream(kernel.device).synchronize()
        if type(kernel) is Tensor:  # modes may wrap it
            self.__dict__["_kept"] = Kept(sight, device, dtype, kernel)
        return kernel

    def _forget(self) -> None:
        self.__dict__.pop("_kept", None)

    def train(self: Self, mode: bool = True) -> Self:
        self._forget()
        return super().train(mode)

    def _apply(self: Self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._forget()  # it would stay on the old device
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()  # what is loaded into a shard is not seen in the whole weight

    def __getstate__(self) -> dict[str, Any]:
        # Versions start anew in a copy, where a kept kernel could pass for a fresh one.
        return {key: value for key, value in self.__dict__.items() if key not in PASSING}


def refresh(module: Module) -> Module:
    """Drop all kept kernels of ``module``: the next pass makes them of the weights as they are.

    Needed after a write that PyTorch does not notice itself, and only for layers in eval mode or
    frozen: in place through ``weight.data``, its storage or a NumPy array that shares the memory,
    by another process that shares it, by a collective such as ``torch.distributed.broadcast``, or
    by fused updates called as functions. ``train()``, ``eval()``, loading, moving,
    other changes in place and the steps of optimizers are noticed.

    Returns:
        ``module`` itself.

    Example:
        >>> import wszoo
        >>> net = nn.Sequential(wszoo.WSConv2d(3, 8, 3)).eval()
        >>> with torch.no_grad():
        ...     before = net(torch.ones(1, 3, 8, 8))
        ...     _ = net[0].weight.data.mul_(torch.linspace(-1, 1, 3).view(1, 3, 1, 1))
        ...     after = refresh(net)(torch.ones(1, 3, 8, 8))
        >>> torch.equal(before, after)
        False
    """
    for layer in module.modules():
        if isinstance(layer, KeepingConv2d):
            layer._forget()
    return module


def keep_kernels(module: Module, keep: bool = True) -> Module:
    """Decide whether the layers of ``module`` keep standardized kernels; they do by default.

    Kept kernels take as much memory as the weights they are made of, or half of it under autocast.
    Without them every pass standardizes again, in eval mode and in frozen layers, too.

    Returns:
        ``module`` itself.
    """
    for layer in module.modules():
        if isinstance(layer, KeepingConv2d):
            layer.keep_kernel = keep
            layer._forget()
    return module
