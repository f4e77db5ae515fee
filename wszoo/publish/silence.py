"""A limit on silence: the client of the Hub waits for an answer to what it sends for ever."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import (  # type: ignore[attr-defined]  # the base of all its requests'
    HTTPError as RequestError,
)
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

SILENCE = 8.0  # seconds
_WAITS = ("connect", "read", "write", "pool")


@contextmanager
def limited() -> Iterator[None]:
    """Have requests of the client inside the block fail after ``SILENCE`` without a byte.

    What has its own limit keeps that. The client repeats most of what fails; what was met by
    silence is not repeated. The limit is of the session that the client has when the block begins:
    it is gone if the client makes another one inside, as it does where a connection is refused.

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
        unanswered[what] = now

    def after(response: Any) -> None:
        unanswered.pop((response.request.method, str(response.request.url)), None)

    hooks = session.event_hooks
    session.event_hooks = {
        "request": [*hooks.get("request", []), before],
        "response": [*hooks.get("response", []), after],
    }
    try:
        yield
    finally:
        session.event_hooks = hooks
