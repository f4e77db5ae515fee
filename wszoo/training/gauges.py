"""How far a step turns the kernels of each stage, and when that drifts off."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from torch import nn

_STAGES = {"conv1": "stem", "fc": "head"}  # the others go by their own names
_NOT_NORMALISED = "se"  # timm's name of the attention in a block; no norm follows its kernels


def weight_gauges(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Length of the kernels, learning rate and effective learning rate of each stage.

    A norm follows every convolution, so the scale of its kernel w does not change what the net
    computes. What a step of SGD turns it by grows with lr / ||w||^2, its effective learning rate,
    which weight decay raises as it shrinks w.

    Source: Zhang et al. 2019, "Three Mechanisms of Weight Decay Regularization",
    https://arxiv.org/abs/1810.12281

    Args:
        model: A ResNet; as a replica of DDP too.
        optimizer: Over its parameters, with the learning rates that are in force.

    Returns:
        By stage (``stem``, ``layer1`` to ``layer4``, ``head``): ``norm/<stage>`` of all kernels
        together, ``lr/<stage>`` and ``effective_lr/<stage>``, means over the convolutions. The
        head has a norm only, for its scale matters; a frozen stage too.
    """
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    squares: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    rate: defaultdict[str, list[float]] = defaultdict(list)
    effective: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    for path, module in getattr(model, "module", model).named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        parts, kernel = path.split("."), module.weight.detach()
        stage = _STAGES.get(parts[0], parts[0])
        square = kernel.to(torch.promote_types(kernel.dtype, torch.float32)).square().sum()
        squares[stage].append(square)
        free = isinstance(module, nn.Conv2d) and _NOT_NORMALISED not in parts
        if free and module.weight.requires_grad and id(module.weight) in rates:
            rate[stage].append(rates[id(module.weight)])
            effective[stage].append(rates[id(module.weight)] / square)
    tensors = {f"norm/{stage}": torch.stack(parts).sum().sqrt() for stage, parts in squares.items()}
    tensors |= {f"effective_lr/{stage}": torch.stack(e).mean() for stage, e in effective.items()}
    values = torch.stack([*tensors.values()]).tolist()  # one wait only
    means = {f"lr/{stage}": fmean(of_stage) for stage, of_stage in rate.items()}
    return dict(zip(tensors, values, strict=True)) | means


class DriftWatch:
    """Warns where the effective learning rate has left the course that the schedule gives it.

    Schedules end near zero, which is no drift. So lr / ||w||^2 is compared at equal learning rate
    with where it stood after warm-up, when the learning rate was first seen at its highest.

    Args:
        factor: Up or down, from which on to warn; once per stage.

    Raises:
        ValueError: ``factor`` is not above 1.
    """

    def __init__(self, factor: float = 10.0) -> None:
        if factor <= 1:
            raise ValueError(f"factor must be above 1, got {factor}")
        self._factor = factor
        self._start: dict[str, list[float]] = {}  # by stage: lr, and effective lr per lr
        self._warned: list[str] = []

    def look(self, gauges: Mapping[str, float]) -> list[str]:
        """Warnings that the values of ``weight_gauges`` give cause for, each with the way out."""
        warnings = []
        for stage in [key.partition("/")[2] for key in gauges if key.startswith("effective_lr/")]:
            lr = gauges[f"lr/{stage}"]
            if lr == 0 or stage in self._warned:
                continue
            freedom = gauges[f"effective_lr/{stage}"] / lr
            if stage not in self._start or lr > self._start[stage][0]:
                self._start[stage] = [lr, freedom]
            drift = freedom / self._start[stage][1]
            if not 1 / self._factor <= drift <= self._factor:
                self._warned.append(stage)
                warnings.append(_advice(stage, drift))
        return warnings

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from: plain data."""
        return {"start": dict(self._start), "warned": list(self._warned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start, self._warned = dict(state["start"]), list(state["warned"])


def _advice(stage: str, drift: float) -> str:
    if drift > 1:
        return (
            f"the effective learning rate of {stage} is {drift:.3g} times what it was after "
            f"warm-up, the schedule aside, for its kernels have shrunk; if the loss is unsteady, "
            f"lower the weight decay or the learning rate"
        )
    return (
        f"the effective learning rate of {stage} is {1 / drift:.3g} times lower than after "
        f"warm-up, the schedule aside, for its kernels have grown; if the loss stands still, "
        f"raise the weight decay or lower the peak learning rate, which makes kernels grow"
    )
