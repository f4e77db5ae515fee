"""A server of checkpoints that misbehaves on demand, and files of the published layout for it."""

import hashlib
import io
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import timm
import torch
from torch import Tensor

from wszoo.weights_record import Origin, OriginFile, Weights

MODEL = "test_resnet_gn_ws"
LOGIN_PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


_DRIPS = {
    "drip header": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "drip chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
}


class OriginServer(ThreadingHTTPServer):
    """Serves ``files``; each request for a name takes one of its ``faults``, until none is left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str | None]] = []  # name and Range of each request
        self.ended = threading.Event()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: OriginServer

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on standard error."""

    def do_GET(self) -> None:
        name = self.path[1:]
        self.server.asked.append((name, self.headers["Range"]))
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        if fault.isdigit():
            self.send_error(int(fault))
        elif fault == "page":
            self._send(LOGIN_PAGE, len(LOGIN_PAGE))
        elif name not in self.server.files:
            self.send_error(404)
        else:
            self._send_file(self.server.files[name], fault)

    def _send_file(self, content: bytes, fault: str) -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start and start >= len(content):
            self.send_error(416)
            return
        size = len(content) - start
        if fault == "hang":
            self.server.ended.wait(20)
            return
        if fault in _DRIPS:
            self._drip(_DRIPS[fault])
            return
        if fault == "slow":
            self.server.ended.wait(1)
        body = content[start : start + size // 2] if fault == "cut" else content[start:]
        if fault == "flipped":
            body = body[:-1] + bytes([body[-1] ^ 1])
        total = f"{start}-{len(content) - 1}/{len(content)}" if start else ""
        self._send(body, 2**40 if fault == "huge" else size, f"bytes {total}" if start else None)

    def _drip(self, begin: bytes) -> None:
        """A line without an end, a byte now and then."""
        self.wfile.write(begin)
        for _ in range(200):
            self.wfile.write(b"a")
            if self.server.ended.wait(0.1):
                break

    def _send(self, body: bytes, size: int, part: str | None = None) -> None:
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", part)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[OriginServer]:
    """A server on this machine, until the block ends."""
    with OriginServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


def random_state(model: str = MODEL, num_classes: int = 200) -> dict[str, Tensor]:
    """Weights of a net whose kernels have all scales, as timm names them."""
    net = timm.create_model(model, num_classes=num_classes, zero_init_last=False)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 4:
                parameter.mul_(torch.rand(len(parameter), 1, 1, 1))
    return net.state_dict()


def openmmlab_file(state: Mapping[str, Tensor]) -> bytes:
    """The layout of OpenMMLab's mirrors."""
    named = {re.sub(r"(^|\.)bn(\d)\.", r"\1gn\2.", key): value for key, value in state.items()}
    return _saved({"state_dict": named, "meta": {"epoch": 90}})


def jhu_file(state: Mapping[str, Tensor]) -> bytes:
    """The layout of the authors' own files."""
    return _saved({f"module.{key}": value for key, value in state.items()})


def bcn_file(state: Mapping[str, Tensor]) -> bytes:
    """The layout of the authors' BCN files, where the BatchNorm inside is called pbn."""
    named = {re.sub(r"\.bn\.", ".pbn.", key): value for key, value in state.items()}
    return _saved({f"module.{key}": value for key, value in named.items()})


def _saved(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def publish(
    server: OriginServer, content: bytes, *, has_hash: bool = True, **fields: Any
) -> Weights:
    """Put ``content`` on the server, and make the record that names it."""
    prefix = hashlib.sha256(content).hexdigest()[:8] if has_hash else None
    name = f"net-{prefix}.pth" if prefix else "net.pth"
    server.files[name] = content
    mirrors: tuple[OriginFile, ...] = fields.pop("mirrors", ())
    source = fields.pop("source", "openmmlab")
    origin = Origin(url=server.url(name), source=source, sha256_prefix=prefix, mirrors=mirrors)
    settled = dict(model=MODEL, tag="jhu_toys", sha256=None, license="none stated", dtype="F32")
    return Weights(**{**settled, "num_classes": 200, "origin": origin, **fields})


def name_of(weights: Weights) -> str:
    """File name of the original of a record."""
    assert weights.origin is not None
    return weights.origin.file_name
