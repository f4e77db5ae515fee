"""A stand-in for the Hub on this machine, and for its CDN on another port, thus another origin.

It remembers what it was asked, and does wrong what it is told to; its answers are in hub_routes.py.
"""

import json
import re
import threading
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.hub_repos import Hub, Refused, Repo
from tests.hub_routes import ROUTES, Answer

LOGIN_PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@dataclass(frozen=True)
class Request:
    """One that came in, at ``origin`` "hub" or "cdn"."""

    method: str
    path: str
    headers: Message
    origin: str


@dataclass
class Fault:
    """What the next ``times`` requests get whose "METHOD /path" holds ``match``.

    An error ``status``; or ``body`` as if it were the file; or the file with the byte at ``flip``
    changed, or its first ``cut_after`` bytes and then the end of the connection. The answer comes
    after ``hang`` seconds; if it is ``lost``, what was asked for is done, but never answered.
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


class HubServer(Hub):
    """The stand-in, for as long as the block lasts: ``with HubServer() as hub``."""

    def __init__(self, *, token: str = "hf_test", user: str = "tester") -> None:
        super().__init__(token, user)
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
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.match in f"{request.method} {request.path}":
                    fault.times -= 1
                    if fault.times == 0:
                        self.faults.remove(fault)
                    return fault
        return Fault()

    def answer(self, request: Request, body: bytes) -> Answer:
        self._check_token(request)
        path = request.path.partition("?")[0]
        for route in ROUTES:
            match = route.pattern.fullmatch(path)
            if match and route.method == request.method.replace("HEAD", "GET"):
                parts: list[Any] = [*map(unquote, match.groups()), body]
                if route.of_repository:
                    parts[0] = self._repo(parts[0], request)
                with self.lock:
                    found = route.function(self, *parts)
                return found if isinstance(found, Answer) else Answer(json.dumps(found).encode())
        raise Refused(404, message=f"no route {request.method} {path}")

    def _check_token(self, request: Request) -> None:
        if request.origin == "cdn":
            return
        sent = request.headers["Authorization"]
        if sent not in (None, f"Bearer {self.token}"):
            raise Refused(401, message="Invalid credentials in Authorization header")
        is_open = request.method in ("GET", "HEAD") and "whoami" not in request.path
        is_open |= "validate-yaml" in request.path or "paths-info" in request.path
        if sent is None and not is_open:
            raise Refused(401, message="Invalid username or password.")

    def _repo(self, name: str, request: Request) -> Repo:
        knows = request.headers["Authorization"] is not None
        repo = self.repos.get(name)
        if repo is None or (repo.private and not knows):
            raise Refused(404 if knows else 401, "RepoNotFound", "Repository not found")
        if repo.disabled:
            raise Refused(403, message="Access to this resource is disabled.")
        if repo.gated and "/resolve/" in request.path:
            raise Refused(403 if knows else 401, "GatedRepo", f"Access to {name} is restricted.")
        return repo


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
        request = Request(self.command, self.path, self.headers, self.server.origin)
        fault = hub.take_fault(request)
        if fault.hang and hub.ended.wait(fault.hang):
            return
        try:
            if fault.status != 200:
                after = fault.retry_after
                raise Refused(fault.status, headers={"Retry-After": str(after)} if after else {})
            found = hub.answer(request, body) if fault.body is None else Answer(fault.body)
        except Refused as refused:
            content = json.dumps({"error": refused.message, **refused.more}).encode()
            found = Answer(content, refused.headers, refused.status)
        if not fault.lost:
            self._send(found, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _send(self, answer: Answer, fault: Fault) -> None:
        content, status, headers = answer.content, answer.status, dict(answer.headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if asked and status == 200:
            start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            content, status = content[start:stop], 206
        if fault.flip is not None and fault.flip < len(content):
            flipped = bytes([content[fault.flip] ^ 1])
            content = content[: fault.flip] + flipped + content[fault.flip + 1 :]
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: fault.cut_after])
