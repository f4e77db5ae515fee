import hashlib
import json
import os
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wszoo.datasets.fetching import Patience
from wszoo.datasets.shard_check import check_shards
from wszoo.datasets.shard_index import read_index
from wszoo.datasets.shard_manifest import read_manifest

Damage = Callable[[Path], object]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def sign_again(folder: Path) -> None:
    """Make the manifest tell of the files as they are, as one who made them wrong would."""
    data = json.loads((folder / "manifest.json").read_text())
    for file in (data["index"], *data["shards"]):
        content = (folder / file["name"]).read_bytes()
        file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(data))


def flip(folder: Path) -> None:
    """One bit of a photo."""
    path = folder / "shard-000001.tar"
    overwrite(path, 3000, bytes([path.read_bytes()[3000] ^ 1]))


def blank(folder: Path) -> None:
    """Zeros for the second photo."""
    row = read_index(folder / "index.npy", read_manifest(folder))[1]
    overwrite(folder / "shard-000000.tar", int(row["offset"]), bytes(int(row["length"])))


def relabel(folder: Path) -> None:
    """Another class in the shard than in the index."""
    path = folder / "shard-000000.tar"
    header = path.read_bytes().index(b"000000001.cls")
    overwrite(path, header + 512, b"x")
    sign_again(folder)


def change_index(folder: Path) -> None:
    rows: np.ndarray = np.load(folder / "index.npy")
    rows["offset"][2] += 512
    np.save(folder / "index.npy", rows)
    sign_again(folder)


def cut(folder: Path) -> None:
    """All behind the first photo of a shard, and its manifest knows."""
    path = folder / "shard-000000.tar"
    os.truncate(path, path.read_bytes().index(b"000000001.jpg"))
    data = json.loads((folder / "manifest.json").read_text())
    rows: np.ndarray = np.load(folder / "index.npy")
    rows["offset"][rows["shard"] == 0] = rows["offset"][0]
    rows["length"][rows["shard"] == 0] = rows["length"][0]
    np.save(folder / "index.npy", rows)
    (folder / "manifest.json").write_text(json.dumps(data))
    sign_again(folder)


def append(folder: Path) -> None:
    """A sample that the index does not know."""
    path = folder / "shard-000000.tar"
    content = path.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512)
    path.write_bytes(content + path.read_bytes()[:512] + bytes(8192))
    sign_again(folder)


def no_tar(folder: Path) -> None:
    (folder / "shard-000000.tar").write_bytes(b"<html>" * 10_000)
    sign_again(folder)


def lose_index_and_flip(folder: Path) -> None:
    (folder / "index.npy").unlink()
    flip(folder)


def test_what_was_made_is_found_whole(folder: Path) -> None:
    report = check_shards(folder, decode=True)

    assert report.findings == ()
    assert report.ok and report.images == 50 and report.classes == 10 and report.shards > 3
    assert str(report).endswith(" MiB: ok, every image decoded")
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


@pytest.mark.parametrize(
    ("damage", "findings"),
    [
        (flip, ["the sha256 of {}/shard-000001.tar is "]),
        (blank, ["the sha256 of {}/shard-000000.tar is "]),
        (relabel, ["{}/shard-000000.tar holds 000000001.cls of class 'x', the index tells of 0"]),
        (change_index, ["{}/shard-000000.tar holds 000000002.jpg of "]),
        (cut, ["{}/shard-000000.tar ends before 000000001; copy it again"]),
        (append, ["{}/shard-000000.tar holds more than its "]),
        (no_tar, ["{}/shard-000000.tar cannot be read at 000000000: "]),
        (
            lambda folder: (folder / "shard-000001.tar").unlink(),
            ["no such file: {}/shard-000001.tar; copy it again"],
        ),
        (
            lambda folder: os.truncate(folder / "shard-000001.tar", 20_000),
            [
                "{}/shard-000001.tar has 20000 bytes, the manifest says 40960; copy it again",
                "{}/shard-000001.tar cannot be read at 00000",
            ],
        ),
        (
            lambda folder: (folder / "shard-000077.tar").touch(),
            ["{}/shard-000077.tar is not in the manifest; remove it"],
        ),
        (
            lambda folder: (folder / "index.npy").write_bytes(b""),
            ["{}/index.npy is damaged: its sha256 is "],
        ),
        (
            lose_index_and_flip,
            [
                "no such file: {}/index.npy; copy it again; the members of the shards were not",
                "the sha256 of {}/shard-000001.tar is ",
            ],
        ),
    ],
)
def test_damage_is_found(damage: Damage, findings: list[str], folder: Path) -> None:
    damage(folder)

    report = check_shards(folder)

    assert len(report.findings) == len(findings), report.findings
    for found, expected in zip(report.findings, findings, strict=True):
        assert found.startswith(expected.format(folder))
    assert not report.ok
    assert str(report).startswith(f"BAD  {report.findings[0]}\n")


def test_every_photo_that_cannot_be_decoded_is_found_on_demand(folder: Path) -> None:
    blank(folder)
    sign_again(folder)

    assert check_shards(folder).ok
    (finding,) = check_shards(folder, decode=True).findings
    assert finding.startswith(f"cannot decode {folder}/shard-000000.tar:000000001.jpg: it is no im")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on standard error."""


def test_shards_on_a_server_are_fetched_and_checked(folder: Path) -> None:
    flip(folder)
    patience = Patience(attempts=2, pause=0.01, timeout=5)
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        report = check_shards(url, decode=True, patience=patience)
        (folder / "manifest.json").unlink()
        with pytest.raises(ConnectionError, match=f"cannot fetch {url}/manifest.json: status 404"):
            check_shards(url, patience=patience)
        server.shutdown()
        thread.join()

    (finding,) = report.findings
    assert finding.startswith(f"cannot fetch {url}/shard-000001.tar: its sha256 is ")
    assert report.location == url


def test_a_folder_without_shards_is_no_finding_but_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json in"):
        check_shards(tmp_path)
