"""Where the kernels run."""

import subprocess
import sys

import pytest
import torch

from tests.triton_kernels import interpreted
from tests.triton_kernels.conftest import Interpreter
from wszoo.triton_kernels import FASTER, fits, usable, use
from wszoo.triton_kernels.choice import _from_environment

X = torch.zeros(2, 64, 4, 4)


def test_no_gpu_has_timed_them_so_nothing_runs_them_unasked() -> None:
    assert FASTER == ()
    assert not usable(X, 32)


def test_a_cpu_does_not_run_them_even_when_asked() -> None:
    assert use(True) is None
    try:
        assert not fits(X, 32)
        assert not usable(X, 32)
    finally:
        assert use(None) is True


@pytest.mark.parametrize(
    ("x", "num_groups", "expected"),
    [
        (X, 32, True),
        (X.to(memory_format=torch.channels_last), 32, True),
        (X.bfloat16(), 16, True),
        (X.half(), 1, True),
        (X[:, :, 0], 32, False),
        (X[:, :, 0].contiguous(), 32, True),
        (X.double(), 32, False),
        (X.int(), 32, False),
        (X.transpose(2, 3)[:, :, :3], 32, False),
        (X, 24, False),
        (X[:0], 32, False),
        (X[..., :0], 32, False),
        (torch.zeros(1, 1024, 2, 2), 1, False),
        (torch.zeros(8), 1, False),
    ],
)
def test_device_dtype_layout_and_shape_decide(
    interpreter: Interpreter[bool], x: torch.Tensor, num_groups: int, expected: bool
) -> None:
    assert interpreter(interpreted.fitting, x, num_groups) is expected


def test_the_environment_is_the_first_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, wanted in (("", None), ("1", True), ("0", False)):
        monkeypatch.setenv("WSZOO_TRITON", value)
        assert _from_environment() is wanted

    monkeypatch.setenv("WSZOO_TRITON", "yes")
    with pytest.raises(ValueError, match="WSZOO_TRITON is 'yes': 1 turns the Triton kernels on"):
        _from_environment()


def test_without_triton_everything_runs_in_plain_torch() -> None:
    script = """
import importlib.util, sys
import wszoo
assert not any("triton_kernels" in name for name in sys.modules), "imported by wszoo"
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
    del sys.modules[name]
sys.modules["triton"] = None
import torch
from wszoo.triton_kernels import group_norm_act, usable, use
use(True)
assert not usable(torch.ones(1, 4, 2, 2), 2)
assert group_norm_act(torch.ones(1, 4, 2, 2), 2, None, None, relu=True).sum() == 0
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
