"""``group_norm_act`` as an operator of torch."""

import re

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.triton_kernels import interpreted
from tests.triton_kernels.conftest import Interpreter
from wszoo.layers import GroupNorm
from wszoo.triton_kernels import group_norm_act, use

FLAGS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize(("relu", "residual"), FLAGS)
def test_output_and_gradients_are_those_of_plain_torch(
    interpreter: Interpreter[list[tuple[Tensor, ...]]], relu: bool, residual: bool
) -> None:
    ours, theirs = interpreter(interpreted.gradients, torch.float32, relu, residual)

    assert len(ours) == 4 + residual
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_half_precision_data_keeps_a_float32_affine(
    interpreter: Interpreter[list[tuple[Tensor, ...]]],
) -> None:
    ours, theirs = interpreter(interpreted.gradients, torch.bfloat16, True, True)

    assert [t.dtype for t in ours] == [t.dtype for t in theirs]
    assert [t.dtype for t in ours[2:4]] == [torch.float32] * 2
    torch.testing.assert_close(ours[:2], theirs[:2], rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize(
    ("relu", "residual"),
    [(True, True), *(pytest.param(*flags, marks=pytest.mark.slow) for flags in FLAGS[:-1])],
)
def test_second_derivatives_hold(
    interpreter: Interpreter[bool], relu: bool, residual: bool
) -> None:
    assert interpreter(interpreted.second_derivatives_hold, relu, residual)


def test_a_gradient_penalty_counts_each_dependence_once(
    interpreter: Interpreter[list[Tensor]],
) -> None:
    ours, theirs = (interpreter(interpreted.penalty, kernels) for kernels in (True, False))

    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_it_compiles_into_one_graph(interpreter: Interpreter[tuple[Tensor, ...]]) -> None:
    whole, eager = interpreter(interpreted.compiled)

    torch.testing.assert_close(whole, eager)


@pytest.mark.slow
def test_torch_finds_nothing_wrong_with_the_operators(interpreter: Interpreter[None]) -> None:
    interpreter(interpreted.check_operators)


def test_exported_and_traced_graphs_hold_only_what_torch_knows(
    interpreter: Interpreter[str],
) -> None:
    for graph in (interpreter(interpreted.exported), interpreter(interpreted.traced)):
        assert "group_norm" in graph
        assert not re.search(r"wszoo(::|\.)group_norm_act", graph)


def test_without_the_kernels_it_is_group_norm_and_relu() -> None:
    norm = GroupNorm(64)
    x, residual = torch.randn(2, 2, 64, 5, 5)

    ours = group_norm_act(x, 32, norm.weight, norm.bias, relu=True, residual=residual)

    torch.testing.assert_close(ours, torch.relu(norm(x) + residual))


def test_bfloat16_in_plain_torch_stays_bfloat16_with_float32_statistics() -> None:
    norm = GroupNorm(64)
    x = (torch.randn(2, 64, 5, 5) + 8).bfloat16()

    ours = group_norm_act(x, 32, norm.weight, norm.bias, relu=True)

    assert ours.dtype == torch.bfloat16
    exact = torch.relu(norm.double()(x.double()))
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(("residual", "kept"), [(False, 1), (True, 2)])
def test_it_keeps_the_input_and_behind_an_add_the_output(residual: bool, kept: int) -> None:
    pytest.importorskip("triton")
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    before = use(True)
    try:
        with (
            FakeTensorMode(),
            torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
        ):
            x = torch.randn(2, 64, 8, 8, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            affine = (torch.ones(64, device="cuda"), torch.zeros(64, device="cuda"))
            added = torch.randn_like(x) if residual else None
            out = group_norm_act(x, 32, *affine, relu=True, residual=added)
    finally:
        use(before)

    assert out.dtype == torch.bfloat16
    assert sum(t.shape == x.shape for t in saved) == kept
    assert sum(t.numel() for t in saved if t.shape == (2, 32)) == 2 * 64


def test_what_is_not_a_number_stays_so(interpreter: Interpreter[tuple[Tensor, Tensor]]) -> None:
    ours, theirs = interpreter(interpreted.not_a_number)

    assert ours.tolist() == theirs.tolist()
    assert ours[0] > 1


def test_forward_mode_differentiation_goes_through_torch(
    interpreter: Interpreter[tuple[Tensor, Tensor]],
) -> None:
    ours, theirs = interpreter(interpreted.transformed)

    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs)


def test_dual_tensors_go_through_torch(interpreter: Interpreter[tuple[Tensor, Tensor]]) -> None:
    ours, theirs = interpreter(interpreted.forward_mode)

    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs)


def test_an_affine_of_another_length_is_refused(interpreter: Interpreter[str]) -> None:
    assert "weight" in interpreter(interpreted.affine_of_another_length)
