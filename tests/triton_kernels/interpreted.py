"""What the tests have computed in the process that interprets Triton."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from wszoo.layers import GroupNorm, blocks
from wszoo.layers.blocks import FUSING
from wszoo.triton_kernels import group_norm_act, usable
from wszoo.triton_kernels.composite import group_norm_act_composite

Results = dict[str, Tensor]


def prepare() -> None:
    """One thread, and NaN in memory that nothing was written to."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def _leaves(dtype: torch.dtype, size: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    x = torch.randn(1, 8, size, size, dtype=dtype).to(memory_format=torch.channels_last)
    affine = dtype if dtype == torch.float64 else torch.float32
    leaves = [x, torch.rand(8, dtype=affine) + 0.5, torch.randn(8, dtype=affine)]
    residual = torch.randn(1, 8, size, size, dtype=dtype)  # contiguous, unlike x
    return [leaf.requires_grad_() for leaf in (*leaves, residual)]


def gradients(dtype: torch.dtype, relu: bool, with_residual: bool) -> list[tuple[Tensor, ...]]:
    """Output and gradients for an expanded upstream gradient: by the operator, in plain torch."""
    results = []
    for function in (_operator, group_norm_act_composite):
        leaves = _leaves(dtype)
        x, weight, bias, residual = leaves
        assert usable(x, 4)
        out = function(x, 4, weight, bias, 1e-5, relu, residual if with_residual else None)
        assert out.dtype == dtype and out.stride() == x.stride()
        upstream = torch.tensor(0.5, dtype=dtype).expand(out.shape)
        of = torch.autograd.grad(out, leaves, upstream, allow_unused=True)
        results.append((out.detach(), *(g for g in of if g is not None)))
    return results


def _operator(*args: Any) -> Tensor:
    *positional, relu, residual = args
    return group_norm_act(*positional, relu=relu, residual=residual)


def second_derivatives_hold(relu: bool, with_residual: bool) -> bool:
    """``gradgradcheck`` of the operator; float64 gets there only by its own name."""
    leaves = [leaf.detach().contiguous().requires_grad_() for leaf in _leaves(torch.float64, 2)]

    def function(x: Tensor, weight: Tensor, bias: Tensor, *residual: Tensor) -> Tensor:
        added = residual[0] if residual else None
        return torch.ops.wszoo.group_norm_act(x, 4, weight, bias, 1e-5, relu, added)[0]

    used = leaves if with_residual else leaves[:3]
    return torch.autograd.gradgradcheck(function, used, fast_mode=True)


def penalty(on_kernels: bool) -> list[Tensor]:
    """Gradients of a gradient's norm, where the residual is what ``x`` was made from."""
    x, weight, bias, residual = _leaves(torch.float32)
    function = _operator if on_kernels else group_norm_act_composite
    out = function(x * residual, 4, weight, bias, 1e-5, True, residual)
    (first,) = torch.autograd.grad(out.square().sum(), residual, create_graph=True)
    return list(torch.autograd.grad(first.square().sum(), [x, weight, bias, residual]))


def compiled() -> tuple[Tensor, ...]:
    """Twice the gradient of the scale: compiled in one graph, and eagerly."""
    leaves = _leaves(torch.float32)

    def function(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return group_norm_act(x, 4, weight, bias, relu=True, residual=residual).square().sum()

    whole = torch.compile(function, backend="aot_eager", fullgraph=True)
    return tuple(torch.autograd.grad(f(*leaves), leaves)[1] for f in (whole, function))


def check_operators() -> None:
    """torch's own checks: schema, fake tensors, autograd, compiled with dynamic shapes."""
    x, weight, bias, residual = _leaves(torch.float32)
    torch.library.opcheck(
        torch.ops.wszoo.group_norm_act.default, (x, 4, weight, bias, 1e-5, True, residual)
    )
    with torch.no_grad():
        y, mean, rstd = torch.ops.wszoo.group_norm_act(x, 4, weight, bias, 1e-5, True, residual)
        torch.library.opcheck(
            torch.ops.wszoo.group_norm_act_backward.default,
            (y, x.detach(), weight.detach(), bias.detach(), mean, rstd, y, True),
        )


def exported() -> str:
    """The operators of an exported graph."""

    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return group_norm_act(x, 4, None, None, relu=True)

    program = torch.export.export(Net(), (torch.randn(1, 8, 3, 3),))
    return " ".join(str(node.target) for node in program.graph.nodes)


def traced() -> str:
    """The graph of TorchScript's tracer."""
    function = torch.jit.trace(lambda x: group_norm_act(x, 4, None, None), torch.randn(1, 8, 3, 3))
    return str(function.inlined_graph)


def fitting(x: Tensor, num_groups: int) -> bool:
    """Whether the kernels are used for ``x`` where they are asked for."""
    return usable(x, num_groups)


def not_a_number() -> tuple[Tensor, Tensor]:
    """How many NaN are in the output and its gradient, of an image of which one pixel is NaN."""
    x = _leaves(torch.float32)[0].detach()
    x[0, 0, 0, 0] = torch.nan
    counts = []
    for function in (_operator, group_norm_act_composite):
        leaf = x.clone().requires_grad_()
        out = function(leaf, 4, None, None, 1e-5, True, None)
        (gradient,) = torch.autograd.grad(out.sum(), leaf)
        counts.append(torch.stack([out.isnan().sum(), gradient.isnan().sum()]))
    return counts[0], counts[1]


def transformed() -> tuple[Tensor, Tensor]:
    """The tangent that forward-mode differentiation finds, and that of plain torch."""
    x = _leaves(torch.float32)[0].detach()
    found = [
        torch.func.jvp(lambda t, f=function: f(t, 4, None, None, 1e-5, True, None), (x,), (x**2,))
        for function in (_operator, group_norm_act_composite)
    ]
    return found[0][1], found[1][1]


def affine_of_another_length() -> str:
    """What is said of it."""
    try:
        group_norm_act(_leaves(torch.float32)[0], 4, torch.ones(4), torch.zeros(4))
    except RuntimeError as error:
        return str(error)
    return ""


class Fused(TorchDispatchMode):
    """Notes of each fused norm that runs forward whether it has a ReLU, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[tuple[bool, bool]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.wszoo.group_norm_act.default:
            self.norms.append((args[5], args[6] is not None))
        return func(*args, **(kwargs or {}))


def _block(kind: str) -> nn.Module:
    plain = BasicBlock if kind == "basic" else Bottleneck
    width = 4 * plain.expansion
    net: nn.Module = FUSING[plain](
        8,
        4,
        downsample=nn.Sequential(nn.Conv2d(8, width, 1), GroupNorm(width, 2)),
        drop_block=nn.Dropout if kind == "dropped" else None,
        drop_path=DropPath() if kind == "dropped" else None,
        norm_layer=partial(GroupNorm, num_groups=2),
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    if kind == "watched":
        net.get_submodule("bn2").register_forward_hook(lambda *_: None)
    return net.eval()


def block(kind: str) -> tuple[list[bool], Results, Results]:
    """Fused norms of a block, its output and gradients, and those of timm's block in float64."""
    torch.manual_seed(0)
    net = _block(kind)
    exact: Any = deepcopy(net).double()
    x = torch.randn(1, 8, 3, 3).to(memory_format=torch.channels_last)
    before, blocks._DEVICES = blocks._DEVICES, ("cpu",)
    try:
        with Fused() as fused:
            ours = _derived(net, net, x)
    finally:
        blocks._DEVICES = before
    assert all(relu for relu, _ in fused.norms)
    return (
        [residual for _, residual in fused.norms],
        ours,
        _derived(exact, exact._plain, x.double()),
    )


def _derived(net: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Results:
    leaves = {"x": x.detach().requires_grad_(), **dict(net.named_parameters())}
    out = function(leaves["x"])
    of = torch.autograd.grad(out.square().sum(), list(leaves.values()))
    return {"out": out.detach(), **dict(zip(leaves, of, strict=True))}


def forward_mode() -> tuple[Tensor, Tensor]:
    """The tangent that dual tensors find, and that of plain torch."""
    x = _leaves(torch.float32)[0].detach()
    found = []
    with forward_ad.dual_level():
        for function in (_operator, group_norm_act_composite):
            out = function(forward_ad.make_dual(x, x**2), 4, None, None, 1e-5, True, None)
            found.append(forward_ad.unpack_dual(out).tangent)
    return found[0], found[1]
