"""How fast the kernels are on a GPU beside what torch runs for the same, norm by norm."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wszoo.triton_kernels.choice import use
from wszoo.triton_kernels.operator import group_norm_act

_GROUPS = 32
_REPEATS = 10  # calls between two events: one alone is shorter than what an event resolves


class Timing(NamedTuple):
    """One shape, forward and backward.

    Attributes:
        name: What was timed, and beside what.
        ours_ms: Median milliseconds of ``group_norm_act``.
        theirs_ms: Median milliseconds of the peer.
    """

    name: str
    ours_ms: float
    theirs_ms: float


@dataclass(frozen=True)
class Site:
    """Norms of one kind in a net.

    Attributes:
        channels: Of the input.
        size: Height and width in pixels.
        relu: Whether ReLU follows.
        residual: Whether a residual is added first.
        count: How many there are.
    """

    channels: int
    size: int
    relu: bool
    residual: bool
    count: int

    def __str__(self) -> str:
        acts = "+add" * self.residual + "+relu" * self.relu
        return f"{self.channels} x {self.size} x {self.size}{acts}"


def resnet50_sites(image_size: int) -> list[Site]:
    """The norms of ResNet-50, of which alike ones make one site, for a size in pixels."""
    size = -(-image_size // 2)
    kinds = [(64, size, True, False)]
    size = -(-size // 2)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width, before = 64 << stage, size
        size = size if stage == 0 else -(-size // 2)
        for block in range(blocks):
            kinds += [(width, before if block == 0 else size, True, False)]
            kinds += [(width, size, True, False), (4 * width, size, True, True)]
        kinds += [(4 * width, size, False, False)]
    return [Site(*kind, kinds.count(kind)) for kind in dict.fromkeys(kinds)]


def compare_on_cuda(
    *,
    batches: tuple[int, ...] = (1, 2, 8, 32),
    image_size: int = 224,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = True,
    rounds: int = 9,
) -> list[Timing]:
    """Time the norms of ResNet-50, forward and backward, eagerly as a user would run them.

    Beside ``F.group_norm`` on the same data, with an add and an in-place ReLU; and beside
    ``F.batch_norm`` by the batch's statistics, with the same. Both sides run in turn. The kernels
    are on while it lasts, whatever ``use`` said. Shapes are compiled before they are timed.

    Args:
        batches: Batch sizes.
        image_size: Of the images, in pixels.
        dtype: Of the data; affines are float32.
        channels_last: The layout of all sides.
        rounds: How often each side is timed, ten calls each.

    Returns:
        For each batch size and peer, one row per site of ``resnet50_sites`` and one for all norms
        of the net together (the rows before it, each as often as it occurs).

    Raises:
        ValueError: There is no CUDA GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("no CUDA GPU here to time the Triton kernels on")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    rows = []
    with _switched_on():
        for batch in batches:
            for peer, function in (("group_norm", _by_group_norm), ("batch_norm", _by_batch_norm)):
                totals = [0.0, 0.0]
                for site in resnet50_sites(image_size):
                    steps = [_step(f, site, batch, dtype, layout) for f in (_by_kernels, function)]
                    times = _interleave(steps, rounds)
                    rows.append(Timing(f"{site}, batch {batch}, beside {peer}", *times))
                    totals = [t + site.count * ms for t, ms in zip(totals, times, strict=True)]
                rows.append(Timing(f"ResNet-50's norms, batch {batch}, beside {peer}", *totals))
    return rows


Norm = Callable[[Tensor, Tensor, Tensor, bool, Tensor | None], Tensor]


def _by_kernels(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool, residual: Tensor | None
) -> Tensor:
    return group_norm_act(x, _GROUPS, weight, bias, relu=relu, residual=residual)


def _by_group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool, residual: Tensor | None
) -> Tensor:
    # CUDA's kernel wants one dtype for data and affine.
    out = F.group_norm(x, _GROUPS, weight.to(x.dtype), bias.to(x.dtype))
    return _act(out, relu, residual)


def _by_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool, residual: Tensor | None
) -> Tensor:
    return _act(F.batch_norm(x, None, None, weight, bias, training=True), relu, residual)


def _act(out: Tensor, relu: bool, residual: Tensor | None) -> Tensor:
    if residual is not None:
        out = out + residual
    return F.relu_(out) if relu else out


def _step(
    norm: Norm, site: Site, batch: int, dtype: torch.dtype, layout: torch.memory_format
) -> Callable[[], object]:
    """Forward and backward on random data."""

    def data() -> Tensor:
        shape = (batch, site.channels, site.size, site.size)
        return torch.randn(shape, device="cuda", dtype=dtype).to(memory_format=layout)

    inputs = [data(), *(torch.rand(site.channels, device="cuda") for _ in range(2))]
    inputs += [data()] * site.residual
    for tensor in inputs:
        tensor.requires_grad_()
    return partial(_forward_backward, norm, inputs, site.relu, data())


def _forward_backward(norm: Norm, inputs: list[Tensor], relu: bool, upstream: Tensor) -> object:
    x, weight, bias = inputs[:3]
    out = norm(x, weight, bias, relu, inputs[3] if len(inputs) > 3 else None)
    return torch.autograd.grad(out, inputs, upstream)


def _interleave(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of each, the order reversed every other round, after a warm-up."""
    for work in works * 3:
        work()
    times: list[list[float]] = [[] for _ in works]
    for round_ in range(rounds):
        order = list(enumerate(works))
        for index, work in order[:: 1 if round_ % 2 == 0 else -1]:
            times[index].append(_milliseconds(work))
    return [median(of_work) for of_work in times]


def _milliseconds(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(_REPEATS):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / _REPEATS


@contextmanager
def _switched_on() -> Iterator[None]:
    before = use(True)
    try:
        yield
    finally:
        use(before)
