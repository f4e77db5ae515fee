"""Comparing a converted net with an independent forward of its source, stage by stage."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wszoo.conversion.nets import Target

PIXELS = (64, 97)
EXACT = 1e-9
DEEP = 60  # convolutions; ResNets of up to 50 layers have fewer, those of 101 more
# What rounding may cost the outputs: of float32 arithmetic, and of the type of the file. Half
# precision costs 1e-4 in a trained ResNet-18 and 0.08 in a random ResNet-101; values beyond its
# range cost far more.
FLOAT32, FLOAT32_DEEP = 5e-5, 3e-4
STORED = {"fp64": EXACT, "fp32": 1e-5, "fp16": 0.1}

Errors = dict[str, dict[str, float]]
Stages = dict[str, tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Relative errors, ``max|a - b| / max|b|``, by size of input and stage.

    Attributes:
        float64: Of the converted weights; every stage has to be exact.
        stored: Of the weights as the file holds them, rounded to its type; float64 arithmetic.
        float32: Of the same in float32 arithmetic, as the net will be run.
        own: What the independent net loses at most in float32, in ``outputs``.
        outputs: The stages that are results.
        tolerance: The most that is allowed of each; of the last two, for ``outputs``.
        undecided: Kinds whose tolerance the independent net exceeds by itself: their errors say
            nothing about the conversion, and do not decide.
        not_finite: Tensors of the file, and errors, that are infinite or NaN; none are allowed.
    """

    float64: Errors
    stored: Errors
    float32: Errors
    own: float
    outputs: tuple[str, ...]
    tolerance: dict[str, float]
    undecided: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()

    @property
    def worst(self) -> dict[str, float]:
        """The largest error of each kind that counts; NaN is infinite."""
        every = [error for stages in self.float64.values() for error in stages.values()]
        return {
            "float64": _largest(every),
            "stored": _largest(_of(self.stored, self.outputs)),
            "float32": _largest(_of(self.float32, self.outputs)),
        }

    @property
    def worst_of_outputs(self) -> dict[str, float]:
        """The largest error of each kind in what comes out; NaN is infinite."""
        return {
            kind: _largest(_of(errors, self.outputs))
            for kind, errors in (
                ("float64", self.float64),
                ("stored", self.stored),
                ("float32", self.float32),
            )
        }

    @property
    def passed(self) -> bool:
        return not self.not_finite and all(
            worst <= self.tolerance[kind]
            for kind, worst in self.worst.items()
            if kind not in self.undecided
        )

    def to_json(self) -> dict[str, Any]:
        """The report's entry; errors that are no finite numbers are null."""
        entry: dict[str, Any] = _json_value(
            {"passed": self.passed, "worst": self.worst, **asdict(self)}
        )
        return entry


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _largest(errors: Iterable[float]) -> float:
    return max(float("inf") if math.isnan(error) else error for error in errors)


def _of(errors: Errors, stages: Iterable[str]) -> list[float]:
    return [row[stage] for row in errors.values() for stage in stages if stage in row]


def prove(
    target: Target,
    reference: nn.Module,
    reference_taps: Mapping[str, str],
    *,
    stored: Mapping[str, Tensor],
    dtype: str,
) -> Proof:
    """Run both nets on fixed images of 64 and 97 pixels and compare every stage.

    Args:
        target: The net to prove, with its weights before rounding.
        reference: The independent net in float64, such as ``reference_net`` makes; it is in
            float32 afterwards.
        reference_taps: Its stages, see ``Target.taps``.
        stored: The weights of ``target`` as the file holds them.
        dtype: The type that the file stores: fp64, fp32 or fp16.

    Raises:
        ValueError: Weights do not fit, or a stage has another shape.
    """
    flip = target.flips_channels
    truth = {px: _stages(target, reference, reference_taps, px, flip) for px in PIXELS}
    convs = sum(isinstance(module, nn.Conv2d) for module in reference.modules())

    net = target.build()
    float64 = rounded = _errors(target, net, target.taps, truth)
    if not all(torch.equal(stored[k].double(), v.double()) for k, v in target.state_dict.items()):
        net = target.build(stored)
        rounded = _errors(target, net, target.taps, truth)
    own_errors = _errors(target, reference.float(), reference_taps, truth, flip)
    kinds = {
        "float64": float64,
        "stored": rounded,
        "float32": _errors(target, net.float(), target.taps, truth),
    }
    own = _largest(_of(own_errors, target.outputs))
    tolerance = _tolerance(dtype, FLOAT32 if convs < DEEP else FLOAT32_DEEP)
    return Proof(
        **kinds,
        own=own,
        outputs=target.outputs,
        tolerance=tolerance,
        undecided=("float32",) if own > tolerance["float32"] else (),
        not_finite=_not_finite(stored, {**kinds, "own float32": own_errors}),
    )


def _tolerance(dtype: str, arithmetic: float) -> dict[str, float]:
    stored = STORED[dtype]
    float32 = arithmetic + stored if dtype == "fp16" else arithmetic
    return {"float64": EXACT, "stored": stored, "float32": float32}


def _not_finite(stored: Mapping[str, Tensor], kinds: Mapping[str, Errors]) -> tuple[str, ...]:
    tensors = [key for key, value in stored.items() if not value.isfinite().all()]
    errors = [
        f"{kind} error of {stage} at {pixels} px"
        for kind, sizes in kinds.items()
        for pixels, stages in sizes.items()
        for stage, error in stages.items()
        if not math.isfinite(error)
    ]
    return (*tensors, *errors)


def fixed_image(pixels: int) -> Tensor:
    """Noise of shape ``(1, 3, pixels, pixels)``, the same everywhere and always."""
    generator = torch.Generator().manual_seed(pixels)
    return torch.randn(1, 3, pixels, pixels, generator=generator, dtype=torch.float64)


@torch.inference_mode()
def _stages(
    target: Target, net: nn.Module, taps: Mapping[str, str], pixels: int, flip: bool
) -> Stages:
    """What comes out of each stage, in float64; a stage that is run on several maps is a list."""
    outputs: dict[str, list[Tensor]] = {}

    def keep(stage: str) -> Any:
        # Copies: the next layer may work in place.
        return lambda _module, _input, output: outputs.setdefault(stage, []).append(
            output.double().clone()
        )

    known = dict(net.named_modules())
    hooks = [
        known[tap].register_forward_hook(keep(stage)) for stage, tap in taps.items() if tap in known
    ]
    image = fixed_image(pixels).to(next(net.parameters()).dtype)
    target.run(net, image.flip(1) if flip else image)
    for hook in hooks:
        hook.remove()
    return {stage: tuple(outputs[stage]) for stage in taps if stage in outputs}


def _errors(
    target: Target,
    net: nn.Module,
    taps: Mapping[str, str],
    truth: dict[int, Stages],
    flip: bool = False,
) -> Errors:
    errors: Errors = {}
    for pixels, right in truth.items():
        found = _stages(target, net, taps, pixels, flip)
        if found.keys() != right.keys():
            raise ValueError(f"{target.model} has the stages {[*found]}, the source {[*right]}")
        errors[str(pixels)] = {
            stage: _largest(map(_relative, found[stage], right[stage])) for stage in right
        }
    return errors


def _relative(found: Tensor, right: Tensor) -> float:
    if found.shape != right.shape:
        raise ValueError(f"a stage gives {tuple(found.shape)}, the source {tuple(right.shape)}")
    difference, largest = (found - right).abs().max(), right.abs().max()
    return float(difference / largest) if difference else 0.0
