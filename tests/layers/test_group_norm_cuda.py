"""GroupNorm in half precision on CUDA: its arithmetic on the CPU, its memory on fake tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import wszoo  # noqa: F401
from wszoo import triton_kernels
from wszoo.layers import GroupNorm, group_norm_cuda

HALVES = [torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


def relative(actual: Tensor, expected: Tensor) -> float:
    difference = (actual.double().cpu() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()


def case(
    dtype: torch.dtype, layout: torch.memory_format, shape: tuple[int, ...], scale: float = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A map, a scale, a shift and the gradient of the result."""
    levels = 3 * torch.randn(shape[1], 1, 1) + 2
    x, upstream = ((torch.randn(shape) + levels) * factor for factor in (scale, 1))
    x, upstream = (tensor.to(dtype).contiguous(memory_format=layout) for tensor in (x, upstream))
    weight = torch.rand(shape[1]) + 0.5
    weight[::3] = 0  # as the last norm of a block starts
    return x, weight, torch.randn(shape[1]), upstream


def exact(x: Tensor, weight: Tensor, bias: Tensor, upstream: Tensor, groups: int) -> list[Tensor]:
    leaves = [tensor.double().contiguous().requires_grad_() for tensor in (x, weight, bias)]
    y = F.group_norm(leaves[0], groups, leaves[1], leaves[2])
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream.double())]


@pytest.mark.parametrize("scale", [1e-2, 1, 1e2])
@pytest.mark.parametrize(("shape", "groups"), [
    ((2, 64, 9, 7), 32), ((1, 72, 5, 5), 24), ((3, 64, 1, 1), 8), ((2, 256, 4, 4), 8),
])  # fmt: skip
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_the_arithmetic_is_exact_to_the_rounding_of_the_dtype(
    dtype: torch.dtype,
    layout: torch.memory_format,
    shape: tuple[int, ...],
    groups: int,
    scale: float,
) -> None:
    x, weight, bias, upstream = case(dtype, layout, shape, scale)

    y, mean, rstd = group_norm_cuda.normalize(x, groups, weight, bias, 1e-5)
    results = y, *group_norm_cuda.gradients(upstream, x, mean, rstd, weight)

    assert mean.dtype == rstd.dtype == results[2].dtype == results[3].dtype == torch.float32
    expected = exact(x, weight, bias, upstream, groups)
    for result in results[:2]:
        assert result.dtype == dtype and result.is_contiguous(memory_format=layout)
    bounds = ROUNDING[dtype], ROUNDING[dtype], 1e-5, 1e-6
    for result, reference, bound in zip(results, expected, bounds, strict=True):
        assert relative(result, reference) < bound


# Without a GPU: what fake CUDA tensors show


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Autocast to bfloat16 where ``torch.autocast`` would turn itself off for want of a GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def saved_mib(name: str, batch_size: int) -> float:
    """What a training step keeps for its backward pass beside parameters and images."""
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage, storage.nbytes()  # held, lest its address serves again
        return tensor

    with FakeTensorMode(), torch.device("cuda"):
        model = timm.create_model(name).train()
        images = torch.empty(batch_size, 3, 224, 224)
        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with hooks, cuda_autocast():
            model(images)
        for tensor in (images, *model.parameters(), *model.buffers()):
            kept.pop(tensor.untyped_storage()._cdata, None)
    return sum(size for _, size in kept.values()) / 2**20


@pytest.mark.parametrize(("name", "least", "most"), [
    ("resnet50", 41, 42.5),  # BatchNorm; this and the next show that the measure is right
    ("resnet50_gn", 98, 104),  # PyTorch's GroupNorm, which autocast runs in float32
    ("resnet50_gn_ws", 41, 42),
])  # fmt: skip
def test_a_training_step_saves_as_much_as_with_batch_norm(
    name: str, least: float, most: float
) -> None:
    per_image = saved_mib(name, 2) - saved_mib(name, 1)

    assert least <= per_image <= most


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_the_norm_keeps_dtype_and_layout_under_autocast(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    with FakeTensorMode(), torch.device("cuda"), cuda_autocast():
        norm = GroupNorm(64)
        x = torch.empty(2, 64, 8, 8, dtype=dtype).contiguous(memory_format=layout)
        out = norm(x)
        mean, rstd = torch.empty(2, 2, 32).unbind()
        weight = norm.weight.detach()
        gradient, *affine = group_norm_cuda.gradients(out.detach(), x, mean, rstd, weight)
        wide = norm(x.float())
        volume = norm(torch.empty(2, 64, 4, 4, 4, dtype=dtype))

    assert [tensor.dtype for tensor in affine] == [torch.float32] * 2
    for tensor in (out, gradient):
        assert tensor.device.type == "cuda" and tensor.shape == x.shape and tensor.dtype == dtype
        assert tensor.is_contiguous(memory_format=layout)
    assert wide.dtype == torch.float32 and volume.dtype == dtype


# With a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [1e-2, 1, 1e2])
@pytest.mark.parametrize(
    "shape", [(2, 64, 56, 56), (1, 256, 14, 14), (3, 256, 1, 1), (2, 64, 9, 7)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_a_gpu_is_exact_to_the_rounding_of_the_dtype(
    dtype: torch.dtype, layout: torch.memory_format, shape: tuple[int, ...], scale: float
) -> None:
    x, weight, bias, upstream = case(dtype, layout, shape, scale)
    norm = GroupNorm(shape[1])
    norm.load_state_dict({"weight": weight, "bias": bias})
    norm.cuda()
    leaf = x.cuda().requires_grad_()

    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = norm(leaf)
    results = y, *torch.autograd.grad(y, [leaf, *norm.parameters()], upstream.cuda())

    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    expected = exact(x, weight, bias, upstream, norm.num_groups)
    bounds = ROUNDING[dtype], ROUNDING[dtype], 1e-5, 2e-6
    for result, reference, bound in zip(results, expected, bounds, strict=True):
        assert relative(result, reference) < bound


@pytest.mark.gpu
def test_a_gpu_differentiates_twice() -> None:
    x, *_ = case(torch.bfloat16, torch.channels_last, (2, 64, 8, 8))
    norm = GroupNorm(64).cuda()
    leaf = x.cuda().requires_grad_()

    (first,) = torch.autograd.grad(norm(leaf).pow(3).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.float().square().sum(), leaf)

    twin = x.double().contiguous().requires_grad_()
    (reference,) = torch.autograd.grad(F.group_norm(twin, 32).pow(3).sum(), twin, create_graph=True)
    (expected,) = torch.autograd.grad(reference.square().sum(), twin)
    assert relative(first, reference.detach()) < 2**-6
    assert relative(second, expected) < 2**-5


@pytest.mark.gpu
def test_a_gpu_computes_the_same_compiled() -> None:
    x, _, _, _ = case(torch.bfloat16, torch.channels_last, (2, 64, 8, 8))
    norm = GroupNorm(64).cuda()

    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")

    assert relative(compiled(x.cuda()), norm(x.cuda()).detach().cpu()) < 2**-7


@pytest.mark.skipif(not triton_kernels.choice._HAS_TRITON, reason="needs Triton")
@pytest.mark.parametrize("wanted", [True, None])
def test_triton_computes_it_where_that_is_wanted(wanted: bool | None) -> None:
    names = []

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    before = triton_kernels.use(wanted)
    try:
        with FakeTensorMode(), torch.no_grad(), Operators():
            norm = GroupNorm(64, device="cuda")
            norm(torch.empty(2, 64, 8, 8, device="cuda", dtype=torch.bfloat16))
    finally:
        triton_kernels.use(before)

    assert ("group_norm_act" in names) == (wanted is True)
