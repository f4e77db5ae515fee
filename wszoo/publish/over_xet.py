"""Files sent over Xet, whose client waits for its servers for ever: given up after a silence."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _xet

from wszoo.hub_client import first_line, in_thread

T = TypeVar("T")

START = 20.0  # seconds without a byte sent after which Xet is given up
STALL = 20.0  # the same after the first one: in the end its servers check what they have
_LOOK = 0.2  # seconds between two looks


class XetError(RuntimeError):
    """Xet failed, or fell silent, where HTTP would do."""


class _Sent:
    """The signs of life of what is being sent."""

    def __init__(self) -> None:
        self._commit: Any = None
        self._last = time.monotonic()
        self._told: tuple[int, ...] = (0,)
        self.has_begun = False

    def session(self, real: Any) -> Any:
        """The client's session, whose commits leave signs here."""
        sent = self

        class Session:
            def new_upload_commit(self, **kwargs: Any) -> Any:
                sent.has_begun, sent._last = True, time.monotonic()
                sent._commit = real.new_upload_commit(**kwargs)
                return sent._commit

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        return Session()

    def check(self) -> None:
        """Look at what has been sent; nothing is said while other requests are under way.

        Raises:
            XetError: It has been the same for too long.
        """
        told = _bytes(self._commit)
        if told != self._told or not self.has_begun:
            self._last, self._told = time.monotonic(), told
        limit = STALL if any(told) else START
        if time.monotonic() - self._last > limit:
            raise XetError(f"nothing sent over Xet for {limit:g} seconds")


def _bytes(commit: Any) -> tuple[int, ...]:
    if commit is None:
        return (0,)
    found = commit.progress()
    checked = getattr(getattr(found, "shard", None), "total_shard_validation_entries_completed", 0)
    return (found.total_bytes_completed, found.total_transfer_bytes_completed, checked)


def sent(call: Callable[[], T]) -> T:
    """What ``call`` returns, which sends files by the client, over Xet if that is on.

    Raises:
        XetError: Xet failed, or was silent for ``START`` seconds, or ``STALL`` after a first byte.
            What was sent of the file is of no use to anyone then.
    """
    if constants.HF_HUB_DISABLE_XET or find_spec("hf_xet") is None:
        return call()
    signs = _Sent()
    with _watched(signs):
        future = in_thread(call)
        try:
            while not wait([future], timeout=_LOOK).done:
                signs.check()
            return future.result()
        except (HfHubHTTPError, XetError):
            raise
        except (OSError, RuntimeError) as error:
            if not signs.has_begun:
                raise
            raise XetError(first_line(error)) from error
        finally:
            if not future.done():  # silence, or Ctrl-C
                _xet.abort_xet_session()
                wait([future], timeout=1)


@contextmanager
def _watched(signs: _Sent) -> Iterator[None]:
    """Have the client's uploads over Xet leave signs: it hands them on to its own bars alone."""
    real = _xet.get_xet_session
    _xet.get_xet_session = lambda: signs.session(real())
    try:
        yield
    finally:
        _xet.get_xet_session = real
