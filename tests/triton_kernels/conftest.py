"""A second process in which Triton interprets kernels: its switch counts when it is imported."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from typing import TypeVar

import pytest

from tests.triton_kernels.interpreted import prepare

T = TypeVar("T")
Interpreter = Callable[..., T]


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter[object]]:
    """Calls a function of ``interpreted.py`` where kernels are interpreted, with NaN for empty."""
    if find_spec("triton") is None:
        pytest.skip("needs the package `triton`")
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=prepare) as pool,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("TRITON_INTERPRET", "1")
        environment.setenv("WSZOO_TRITON", "1")
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result()
