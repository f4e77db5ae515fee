"""One file brought from the Hub into its client's cache, and given up when nothing happens.

By itself the client waits for a server that sends nothing for a minute; with Xet, for ever.
"""

import atexit
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import HfFileMetadata, constants, get_session, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.utils import _xet
from huggingface_hub.utils.tqdm import tqdm

from wszoo import hub_turn
from wszoo.fetch import FailedAttempt, Patience, retried
from wszoo.hub_client import NoConnection, Place, first_line, in_thread, no_answer, refusal, within
from wszoo.hub_turn import Turn

_STALL = 4.0  # seconds without a sign of life after which we look for the reason
_XET_STALL = 20.0  # seconds without a byte after which Xet is given up
_XET_START = 8.0  # the same before the first one


@dataclass
class _Transfer:
    """One that runs in a thread, and the signs of life that it gives."""

    place: Place
    file: str
    found: HfFileMetadata
    last: float = field(default_factory=time.monotonic)
    has_begun: bool = False
    has_bytes: bool = False
    is_unwanted: bool = False

    def __post_init__(self) -> None:
        self.turn = Turn(self.place, self.file, str(self.found.etag))

    def start(self, patience: Patience, *, again: bool) -> None:
        self.future: Future[str] = in_thread(
            lambda: hf_hub_download(
                self.place.repository,
                self.file,
                revision=self.place.revision,
                cache_dir=self.place.cache,
                force_download=again,
                etag_timeout=patience.timeout,
                tqdm_class=self._bar(),
            )
        )

    def _bar(self) -> type[tqdm]:
        """The client's progress bar, which leaves signs here."""
        transfer = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                transfer.see()
                super().__init__(*args, **kwargs)

            def update(self, n: float | None = 1) -> bool | None:
                if n:  # the oldest client tells of nothing, again and again
                    transfer.has_bytes = True
                    transfer.see()
                return super().update(n)

        return Bar

    def see(self) -> None:
        self.last, self.has_begun = time.monotonic(), True
        if self.is_unwanted:
            raise InterruptedError("nobody waits for it any more")

    def clear(self) -> None:
        """Unlink what the end of the process would leave of it."""
        if self.has_begun and not self.future.done():
            self.turn.drop()


_left: dict[tuple[str, str], _Transfer] = {}  # given up, and perhaps still holding the lock


def transfer(
    place: Place, file: str, found: HfFileMetadata, patience: Patience, *, again: bool = False
) -> Path:
    """Fetch what ``look_up`` found, once for all processes that want it; its path in the cache.

    Args:
        again: Even if it is in the cache.

    Raises:
        ConnectionError: It did not arrive.
        TimeoutError: Another process holds its lock and does nothing, see ``Turn.require``.
        PermissionError: The Hub does not let this user, or the system: the cache is closed to it.
        OSError: The cache cannot be written to.
    """

    def attempt(_deadline: float) -> Path:
        running = _started(place, file, found, patience, again=again)
        try:
            _watch(running, patience)
        except BaseException:
            _give_up(running)
            raise
        try:
            return Path(running.future.result())
        except HfHubHTTPError as error:
            raise refusal(error, place, file, time.monotonic()) from error
        except (NoConnection, EntryNotFoundError) as error:  # the second: it could not be asked
            raise no_answer(error.__cause__ or error, place) from error
        except OSError as error:
            raise _not_written(error, place) from error
        except (RuntimeError, ValueError) as error:  # of Xet; of a second look-up that failed
            mend = "set HF_HUB_DISABLE_XET=1" if _is_xet(found) else "try again later"
            raise FailedAttempt(first_line(error.__cause__ or error), mend) from error

    return retried(f"{file} of {place}", Patience(attempts=1), attempt)


def _not_written(error: OSError, place: Place) -> Exception:
    if error.errno is None:  # the client's own, such as fewer bytes than announced
        reason = first_line(error).partition(" (")[0].rstrip(".")  # then comes a signed address
        return FailedAttempt(reason, f"try again, or {place.elsewhere}")
    reason = f"cannot write to the Hub's cache {place.cache}: {error.strerror}"
    return type(error)(f"{reason}; set HF_HOME, or pass cache_dir=, a folder that you may write to")


def _is_xet(found: HfFileMetadata) -> bool:
    is_possible = not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
    return found.xet_file_data is not None and is_possible


def _started(
    place: Place, file: str, found: HfFileMetadata, patience: Patience, *, again: bool
) -> _Transfer:
    """A new one, or one that this process gave up and that goes on, holding the lock."""
    left = _left.pop((str(place), str(place.cache / file)), None)
    if left and not again and left.found.etag == found.etag and not left.future.done():
        left.is_unwanted, left.last = False, time.monotonic()
        return left
    new = _Transfer(place, file, found)
    new.start(patience, again=again)
    return new


def _give_up(running: _Transfer) -> None:
    """Let it end by itself, which it does with the next bytes, or with this process."""
    running.is_unwanted = True
    by_xet = _is_xet(running.found)
    if by_xet:
        _xet.abort_xet_session()
    if wait([running.future], timeout=0.5).done:
        return
    if by_xet:  # which may never end, and would be in the way of what is tried next
        running.turn.resign()
        return
    _left[str(running.place), str(running.place.cache / running.file)] = running
    atexit.register(running.clear)


def _watch(running: _Transfer, patience: Patience) -> None:
    """Return when the transfer has ended, or raise why it will not."""
    looked = running.last
    while True:
        quiet_since = max(running.last, looked)
        pause = max(0.0, quiet_since + min(_STALL, hub_turn.HOLDER_STALL / 2) - time.monotonic())
        if wait([running.future], timeout=pause).done:
            return
        if running.last > quiet_since:
            continue
        if not _is_xet(running.found):  # which has other servers than the one that we could ask
            _require_answer(running, patience)
        else:
            limit = _XET_STALL if running.has_bytes else _XET_START
            if time.monotonic() - running.last > limit:
                raise FailedAttempt(
                    f"no byte for {limit:g} seconds", "set HF_HUB_DISABLE_XET=1 and try again"
                )
        running.turn.show()
        if not running.has_begun:
            running.turn.require()
        looked = time.monotonic()


def _require_answer(running: _Transfer, patience: Patience) -> None:
    """Ask for one byte: a server that is slow answers, one that is gone does not."""

    def status() -> int:
        first_byte = {"Range": "bytes=0-0"}
        with get_session().stream(
            "GET", running.found.location, headers=first_byte, timeout=patience.timeout / 2
        ) as response:
            return int(response.status_code)

    try:
        answered = within(patience.timeout / 2 + 1, status)
    except (NoConnection, TimeoutError) as error:
        raise no_answer(error, running.place, url=running.found.location) from error
    if answered >= 500 or answered == 429:
        raise FailedAttempt(f"status {answered}", f"try again later, or {running.place.elsewhere}")
