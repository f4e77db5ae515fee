"""Residual blocks whose norms are operators of Triton, run by its interpreter."""

import pytest
import timm
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.triton_kernels import interpreted
from tests.triton_kernels.conftest import Interpreter
from tests.triton_kernels.interpreted import Fused, Results
from wszoo.triton_kernels import use

Found = tuple[list[bool], Results, Results]


@pytest.mark.parametrize(
    ("kind", "residuals"),
    [
        ("basic", [False, True]),
        ("bottleneck", [False, False, True]),
        ("watched", [False, True]),
        ("dropped", [False]),
    ],
    ids=["basic", "bottleneck", "hook on a norm", "drop block and drop path"],
)
def test_output_and_gradients_of_a_block_are_those_of_timm_in_float64(
    interpreter: Interpreter[Found], kind: str, residuals: list[bool]
) -> None:
    fused, ours, exact = interpreter(interpreted.block, kind)

    assert fused == residuals  # the last one takes the shortcut, where nothing comes between
    assert ours.keys() == exact.keys()
    for name, tensor in ours.items():
        assert _error(tensor, exact[name]) < 2e-5, name


def _error(actual: Tensor, expected: Tensor) -> float:
    difference = (actual.double() - expected).abs().max()
    return float(difference / expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny))


@pytest.mark.parametrize(("wanted", "fused"), [(True, [False, True] * 4), (None, [])])
def test_a_net_on_cuda_fuses_where_the_kernels_are_turned_on(
    wanted: bool | None, fused: list[bool]
) -> None:
    pytest.importorskip("triton")
    before = use(wanted)
    try:
        with FakeTensorMode(), torch.device("cuda"), Fused() as found:
            timm.create_model("test_resnet_gn_ws")(torch.randn(2, 3, 64, 64))
    finally:
        use(before)

    assert [residual for relu, residual in found.norms if relu] == fused
