"""The kernels on a real GPU."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from tests.triton_kernels.cases import TOLERANCE, Case, by_kernels, errors
from wszoo.triton_kernels import group_norm_act, usable, use

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("per_group", "last", "dtype"),
    [
        *product(
            (2, 3, 4, 8, 16, 32, 64), (True, False), (torch.float32, torch.bfloat16, torch.float16)
        )
    ],
)
@pytest.mark.parametrize(("relu", "residual"), [(False, False), (True, False), (True, True)])
def test_compiled_kernels_are_exact(
    per_group: int, last: bool, dtype: torch.dtype, relu: bool, residual: bool
) -> None:
    case = Case(
        per_group=per_group, num_groups=32, batch=2, size=(13, 17), channels_last=last,
        dtype=dtype, relu=relu, residual=residual,
    )  # fmt: skip

    for cut in (case, replace(case, block=16, steps=2)):
        assert max(errors(cut, "cuda").values()) <= 4 * TOLERANCE[dtype]


@pytest.mark.parametrize("size", [(56, 56), (112, 112)])
def test_two_runs_agree_to_the_bit(size: tuple[int, int]) -> None:
    case = Case(per_group=2, num_groups=32, batch=4, size=size, dtype=torch.bfloat16)
    inputs = case.inputs("cuda")

    first, second = (by_kernels(case, **inputs) for _ in range(2))

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_gpu_runs_them_when_asked() -> None:
    x = torch.randn(2, 64, 9, 9, device="cuda", requires_grad=True)
    before = use(True)
    try:
        assert usable(x, 32)
        on_kernels = group_norm_act(x, 32, None, None, relu=True)
        use(False)
        plain = group_norm_act(x, 32, None, None, relu=True)
    finally:
        use(before)

    assert "wszoo" in str(on_kernels.grad_fn) and "wszoo" not in str(plain.grad_fn)
    torch.testing.assert_close(on_kernels, plain)
    for out in (on_kernels, plain):
        assert torch.autograd.grad(out.square().sum(), x)[0].isfinite().all()
