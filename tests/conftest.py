"""What every test starts from, and which tests a machine cannot run."""

import shutil
from importlib.util import find_spec

import pytest
import torch

# Marker -> whether this machine has what its tests need; pyproject.toml says what that is.
AVAILABLE = {
    "gpu": torch.cuda.is_available,
    "chromium": lambda: shutil.which("chromium") is not None,
    "transformers": lambda: find_spec("transformers") is not None,
    "xet": lambda: find_spec("hf_xet") is not None,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lines: list[str] = config.getini("markers")
    needs = {line.split(":")[0]: line.partition(": ")[2].partition(";")[0] for line in lines}
    missing = {marker for marker, available in AVAILABLE.items() if not available()}
    for item in items:
        for marker in missing.intersection(mark.name for mark in item.iter_markers()):
            item.add_marker(pytest.mark.skip(reason=needs[marker]))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums come out the same on every machine, and small nets are fastest so."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def known_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers in every run, and no weights from the user's own folder."""
    torch.manual_seed(0)
    monkeypatch.delenv("WSZOO_WEIGHTS", raising=False)
