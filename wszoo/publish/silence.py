"""A limit on silence: the client of the Hub waits for an answer to what it sends for ever."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # the base of all its requests'
    HTTPError as RequestError,
)
from huggingface_hub.utils import _http, get_session  # type: ignore[attr-defined]

SILENCE = 8.0  # seconds
COMMITTING = 20.0  # the same for a commit: the Hub checks and writes all its files, then answers
_WAITS = ("connect", "read", "write", "pool")
_XET = "HF_HUB_DISABLE_XET"


def _when_sent(body: Any, tell: Callable[[], None]) -> None:
    """Have the body of a request tell when all of it is sent, whichever library the client uses."""
    kind = type(body)

    def send(sent: Any) -> Iterator[bytes]:
        yield from kind.__iter__(sent)
        tell()

    body.__class__ = type(kind.__name__, (kind,), {"__iter__": send})


class _Limits:
    """Those of the requests of all sessions that the client has inside a block."""

    def __init__(self) -> None:
        self._unanswered: dict[tuple[str, str], float] = {}
        self._hooks: list[tuple[Any, Any]] = []

    def put_on(self, session: Any) -> Any:
        hooks = session.event_hooks
        self._hooks.append((session, hooks))
        session.event_hooks = {
            "request": [*hooks.get("request", []), self._before],
            "response": [*hooks.get("response", []), self._after],
        }
        return session

    def take_off(self) -> None:
        for session, hooks in self._hooks:
            session.event_hooks = hooks

    def _before(self, request: Any) -> None:
        own = request.extensions.get("timeout", {})
        waits = {wait: own.get(wait) or SILENCE for wait in _WAITS}
        if request.method == "POST" and "/commit/" in request.url.path:
            waits["read"] = own.get("read") or COMMITTING
        request.extensions["timeout"] = waits
        what, now, limit = (request.method, str(request.url)), time.monotonic(), waits["read"]
        if now - self._unanswered.get(what, now) >= limit:
            raise RequestError(f"no answer within {limit:g} seconds")
        _when_sent(request.stream, lambda: self._unanswered.update({what: time.monotonic()}))

    def _after(self, response: Any) -> None:
        self._unanswered.pop((response.request.method, str(response.request.url)), None)


@contextmanager
def limited() -> Iterator[None]:
    """Have requests of the client inside the block fail after ``SILENCE`` without a byte.

    A commit, whose answer takes as long as it has files, fails after ``COMMITTING``; what has its
    own limit keeps that. The client repeats most of what fails; what was met by silence is not
    repeated; a connection that breaks while bytes flow is. Where a connection is refused, in this
    thread or in another one, the client closes its session and makes a new one: the limit is of
    that, too. Xet is beyond it, see ``over_xet``, so files go over HTTP unless
    ``HF_HUB_DISABLE_XET=0`` asks for Xet.

    Raises:
        huggingface_hub.errors.HTTPError: There was no answer.
    """
    limits, make = _Limits(), _http._GLOBAL_CLIENT_FACTORY
    limits.put_on(get_session())
    xet_is_off = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = xet_is_off or os.environ.get(_XET, "") == ""
    _http._GLOBAL_CLIENT_FACTORY = lambda: limits.put_on(make())
    try:
        yield
    finally:
        _http._GLOBAL_CLIENT_FACTORY = make
        limits.take_off()
        constants.HF_HUB_DISABLE_XET = xet_is_off
