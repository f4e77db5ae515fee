"""A proof that passes what is exact, and nothing else."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wszoo.conversion import proof
from wszoo.conversion.nets import Target, taps_of_reference
from wszoo.conversion.proof import Proof, _largest, _relative, prove
from wszoo.conversion.reference import reference_net
from wszoo.layers import FORMULAS

RandomWeights = Callable[..., dict[str, Tensor]]
SMALL = "resnet10_gn_ws"
SCALES = ("1", "0.05", "log-normal", "1e-3")


def target_of(architecture: str, weights: dict[str, Tensor], formula: str) -> Target:
    return Target(
        model=architecture, model_args={"formula": formula}, formula=formula, state_dict=weights
    )


def proof_of(
    target: Target,
    formula: str | None,
    dtype: torch.dtype = torch.float32,
    *,
    published: dict[str, Tensor] | None = None,
    architecture: str | None = None,
) -> Proof:
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in target.state_dict.items()}
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.float64: "fp64"}
    architecture = architecture or target.model
    weights = target.state_dict if published is None else published
    reference = reference_net(architecture, weights, formula)
    taps = taps_of_reference(architecture)
    return prove(target, reference, taps, stored=stored, dtype=names[dtype])


@pytest.mark.parametrize("formula", FORMULAS)
def test_each_formula_proves_itself_and_rejects_the_five_others(
    formula: str, monkeypatch: pytest.MonkeyPatch, random_weights: RandomWeights
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    target = target_of(SMALL, random_weights(SMALL, "1e-3"), formula)

    verdicts = {published: proof_of(target, published).passed for published in FORMULAS}

    assert verdicts == {published: published == formula for published in FORMULAS}


@pytest.mark.parametrize("scale", SCALES)
def test_a_small_net_is_proven_at_every_scale_of_its_filters(
    scale: str, random_weights: RandomWeights
) -> None:
    result = proof_of(target_of(SMALL, random_weights(SMALL, scale), "jhu"), "jhu")

    assert result.passed
    assert result.worst["float64"] < 1e-12
    assert set(result.float64) == {"64", "97"}
    assert result.stored == result.float64  # fp32 weights are stored as they are


def test_plain_kernels_are_proven(
    random_weights: RandomWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    weights = random_weights("resnet18_gn_ws", "0.05")
    args = {"norm_layer": "groupnorm"}
    target = Target(model="resnet18", model_args=args, formula=None, state_dict=weights)

    assert proof_of(target, None, architecture="resnet18_gn").passed
    assert not proof_of(target, "jhu", architecture="resnet18_gn").passed


@pytest.mark.slow
def test_batch_channel_norm_is_proven(random_weights: RandomWeights) -> None:
    weights = random_weights("resnet50_bcn_ws", "0.05")

    assert proof_of(target_of("resnet50_bcn_ws", weights, "bcn"), "bcn").passed


def test_exchanged_kernels_fail_from_their_stage_on(
    monkeypatch: pytest.MonkeyPatch, random_weights: RandomWeights
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (64,))
    weights = random_weights(SMALL, "0.05")
    exchanged = {**weights, "layer3.0.bn1.weight": weights["layer3.0.bn2.weight"]}

    result = proof_of(target_of(SMALL, exchanged, "jhu"), "jhu", published=weights)

    errors = result.float64["64"]
    assert not result.passed
    assert max(errors[stage] for stage in ("stem", "stage 1", "stage 2")) < 1e-12
    assert min(errors[stage] for stage in ("stage 3", "stage 4", "logits")) > 1e-3


def test_values_that_are_not_finite_prove_nothing(
    monkeypatch: pytest.MonkeyPatch, random_weights: RandomWeights
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    weights = random_weights(SMALL, "0.05")
    weights["fc.bias"][0] = float("nan")

    result = proof_of(target_of(SMALL, weights, "jhu"), "jhu")

    assert not result.passed
    assert result.worst["float64"] == float("inf")


def test_infinities_on_both_sides_are_no_agreement(
    monkeypatch: pytest.MonkeyPatch, random_weights: RandomWeights
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    weights = random_weights(SMALL, "0.05")
    weights["layer1.0.bn1.weight"][0] = float("inf")

    result = proof_of(target_of(SMALL, weights, "jhu"), "jhu")

    assert not result.passed
    assert result.not_finite[0] == "layer1.0.bn1.weight"
    assert "float32 error of logits at 33 px" in result.not_finite
    assert result.to_json()["worst"] == {"float64": None, "stored": None, "float32": None}
    json.dumps(result.to_json(), allow_nan=False)


def test_one_map_that_is_not_finite_spoils_its_stage() -> None:
    maps = (torch.ones(2), torch.full((2,), float("nan")))

    assert _largest(map(_relative, maps, (torch.zeros(2) + 2, torch.ones(2)))) == float("inf")


def test_what_the_source_loses_in_float32_never_loosens_a_limit(
    monkeypatch: pytest.MonkeyPatch, random_weights: RandomWeights
) -> None:
    monkeypatch.setattr(proof, "PIXELS", (33,))
    monkeypatch.setattr(proof, "FLOAT32", 1e-12)  # below what any net loses
    weights = random_weights(SMALL, "0.05")
    exchanged = {**weights, "layer3.0.bn1.weight": weights["layer3.0.bn2.weight"]}

    same = proof_of(target_of(SMALL, weights, "jhu"), "jhu")
    other = proof_of(target_of(SMALL, exchanged, "jhu"), "jhu", published=weights)

    assert same.own > same.tolerance["float32"] == 1e-12
    assert same.undecided == other.undecided == ("float32",)
    assert same.passed and not other.passed  # exact arithmetic decides


def test_a_float32_error_over_the_limit_fails_where_the_source_has_none(
    random_weights: RandomWeights,
) -> None:
    result = proof_of(target_of(SMALL, random_weights(SMALL, "0.05"), "jhu"), "jhu")
    spoiled = {pixels: {**row, "logits": 6e-5} for pixels, row in result.float32.items()}

    assert result.passed and result.undecided == ()
    assert result.tolerance == {"float64": 1e-9, "stored": 1e-5, "float32": 5e-5}
    assert not replace(result, float32=spoiled).passed


def test_half_precision_is_told_as_a_loss_of_the_file_alone(random_weights: RandomWeights) -> None:
    target = target_of(SMALL, random_weights(SMALL, "0.05"), "jhu")

    result = proof_of(target, "jhu", torch.float16)

    assert result.passed
    assert result.worst["float64"] < 1e-12
    assert 1e-5 < result.worst["stored"] < result.tolerance["stored"]


def test_filters_too_small_for_half_precision_fail(random_weights: RandomWeights) -> None:
    weights = random_weights(SMALL, "1e-3")
    tiny = {k: v * 1e-4 if v.ndim == 4 else v for k, v in weights.items()}

    result = proof_of(target_of(SMALL, tiny, "jhu"), "jhu", torch.float16)

    assert result.worst["float64"] < 1e-12
    assert not result.passed


FOUR = ("resnet50_gn_ws", "resnet101_gn_ws", "resnext50_32x4d_gn_ws", "resnext101_32x4d_gn_ws")


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["1", "0.05", "log-normal"])
@pytest.mark.parametrize("architecture", FOUR)
def test_the_published_nets_are_proven_at_every_scale(
    architecture: str, scale: str, random_weights: RandomWeights
) -> None:
    weights = random_weights(architecture, scale, num_classes=1000)

    result = proof_of(target_of(architecture, weights, "jhu"), "jhu")

    assert result.worst["float64"] <= 1e-9
    assert result.worst["float32"] <= (3e-4 if "101" in architecture else 5e-5)  # of the logits
    assert result.passed
