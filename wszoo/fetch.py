"""HTTP with retries, time limits and errors of one line; what a file must be, its caller knows."""

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
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


class FailedAttempt(Exception):  # noqa: N818  never leaves `retried`
    """One attempt came to nothing.

    Attributes:
        mend: What the user could do about it.
        is_final: No further attempt would do better.
        status: The server's, if it was that.
    """

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


def retried(what: str, patience: Patience, attempt: Callable[[float], T]) -> T:
    """What ``attempt`` returns, which is given the time after which it has to end.

    Raises:
        ConnectionError: Every attempt failed, or one for good.
    """
    deadline = time.monotonic() + patience.limit
    pause = patience.pause
    for number in itertools.count(1):
        try:
            return attempt(deadline)
        except FailedAttempt as failure:
            late = time.monotonic() + pause > deadline
            if failure.is_final or number == patience.attempts or late:
                tries = f" ({number} attempts)" if number > 1 else ""
                raise ConnectionError(
                    f"cannot fetch {what}: {failure}{tries}; {failure.mend}"
                ) from failure
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    raise AssertionError("itertools.count does not end")


def fetch_rest(
    url: str,
    path: Path,
    patience: Patience,
    deadline: float,
    *,
    max_bytes: int,
    on_bytes: Callable[[int, int | None], None] = lambda size, total: None,
) -> int | None:
    """Ask for what follows the bytes in ``path``, or for all where the server cannot send a part.

    Args:
        max_bytes: Stop where the file grows larger.
        on_bytes: Told how many bytes are there and how many will be, as far as the server says.

    Returns:
        The bytes that the whole file has by the server; None where it does not tell.

    Raises:
        FailedAttempt: The server refused, or stopped sending.
        OSError: ``path`` cannot be written.
    """
    have = path.stat().st_size if path.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with ask(url, headers, patience, deadline) as response:
        follows = response.status == HTTPStatus.PARTIAL_CONTENT
        if follows and not response.getheader("Content-Range", "").startswith(f"bytes {have}-"):
            path.unlink(missing_ok=True)
            raise FailedAttempt("the server sent another part than the one asked for")
        size = have if follows else 0
        total = None if response.length is None else size + response.length
        try:
            with path.open("ab" if follows else "wb") as output:
                for chunk in chunks(response, patience, deadline):
                    output.write(chunk)
                    size += len(chunk)
                    on_bytes(size, total)
                    if size > max_bytes:
                        break
        except OSError as error:
            raise OSError(
                f"cannot write {path}: {error.strerror}; free some space, or name another cache"
            ) from error
    return total


# Not urlopen, which would follow a redirection to ftp:// and read file://.
_OPENER = OpenerDirector()
for _handler in (
    *(ProxyHandler, HTTPHandler, HTTPSHandler, HTTPRedirectHandler),
    *(HTTPErrorProcessor, HTTPDefaultErrorHandler, UnknownHandler),
):
    _OPENER.add_handler(_handler())


def ask(
    url: str, headers: dict[str, str], patience: Patience, deadline: float | None = None
) -> HTTPResponse:
    """The answer to a GET request, its body not yet read.

    Args:
        deadline: Of ``time.monotonic``; ``patience.limit`` from now where None.

    Raises:
        FailedAttempt: There is none, or it is a refusal.
    """
    if deadline is None:
        deadline = time.monotonic() + patience.limit
    try:
        return _answer(Request(url, headers=headers), patience, deadline)
    except HTTPError as error:
        error.close()
        raise _refused(error.code) from error
    except (OSError, HTTPException) as error:
        raise FailedAttempt(_reason(error, patience)) from error


def _answer(request: Request, patience: Patience, deadline: float) -> HTTPResponse:
    """The answer, waited for in a thread.

    Every byte of a header renews the socket's own timeout, and a name server knows of none.
    """
    answer: Future[HTTPResponse] = Future()

    def await_it() -> None:
        try:
            response = _OPENER.open(request, timeout=patience.timeout)
        except Exception as error:
            with contextlib.suppress(InvalidStateError):  # nobody waits for it any more
                answer.set_exception(error)
            return
        try:
            answer.set_result(response)
        except InvalidStateError:
            response.close()

    threading.Thread(target=await_it, daemon=True).start()
    wait([answer], timeout=max(0.0, deadline - time.monotonic()))
    if answer.cancel():
        raise FailedAttempt(f"timeout: no answer after {patience.limit:g} seconds")
    return answer.result()


def _refused(code: int) -> FailedAttempt:
    known = code in HTTPStatus.__members__.values()
    reason = f"status {code}" + (f" {HTTPStatus(code).phrase}" if known else "")
    if code >= 500 or code in _PASSING:
        return FailedAttempt(reason, status=code)
    mend = "see whether the address is right and complete"
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        mend = "see to the rights of access"
    return FailedAttempt(reason, mend, status=code, is_final=True)


def chunks(response: HTTPResponse, patience: Patience, deadline: float) -> Iterator[bytes]:
    """The body as it comes in, until its end or that of the connection.

    Raises:
        FailedAttempt: Nothing came for too long.
    """
    # The line before a chunk may come byte by byte, which would renew the socket's own timeout.
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), _hang_up, [response])
    timer.daemon = True
    timer.start()
    try:
        while True:
            try:
                chunk, failure = response.read1(_CHUNK), None
            except (OSError, HTTPException) as error:
                chunk, failure = b"", error
            if time.monotonic() > deadline:
                reason = f"timeout: not complete after {patience.limit:g} seconds"
                raise FailedAttempt(reason) from failure
            if failure is not None:
                raise FailedAttempt(_reason(failure, patience)) from failure
            if not chunk:
                return
            yield chunk
    finally:
        timer.cancel()


def _hang_up(response: HTTPResponse) -> None:
    """End the connection under whoever reads from it; the response itself is theirs to close."""
    with (
        contextlib.suppress(OSError, ValueError),  # it has ended already
        socket.socket(fileno=os.dup(response.fileno())) as connection,
    ):
        connection.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception, patience: Patience) -> str:
    cause = getattr(error, "reason", error)  # of URLError
    if isinstance(cause, TimeoutError):
        return f"timeout: no byte for {patience.timeout:g} seconds"
    told = getattr(cause, "strerror", None) or str(cause).partition("\n")[0]
    return told or type(cause).__name__


def without_query(url: str) -> str:
    """``url`` as it may be shown: what follows the question mark can hold a key."""
    return url.partition("?")[0]
