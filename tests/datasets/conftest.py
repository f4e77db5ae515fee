"""Real photos, and shards of them."""

from pathlib import Path

import pytest

from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.datasets.shard_writing import write_shards
from wszoo.weights import ASSETS


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of tests are on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def photos() -> LabelledImages:
    """Five photos of each of ten classes, some 3 kB each."""
    images = read_labelled_images(ASSETS / "clothing", "val")
    return LabelledImages(
        names=images.names[::4],
        sources=images.sources[::4],
        targets=images.targets[::4],
        classes=images.classes,
    )


@pytest.fixture
def folder(photos: LabelledImages, tmp_path: Path) -> Path:
    """Several shards of them."""
    write_shards(photos, tmp_path / "shards", bytes_per_shard=40_960)
    return tmp_path / "shards"
