"""One computation by the kernels beside the same in float64."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wszoo.triton_kernels import launch
from wszoo.triton_kernels.plan import Plan, make_plan

TOLERANCE = {torch.float32: 3e-6, torch.float16: 2**-9, torch.bfloat16: 2**-6}  # of the largest


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is computed, and how the tensor is cut.

    Attributes:
        per_group: Channels of one group.
        channels_last: The layout.
        num_groups: Groups.
        size: What follows the channels.
        batch: Images.
        dtype: Of the data.
        relu: Whether ReLU follows.
        residual: Whether a residual is added.
        affine: Whether there is a scale and a shift.
        mean: Of the data, whose deviation is about 1.
        ramp: What the mean gains from the first pixel to the last.
        block: Pixels a program holds at once; None for the one-pass form.
        steps: Blocks it takes in turn.
    """

    per_group: int = 4
    channels_last: bool = True
    num_groups: int = 3
    size: tuple[int, ...] = (5, 7)
    batch: int = 1
    dtype: torch.dtype = torch.float32
    relu: bool = True
    residual: bool = True
    affine: bool = True
    mean: float = 1.0
    ramp: float = 0.0
    block: int | None = None
    steps: int = 2

    def plan(self) -> Plan:
        """The launch: that of the library, or one of several tiles along the pixels."""
        pixels = torch.Size(self.size).numel()
        plan = make_plan(
            batch=self.batch,
            pixels=pixels,
            num_groups=self.num_groups,
            per_group=self.per_group,
            channels_last=self.channels_last,
            processors=132,
            slab=16384 if self.block is None else 0,
        )
        if self.block is None:
            return plan
        tiles = -(-pixels // (self.block * self.steps))
        return replace(plan, block=self.block, steps=self.steps, tiles=tiles)

    def inputs(self, device: str) -> dict[str, Any]:
        """Random ``x``, ``dy``, ``weight``, ``bias`` and ``residual``."""
        shape = (self.batch, self.per_group * self.num_groups, *self.size)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format

        def data(values: Tensor) -> Tensor:
            return values.to(device, self.dtype).to(memory_format=layout)

        pixels = torch.Size(self.size).numel()
        ramp = torch.linspace(0, self.ramp, pixels).reshape(self.size)
        return dict(
            x=data(torch.randn(shape) + self.mean + ramp),
            dy=data(torch.randn(shape)),
            weight=(torch.rand(shape[1]) + 0.5).to(device) if self.affine else None,
            bias=torch.randn(shape[1]).to(device) if self.affine else None,
            residual=data(torch.randn(shape)) if self.residual else None,
        )


def by_kernels(case: Case, device: str = "cpu", **inputs: Any) -> dict[str, Tensor]:
    """Output and gradients by name, cut as the case says."""
    x, weight, bias, residual = (inputs[k] for k in ("x", "weight", "bias", "residual"))
    plan = case.plan()
    y, mean, rstd = launch.forward(
        x, case.num_groups, weight, bias, 1e-5, case.relu, residual, plan
    )
    signs = y if case.relu and case.residual else None
    dx, dresidual, affine = launch.backward(
        inputs["dy"], x, weight, bias, mean, rstd, signs, case.relu, plan
    )
    named = dict(y=y, x=dx, residual=dresidual)
    if case.affine:
        named |= dict(weight=affine[0], bias=affine[1])
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def in_float64(case: Case, **inputs: Any) -> dict[str, Tensor]:
    """The same by torch, step by step."""
    exact: dict[str, Any] = {
        name: None if tensor is None else tensor.double().requires_grad_()
        for name, tensor in inputs.items()
    }
    y = F.group_norm(exact["x"], case.num_groups, exact["weight"], exact["bias"], 1e-5)
    if exact["residual"] is not None:
        y = y + exact["residual"]
    if case.relu:
        y = F.relu(y)
    leaves = {k: t for k, t in exact.items() if t is not None and k != "dy"}
    gradients = torch.autograd.grad(y, list(leaves.values()), exact["dy"])
    return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}


def errors(case: Case, device: str = "cpu") -> dict[str, float]:
    """The largest error of each result, relative to its largest value; NaN is infinite."""
    torch.manual_seed(0)
    inputs = case.inputs(device)
    actual, expected = by_kernels(case, **inputs), in_float64(case, **inputs)
    return {
        name: ((t.double() - expected[name]).abs().max() / expected[name].abs().max())
        .nan_to_num(torch.inf)
        .item()
        for name, t in actual.items()
    }
