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
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

SILENCE = 8.0  # seconds
_WAITS = ("connect", "read", "write", "pool")
_XET = "HF_HUB_DISABLE_XET"


def _when_sent(body: Any, tell: Callable[[], None]) -> None:
    """Have the body of a request tell when all of it is sent, whichever library the client uses."""
    kind = type(body)

    def send(sent: Any) -> Iterator[bytes]:
        yield from kind.__iter__(sent)
        tell()

    body.__class__ = type(kind.__name__, (kind,), {"__iter__": send})


@contextmanager
def limited() -> Iterator[None]:
    """Have requests of the client inside the block fail after ``SILENCE`` without a byte.

    What has its own limit keeps that. The client repeats most of what fails; what was met by
    silence is not repeated; a connection that breaks while bytes flow is. The limit is of the
    session that the client has when the block begins: it is gone if the client makes another one
    inside, as it does where a connection is refused. Xet would be beyond the limit, so files go
    over HTTP unless ``HF_HUB_DISABLE_XET=0`` asks for Xet.

    Raises:
        huggingface_hub.errors.HTTPError: There was no answer.
    """
    session, limit = get_session(), SILENCE
    unanswered: dict[tuple[str, str], float] = {}

    def before(request: Any) -> None:
        own = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {wait: own.get(wait) or limit for wait in _WAITS}
        what, now = (request.method, str(request.url)), time.monotonic()
        if now - unanswered.get(what, now) >= limit:
            raise RequestError(f"no answer within {limit:g} seconds")
        _when_sent(request.stream, lambda: unanswered.update({what: time.monotonic()}))

    def after(response: Any) -> None:
        unanswered.pop((response.request.method, str(response.request.url)), None)

    hooks, xet_is_off = session.event_hooks, constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = xet_is_off or os.environ.get(_XET, "") == ""
    session.event_hooks = {
        "request": [*hooks.get("request", []), before],
        "response": [*hooks.get("response", []), after],
    }
    try:
        yield
    finally:
        session.event_hooks = hooks
        constants.HF_HUB_DISABLE_XET = xet_is_off
