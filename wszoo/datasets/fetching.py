"""Files over HTTP: fetched with retries and time limits, and checked."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from wszoo.files import sha256_of

T = TypeVar("T")

_CHUNK = 1 << 20  # bytes
_LONGEST_PAUSE = 60.0  # seconds
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_RETRY_LATER = "try again later, or see to the server"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to try.

    Attributes:
        attempts: Requests per file, the first one included.
        pause: Seconds before the second attempt; twice as many before each one after it.
        timeout: Seconds without one byte after which an attempt is given up.
        limit: Seconds for one file in all, or for another process that fetches it.
    """

    attempts: int = 6
    pause: float = 1.0
    timeout: float = 30.0
    limit: float = 3600.0


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file and what it must be.

    Attributes:
        url: Where to ask for it; the query, which may hold a key, is left out of messages.
        bytes: Its size.
        sha256: Its hex digest.
    """

    url: str
    bytes: int
    sha256: str

    def __str__(self) -> str:
        return _without_query(self.url)


@dataclass(frozen=True, kw_only=True)
class RemoteFolder:
    """A folder on an HTTP server.

    Attributes:
        url: Its address with a slash at the end, without a query.
        query: What follows the question mark in every request; empty for none.
    """

    url: str
    query: str = ""

    def __str__(self) -> str:
        return self.url

    def url_of(self, name: str) -> str:
        """Address of a file in it."""
        return f"{self.url}{quote(name)}" + (f"?{self.query}" if self.query else "")


def remote_folder(url: str, manifest: str) -> RemoteFolder:
    """The folder that ``url`` names, itself or by the file ``manifest`` in it.

    Raises:
        ValueError: It is no such address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http:// or https:// address of a folder")
    if "@" in parts.netloc:
        raise ValueError(
            f"the address at {parts.hostname} holds a user name; name it without, "
            f"with a key in the query where the server asks for one"
        )
    path = quote(parts.path.removesuffix(f"/{manifest}").rstrip("/"), safe="/%")
    query = quote(parts.query, safe="%=&+/:;,@~!$'()*?")
    return RemoteFolder(url=f"{parts.scheme}://{parts.netloc}{path}/", query=query)


def fetch_bytes(url: str, max_bytes: int, patience: Patience) -> bytes:
    """The content of a small file.

    Raises:
        ConnectionError: It could not be fetched, or is larger than ``max_bytes``.
    """

    def attempt(deadline: float) -> bytes:
        content = bytearray()
        with _ask(url, {}, patience) as response:
            expected = response.length or 0  # None where the server does not tell
            for chunk in _chunks(response, patience, deadline):
                content += chunk
                if len(content) > max_bytes:
                    reason = f"it is larger than {max_bytes} bytes"
                    raise _FailedError(reason, "see what lies at this address", is_final=True)
        if len(content) < expected:
            raise _FailedError(f"short read: {len(content)} of {expected} bytes")
        return bytes(content)

    return _retried(_without_query(url), patience, attempt)


def fetch_file(file: RemoteFile, path: Path, patience: Patience) -> None:
    """Fetch ``file`` into ``path``, going on with what an earlier try has left there.

    Raises:
        ConnectionError: It could not be fetched, or is not what it must be.
        OSError: ``path`` cannot be written.
    """

    def attempt(deadline: float) -> None:
        have = path.stat().st_size if path.exists() else 0
        if have < file.bytes:
            _append(file, path, have, patience, deadline)
        if (size := path.stat().st_size) > file.bytes:
            path.unlink()
            raise _wrong(f"it is larger than the {file.bytes} bytes of the manifest")
        if size < file.bytes:
            raise _FailedError(f"short read: {size} of {file.bytes} bytes")
        if (digest := sha256_of(path)) != file.sha256:
            path.unlink()
            raise _wrong(f"its sha256 is {digest}, the manifest says {file.sha256}")

    _retried(str(file), patience, attempt)


class _FailedError(Exception):
    """One attempt came to nothing."""

    def __init__(
        self,
        reason: str,
        mend: str = _RETRY_LATER,
        *,
        status: int | None = None,
        is_final: bool = False,
    ) -> None:
        super().__init__(reason)
        self.mend, self.is_final, self.status = mend, is_final, status


def _wrong(reason: str) -> _FailedError:
    return _FailedError(reason, "upload it again, or make the shards again")


def _retried(what: str, patience: Patience, attempt: Callable[[float], T]) -> T:
    """What ``attempt`` returns, which is given the time after which it has to end."""
    deadline = time.monotonic() + patience.limit
    pause = patience.pause
    for number in itertools.count(1):
        try:
            return attempt(deadline)
        except _FailedError as failure:
            late = time.monotonic() + pause > deadline
            if failure.is_final or number == patience.attempts or late:
                tries = f" ({number} attempts)" if number > 1 else ""
                raise ConnectionError(
                    f"cannot fetch {what}: {failure}{tries}; {failure.mend}"
                ) from failure
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    raise AssertionError("itertools.count does not end")


def _append(file: RemoteFile, path: Path, have: int, patience: Patience, deadline: float) -> None:
    """Ask for what follows the first ``have`` bytes, or for all where the server cannot."""
    try:
        response = _ask(file.url, {"Range": f"bytes={have}-"} if have else {}, patience)
    except _FailedError as failure:
        if failure.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        raise _wrong(f"short read: the server has only {have} of {file.bytes} bytes") from failure
    with response:
        follows = response.status == HTTPStatus.PARTIAL_CONTENT
        if follows and not response.getheader("Content-Range", "").startswith(f"bytes {have}-"):
            path.unlink(missing_ok=True)
            raise _FailedError("the server sent another part than the one asked for")
        size = have if follows else 0
        try:
            with path.open("ab" if follows else "wb") as output:
                for chunk in _chunks(response, patience, deadline):
                    output.write(chunk)
                    size += len(chunk)
                    if size > file.bytes:
                        return
        except OSError as error:
            raise OSError(
                f"cannot write {path}: {error.strerror}; free some space, or name another cache"
            ) from error


# Not urlopen, which would follow a redirection to ftp:// and read file://.
_OPENER = OpenerDirector()
for _handler in (
    *(ProxyHandler, HTTPHandler, HTTPSHandler, HTTPRedirectHandler),
    *(HTTPErrorProcessor, HTTPDefaultErrorHandler, UnknownHandler),
):
    _OPENER.add_handler(_handler())


def _ask(url: str, headers: dict[str, str], patience: Patience) -> HTTPResponse:
    try:
        response = _OPENER.open(Request(url, headers=headers), timeout=patience.timeout)
    except HTTPError as error:
        error.close()
        raise _refused(error.code) from error
    except (OSError, HTTPException) as error:
        raise _FailedError(_reason(error, patience)) from error
    assert isinstance(response, HTTPResponse)
    return response


def _refused(code: int) -> _FailedError:
    known = code in HTTPStatus.__members__.values()
    reason = f"status {code}" + (f" {HTTPStatus(code).phrase}" if known else "")
    if code >= 500 or code in _PASSING:
        return _FailedError(reason, status=code)
    mend = "see whether the address is right and complete"
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        mend = "see to the rights of access"
    return _FailedError(reason, mend, status=code, is_final=True)


def _chunks(response: HTTPResponse, patience: Patience, deadline: float) -> Iterator[bytes]:
    """The body as it comes in, until its end or that of the connection."""
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, HTTPException) as error:
            raise _FailedError(_reason(error, patience)) from error
        if not chunk:
            return
        if time.monotonic() > deadline:
            raise _FailedError(f"timeout: not complete after {patience.limit:g} seconds")
        yield chunk


def _reason(error: Exception, patience: Patience) -> str:
    cause = getattr(error, "reason", error)  # of URLError
    if isinstance(cause, TimeoutError):
        return f"timeout: no byte for {patience.timeout:g} seconds"
    told = getattr(cause, "strerror", None) or str(cause).partition("\n")[0]
    return told or type(cause).__name__


def _without_query(url: str) -> str:
    return url.partition("?")[0]
