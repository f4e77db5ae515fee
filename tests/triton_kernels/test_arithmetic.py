"""The kernels in Triton's interpreter against float64."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from tests.triton_kernels.cases import TOLERANCE, Case, errors
from tests.triton_kernels.conftest import Interpreter

Errors = dict[str, float]
LAYOUTS = {"NHWC": True, "NCHW": False}
ZOO = (2, 4, 8, 16, 32, 64)  # channels per group
TWO_PASSES: dict[str, Any] = dict(block=16, steps=2)  # 35 pixels: a full tile and one of three


def check(interpreter: Interpreter[Errors], case: Case, tolerance: float | None = None) -> None:
    found = interpreter(errors, case)

    assert set(found) >= {"y", "x"}
    # What leaves the kernels in float32, whatever the dtype of the data.
    exact = {k: found.pop(k) for k in ("weight", "bias") if k in found}
    assert max(found.values()) <= (tolerance or TOLERANCE[case.dtype]), found
    assert max(exact.values(), default=0.0) <= (tolerance or TOLERANCE[torch.float32]), exact


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("per_group", ZOO)
def test_one_pass_is_exact_for_every_width(
    interpreter: Interpreter[Errors], per_group: int, layout: str
) -> None:
    check(interpreter, Case(per_group=per_group, channels_last=LAYOUTS[layout]))


@pytest.mark.parametrize(
    ("per_group", "layout"),
    [
        *((per_group, "NHWC") for per_group in ZOO),
        *((per_group, "NCHW") for per_group in (2, 64)),
        *(pytest.param(per_group, "NCHW", marks=pytest.mark.slow) for per_group in ZOO[1:-1]),
    ],
)
def test_two_passes_are_exact_for_every_width(
    interpreter: Interpreter[Errors], per_group: int, layout: str
) -> None:
    case = Case(per_group=per_group, channels_last=LAYOUTS[layout], **TWO_PASSES)

    # One group per program in NCHW, as many as are there in NHWC.
    check(interpreter, case if case.channels_last else replace(case, num_groups=2))


@pytest.mark.parametrize("form", [{}, TWO_PASSES], ids=["one pass", "two passes"])
@pytest.mark.parametrize(
    ("relu", "residual", "affine"),
    [(False, False, True), (True, False, True), (False, True, True), (True, True, False)],
)
def test_every_combination_of_flags_is_exact(
    interpreter: Interpreter[Errors],
    relu: bool,
    residual: bool,
    affine: bool,
    form: dict[str, Any],
) -> None:
    check(interpreter, Case(relu=relu, residual=residual, affine=affine, **form))


@pytest.mark.parametrize("form", [{}, TWO_PASSES], ids=["one pass", "two passes"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_what_is_written(
    interpreter: Interpreter[Errors], dtype: torch.dtype, form: dict[str, Any]
) -> None:
    check(interpreter, Case(dtype=dtype, **form))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "per_group", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5))]
)
def test_widths_that_are_no_power_of_two_are_padded(
    interpreter: Interpreter[Errors], per_group: int, layout: str
) -> None:
    case = Case(per_group=per_group, channels_last=LAYOUTS[layout], size=(3, 4), batch=2)

    check(interpreter, case)
    check(interpreter, replace(case, block=4, steps=2))


@pytest.mark.parametrize("form", [{}, TWO_PASSES], ids=["one pass", "two passes"])
def test_a_mean_of_ten_thousand_deviations_leaves_the_variance_right(
    interpreter: Interpreter[Errors], form: dict[str, Any]
) -> None:
    """By a difference of squares it would be wrong in the first digit; float32 holds 6e-4 here."""
    check(interpreter, Case(mean=1e4, **form), tolerance=2e-3)


def test_tiles_of_different_means_combine(interpreter: Interpreter[Errors]) -> None:
    check(interpreter, Case(ramp=300.0, **TWO_PASSES), tolerance=1e-4)


@pytest.mark.parametrize("size", [(), (1,), (17,), (1, 1), (2, 3, 4)])
def test_any_number_of_dimensions_will_do(
    interpreter: Interpreter[Errors], size: tuple[int, ...]
) -> None:
    check(interpreter, Case(size=size, batch=2, channels_last=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("per_group", "layout", "dtype"),
    [*product((2, 8, 64), LAYOUTS, (torch.float32, torch.bfloat16))],
)
def test_thirty_two_groups_cut_as_for_a_gpu_are_exact(
    interpreter: Interpreter[Errors], per_group: int, layout: str, dtype: torch.dtype
) -> None:
    channels_last = LAYOUTS[layout]
    case = Case(
        per_group=per_group, num_groups=32, channels_last=channels_last, dtype=dtype, size=(9, 13)
    )

    check(interpreter, case)
    if channels_last:
        check(interpreter, replace(case, block=16, steps=1))  # 8 tiles
        check(interpreter, replace(case, block=4, steps=1, num_groups=2))  # 30: more than one read
