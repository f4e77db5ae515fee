"""A stand-in for the Hub on this machine, and for its CDN on another port, thus another origin.

It remembers what it was asked, and does wrong what it is told to; its answers are in hub_routes.py.
"""

import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.hub_repos import Answer, Request
from tests.hub_routes import Hub

LOGIN_PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@dataclass
class Fault:
    """What the next ``times`` requests get whose "METHOD /path" holds ``match``.

    An error ``status``; or ``body`` as if it were the file; or the file with the byte at ``flip``
    changed, or its first ``cut_after`` bytes and then the end of the connection. All of it after
    ``hang`` seconds; but where the answer is ``lost``, what was asked for is done before them.
    """

    match: str = ""
    status: int = 200
    retry_after: int | None = None
    body: bytes | None = None
    flip: int | None = None
    cut_after: int | None = None
    hang: float = 0
    lost: bool = False
    times: int = 1  # or -1: always

    def damaged(self, content: bytes) -> bytes:
        if self.flip is not None and self.flip < len(content):
            flipped = bytes([content[self.flip] ^ 1])
            content = content[: self.flip] + flipped + content[self.flip + 1 :]
        return content[: self.cut_after]


class HubServer(Hub):
    """The stand-in, for as long as the block lasts: ``with HubServer() as hub``."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.ended, self.lock = threading.Event(), threading.Lock()
        self._servers = [_Server(self, origin) for origin in ("hub", "cdn")]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)

    def __enter__(self) -> "HubServer":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def asked(self, match: str = "") -> list[str]:
        """The "METHOD /path" of the requests so far that hold ``match``."""
        lines = [f"{request.method} {request.path}" for request in self.requests]
        return [line for line in lines if match in line]

    def take_fault(self, request: Request) -> Fault:
        """The hook: keeps the request, and says what is to go wrong with it."""
        with self.lock:
            self.requests.append(request)
            line = f"{request.method} {request.path}"
            fault = next((fault for fault in self.faults if fault.match in line), Fault())
            fault.times -= 1
            self.faults = [fault for fault in self.faults if fault.times]
        return fault

    def served(self, request: Request, fault: Fault) -> Answer:
        """The answer as it would be, but for what happens to it on its way."""
        if fault.status != 200:
            after = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
            return Answer({"error": ""}, after, status=fault.status)
        if fault.body is not None:
            return Answer(fault.body)
        try:
            self._check_token(request)
            with self.lock:
                found = self.answer(request)
        except Answer as refusal:
            return refusal
        except KeyError as missing:
            return Answer({"error": f"there is no {missing}"}, status=404)
        return found if isinstance(found, Answer) else Answer(found)

    def _check_token(self, request: Request) -> None:
        sent, path = request.headers["Authorization"], request.path
        is_open = request.method in ("GET", "HEAD") and "whoami" not in path
        is_open |= "validate-yaml" in path or "paths-info" in path
        is_right = is_open if sent is None else sent == f"Bearer {self.token}"
        if request.origin == "hub" and not is_right:
            raise Answer({"error": "Invalid credentials in Authorization header"}, status=401)


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 64

    def __init__(self, hub: HubServer, origin: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.origin = hub, origin

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing on standard error: a client may hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on standard error."""

    def _serve(self) -> None:
        hub = self.server.hub
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        request = Request(self.command, self.path, self.headers, self.server.origin, body)
        fault = hub.take_fault(request)
        if fault.lost:
            hub.served(request, fault)
        if hub.ended.wait(fault.hang) or fault.lost:
            return
        self._send(hub.served(request, fault), fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _send(self, answer: Answer, fault: Fault) -> None:
        content, status, headers = answer.content, answer.status, answer.headers
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if asked and status == 200:
            start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            content, status = content[start:stop], 206
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(fault.damaged(content))
