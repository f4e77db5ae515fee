"""What every test starts from, and which tests a machine cannot run."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import wszoo.weights
from tests.hub_client import MODEL, NAME, published, turn_to
from tests.hub_repos import sha256
from tests.hub_server import HubServer
from wszoo.weights import WEIGHTS_FILE, Weights, find

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
def interruptible() -> None:
    """Ctrl-C works in tests and in what they start, also where the runner itself ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums come out the same on every machine, and small nets are fastest so."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def known_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers in every run, and no weights from the user's own folder."""
    torch.manual_seed(0)
    monkeypatch.delenv("WSZOO_WEIGHTS", raising=False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A stand-in for the Hub, for the real client in this process and in those started by it."""
    with HubServer() as server:
        turn_to(server, tmp_path / "hf-home", monkeypatch)
        yield server


@pytest.fixture
def hub_net() -> Any:
    """A net that is small, with the classes of its packaged weights."""
    return timm.create_model(MODEL, num_classes=200).eval()


@pytest.fixture
def hub_files(hub_net: Any, hub: HubServer, tmp_path: Path) -> dict[str, bytes]:
    """The files that publish ``hub_net``, on the stand-in as ``NAME``."""
    files = published(hub_net, tmp_path / "published")
    hub.publish(NAME, files)
    return files


@pytest.fixture
def hub_record(
    hub_files: dict[str, bytes], hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> Weights:
    """The record of the packaged weights, as if they were ``hub_net``'s, and on the Hub alone."""
    record = replace(
        find(MODEL),
        sha256=sha256(hub_files[WEIGHTS_FILE]),
        dtype="F32",
        packaged=False,
        hub=f"{NAME}@{hub.repos[NAME].commits[-1].sha}",
    )
    monkeypatch.setattr(wszoo.weights, "WEIGHTS", (record,))
    return record
