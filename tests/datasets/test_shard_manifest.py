import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wszoo.datasets import LabelledImages
from wszoo.datasets.shard_index import INDEX_DTYPE, SampleNames, read_index
from wszoo.datasets.shard_manifest import Manifest, ShardFile, parse_manifest, read_manifest

DIGEST = "0123456789abcdef" * 4


def manifest_of(*counts: int, index: str = DIGEST) -> Manifest:
    shards = [
        ShardFile(name=f"shard-{number:06d}.tar", count=count, bytes=10_240, sha256=DIGEST)
        for number, count in enumerate(counts)
    ]
    return Manifest(
        classes=("hat", "dress"),
        suffixes=(".jpg", ".png"),
        quarantined=1,
        index=ShardFile(name="index.npy", count=sum(counts), bytes=500, sha256=index),
        shards=tuple(shards),
    )


def rows_of(*counts: int) -> np.ndarray:
    rows = np.zeros(sum(counts), INDEX_DTYPE)
    rows["shard"] = np.repeat(np.arange(len(counts)), counts)
    rows["offset"], rows["length"] = 512, 1000
    return rows


def test_what_is_written_is_what_is_read(folder: Path, photos: LabelledImages) -> None:
    manifest = read_manifest(folder)

    assert parse_manifest(manifest.to_json().encode(), "here") == manifest
    assert manifest.classes == photos.classes
    assert manifest.index.count == len(photos)


Change = Callable[[dict[str, Any]], object]


def of_shard(**changes: object) -> Change:
    return lambda data: data["shards"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_shard(name="../../etc/passwd"), "'../../etc/passwd' is not the name of a shard"),
        (of_shard(name="/etc/shard-000001.tar"), "is not the name of a shard"),
        (of_shard(name="a/shard-000001.tar"), "is not the name of a shard"),
        (of_shard(name="a\\shard-000001.tar"), "is not the name of a shard"),
        (of_shard(name="..-000001.tar"), "is not the name of a shard"),
        (of_shard(name="shard-000001.tar\n"), "is not the name of a shard"),
        (of_shard(name="shard-00000\u0661.tar"), "is not the name of a shard"),
        (of_shard(name=""), "'' is not the name of a shard"),
        (of_shard(name=7), "7 is not the name of a shard"),
        (of_shard(name="shard-000000.tar"), "no shard is listed, or one of them twice"),
        (of_shard(name="index.npy"), "index.npy is listed as a shard"),
        (of_shard(sha256=DIGEST.upper()), "is not the sha256 of shard-000001.tar"),
        (of_shard(sha256="../" + DIGEST[3:]), "is not the sha256 of shard-000001.tar"),
        (of_shard(count=0), "the count of shard-000001.tar is 0, not a positive integer"),
        (of_shard(count=-1), "the count of shard-000001.tar is -1"),
        (of_shard(count=True), "the count of shard-000001.tar is True"),
        (of_shard(count=2.0), "the count of shard-000001.tar is 2.0"),
        (of_shard(bytes="10240"), "the bytes of shard-000001.tar is '10240'"),
        (of_shard(bytes=2**63), "the bytes of shard-000001.tar is 9223372036854775808"),
        (of_shard(count=4), "the index has 5 samples, the shards have 6"),
        (of_shard(owner="me"), "owner"),
        (lambda data: data["shards"][1].pop("bytes"), "bytes"),
        (lambda data: data["index"].update(name="shard-000009.tar"), "the index is named 'shard-0"),
        (lambda data: data.update(format="webdataset"), "it is of format ('webdataset', 1)"),
        (lambda data: data.update(version=2), "it is of format ('wszoo shards', 2)"),
        (lambda data: data.pop("classes"), "it has no 'classes'"),
        (lambda data: data.update(classes="hat"), "its classes are no list"),
        (lambda data: data.update(classes=[]), "no class is listed"),
        (lambda data: data.update(classes=["hat", "hat"]), "no class is listed, or one of them tw"),
        (lambda data: data.update(classes=["hat", 3]), "3 is not the name of a class"),
        (lambda data: data.update(suffixes=[".exe"]), "'.exe' is no suffix of an image"),
        (lambda data: data.update(quarantined=-1), "the count of quarantined images is -1"),
        (lambda data: data.update(shards=[]), "no shard is listed"),
        (lambda data: data.update(shards=[3]), "must be a mapping"),
    ],
)
def test_what_cannot_be_is_refused(change: Change, message: str) -> None:
    data = json.loads(manifest_of(2, 3).to_json())
    change(data)

    with pytest.raises(ValueError, match=r"^here is no manifest of shards: .*; copy it") as raised:
        parse_manifest(json.dumps(data).encode(), "here")

    assert message in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_at_all_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="^here is no manifest of shards: "):
        parse_manifest(content, "here")


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no manifest.json in {tmp_path}; `wszoo shards m"):
        read_manifest(tmp_path)


def saved(path: Path, rows: np.ndarray, *counts: int) -> Manifest:
    """The manifest of an index that its maker got wrong."""
    np.save(path, rows, allow_pickle=True)
    return manifest_of(*counts, index=hashlib.sha256(path.read_bytes()).hexdigest())


def test_an_index_that_fits_is_read(tmp_path: Path) -> None:
    path = tmp_path / "index.npy"
    manifest = saved(path, rows_of(2, 3), 2, 3)

    assert np.array_equal(read_index(path, manifest), rows_of(2, 3))


def test_a_damaged_or_missing_index_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index.npy"
    manifest = saved(path, rows_of(2, 3), 2, 3)
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ValueError, match=rf"{path} is damaged: its sha256 is \w+, the manifest sa"):
        read_index(path, manifest)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no such index: http://host/index.npy; copy"):
        read_index(path, manifest, "http://host/index.npy")


class Harmful:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('was run')",)


def changed(column: str, value: int) -> np.ndarray:
    rows = rows_of(2, 3)
    rows[column][-1] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([Harmful()] * 5), "Python objects in dtype"),
        (np.zeros(5), r"it holds \(5,\) of float64"),
        (rows_of(2, 2), r"it holds \(4,\) of"),
        (rows_of(5, 0), "its shards have other counts"),
        (changed("shard", 2), "its shards have other counts"),
        (changed("target", 2), "class 2 of 2"),
        (changed("suffix", 2), "suffix 2 of 2"),
        (changed("offset", 10_240), "sample 4 lies beyond its shard"),
        (changed("length", 10_240), "sample 4 lies beyond its shard"),
        (changed("length", 2**64 - 100), "sample 4 lies beyond its shard"),
        (changed("offset", 2**64 - 500), "sample 4 lies beyond its shard"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    rows: np.ndarray, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "index.npy"
    manifest = saved(path, rows, 2, 3)

    with pytest.raises(ValueError, match=f"{path} does not fit its manifest: .*{message}"):
        read_index(path, manifest)


@pytest.mark.parametrize("shape", ["(500000000000,), }", "(500000000000,)", "(-1,), }"])
def test_an_index_that_promises_more_than_it_holds_takes_no_memory(
    shape: str, tmp_path: Path
) -> None:
    path = tmp_path / "index.npy"
    saved(path, rows_of(2, 3), 2, 3)
    header = b"(5,), }".ljust(18)
    assert header in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(header, shape.encode().ljust(18)))
    manifest = manifest_of(2, 3, index=hashlib.sha256(path.read_bytes()).hexdigest())

    with pytest.raises(ValueError, match="does not fit its manifest"):
        read_index(path, manifest)


def test_names_are_those_of_the_members() -> None:
    rows = rows_of(2, 3)
    rows["suffix"][3] = 1

    names = SampleNames(manifest_of(2, 3), rows)

    assert len(names) == 5
    assert names[0] == "shard-000000.tar:000000000.jpg"
    assert names[3] == names[-2] == names[1:4][2] == "shard-000001.tar:000000003.png"
    assert list(names) == list(names[:])
    with pytest.raises(IndexError):
        names[5]


def test_millions_of_names_take_no_memory() -> None:
    rows, manifest = rows_of(*[130_000] * 10), manifest_of(*[130_000] * 10)
    tracemalloc.start()

    names = SampleNames(manifest, rows)

    assert names[1_299_999] == "shard-000009.tar:001299999.jpg"
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()
