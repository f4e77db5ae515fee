"""A stand-in for the Hub that keeps large files by Xet, as the real one does.

A folder is the storage server: ``local://`` is a scheme that the client of Xet has for its own
tests, so that a later version may be without it.
"""

import struct
import tempfile
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.hub_repos import Answer, Commit, Request, is_lfs, sha256
from tests.hub_server import HubServer

_HASH = struct.Struct("<4Q")  # as Xet writes 32 bytes in hexadecimal
_RECORD = 48  # bytes of each record of a shard, and of its header
_HAS_CHECKS, _HAS_SHA256 = 1 << 31, 1 << 30
_END = b"\xff" * 32
_SHARDS, _PIECES = "xet/xorbs/shards", "xet/xorbs/xorbs"


def takes_folders(folder: Path) -> bool:
    """Whether the installed version of Xet uses a folder as its storage server."""
    try:
        _upload(folder, [b"content"])
    except (AttributeError, OSError, RuntimeError):
        return False
    return any((folder / _SHARDS).glob("*.mdb"))


def _opened(storage: Path) -> dict[str, Any]:
    return {
        "endpoint": f"local://{storage}",
        "token": "xet",
        "token_expiry_unix_secs": int(time.time()) + 3600,
    }


def _upload(storage: Path, contents: Iterable[bytes]) -> None:
    xet = import_module("hf_xet")
    with xet.XetSession().new_upload_commit(**_opened(storage)) as upload:
        for content in contents:
            upload.start_upload_bytes(content, sha256=xet.COMPUTE_SHA256)


def _download(storage: Path, xet_hash: str, size: int) -> bytes:
    xet = import_module("hf_xet")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, xet_hash)
        with xet.XetSession().new_file_download_group(**_opened(storage)) as download:
            download.start_download_file(xet.XetFileInfo(xet_hash, size), str(path))
        return path.read_bytes()


class XetHub(HubServer):
    """One that leads a client to ``storage``, or to the CDN if it does without Xet."""

    def __init__(self, storage: Path) -> None:
        super().__init__()
        self.storage = storage
        self.led_to = ""  # another storage server than that, such as one that never answers
        self.stored: dict[str, tuple[str, int]] = {}  # sha256 -> hash of Xet, bytes
        storage.mkdir()

    @property
    def pieces(self) -> list[Path]:
        """The files of the storage that hold content."""
        found = (self.storage / _PIECES).iterdir()
        return [path for path in found if path.suffix != ".tagset"]

    def answer(self, request: Request) -> Any:
        path = request.path.partition("?")[0]
        if "/xet-write-token/" in path or "/xet-read-token/" in path:
            return self._access()
        if "/commit/" in path:
            self._learn()
        found = super().answer(request)
        linked = found.headers.get("X-Linked-Etag", "") if isinstance(found, Answer) else ""
        oid = linked.strip('"')
        if oid in self.stored:
            name, revision = path[1:].partition("/resolve/")[::2]
            token = f"/api/models/{name}/xet-read-token/{revision.partition('/')[0]}"
            found.headers["X-Xet-Hash"] = self.stored[oid][0]
            found.headers["X-Xet-Refresh-Route"] = self.endpoint + token
        return found

    def publish(self, name: str, files: dict[str, bytes], title: str = "Publish") -> Commit:
        _upload(self.storage, [data for path, data in files.items() if is_lfs(path, data)])
        self._learn()
        return super().publish(name, files, title)

    def _access(self) -> Answer:
        """Where the storage is: the client reads the headers, what it uploads with the body."""
        url, token, expires = _opened(self.storage).values()
        url = self.led_to or url
        body = {"casUrl": url, "accessToken": token, "exp": expires}
        headers = {
            "X-Xet-Cas-Url": url,
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(expires),
        }
        return Answer(body, headers)

    def _learn(self) -> None:
        """Learn what has been stored, as a commit names the sha256 of a file and no more."""
        for shard in (self.storage / _SHARDS).glob("*.mdb"):
            for oid, (xet_hash, size) in _files_of(shard.read_bytes()).items():
                if oid not in self.stored:
                    self.stored[oid] = xet_hash, size
                    self.objects[oid] = _download(self.storage, xet_hash, size)
                    assert sha256(self.objects[oid]) == oid


def _files_of(shard: bytes) -> dict[str, tuple[str, int]]:
    """The files that a shard tells of: their sha256, hash of Xet and size in bytes."""
    found, at = {}, _RECORD
    while (xet_hash := shard[at : at + 32]) != _END:
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        first = at + _RECORD
        sizes = [
            struct.unpack_from("<I", shard, first + number * _RECORD + 36)[0]
            for number in range(segments)
        ]
        at = first + segments * _RECORD * (2 if flags & _HAS_CHECKS else 1)
        if flags & _HAS_SHA256:
            found[_hexadecimal(shard[at : at + 32])] = _hexadecimal(xet_hash), sum(sizes)
            at += _RECORD
    return found


def _hexadecimal(digest: bytes) -> str:
    return "".join(f"{word:016x}" for word in _HASH.unpack(digest))
