"""What the client of the Hub says, asked with short time limits; each failure in one line.

By itself the client asks a Hub that does not answer for half a minute to several.
"""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfFileMetadata, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HTTPError as _HTTPError,
)

from wszoo.fetch import FailedAttempt, Patience, retried

T = TypeVar("T")

NoConnection: type[Exception] = _HTTPError  # of httpx or httpx2, as the client has it
_COMMIT = re.compile(r"[0-9a-f]{40}")
_RIGHTS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A repository at one of its revisions, and the cache to keep its files in.

    Attributes:
        repository: ``"namespace/name"``.
        revision: Commit, tag or branch; None for ``main``.
        name: ``model.tag`` of the record, if one led here.
        cache_dir: Instead of the client's own.
    """

    repository: str
    revision: str | None = None
    name: str | None = None
    cache_dir: str | Path | None = None

    def __str__(self) -> str:
        if self.revision is None:
            return self.repository
        return f"{self.repository}@{self.revision[:12] if self.is_pinned else self.revision}"

    @property
    def is_pinned(self) -> bool:
        """What it holds cannot change."""
        return _COMMIT.fullmatch(self.revision or "") is not None

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser()

    @property
    def page(self) -> str:
        return f"{constants.ENDPOINT}/{self.repository}"

    @property
    def elsewhere(self) -> str:
        """How to come by the files where this machine cannot fetch them."""
        if self.name:
            return (
                f"run `wszoo download {self.name} --to DIR` on a machine that can "
                f"and set WSZOO_WEIGHTS=DIR here"
            )
        return (
            f"run `hf download {self.repository} --local-dir DIR` on a machine that can "
            f"and load local-dir:DIR here"
        )


def look_up(place: Place, file: str, patience: Patience) -> HfFileMetadata:
    """Commit, digest and address of a file, as the Hub states them.

    Raises:
        OfflineModeIsEnabled: Nothing may be asked.
        ConnectionError: The Hub did not answer, or something else did.
        PermissionError: The Hub does not let this user.
        FileNotFoundError: It has no such file.
    """
    url = hf_hub_url(place.repository, file, revision=place.revision)

    def attempt(deadline: float) -> HfFileMetadata:
        try:
            found = within(
                patience.timeout + 1, lambda: get_hf_file_metadata(url, timeout=patience.timeout)
            )
        except HfHubHTTPError as error:
            raise refusal(error, place, file, deadline) from error
        except (NoConnection, TimeoutError) as error:
            raise no_answer(error, place) from error
        if found.commit_hash is None or found.etag is None:
            raise FailedAttempt(
                f"{constants.ENDPOINT} answers, but not as the Hub does",
                "log in to the network with a browser, or see to the proxy and to HF_ENDPOINT",
                is_final=True,
            )
        return found

    return retried(f"{file} of {place}", patience, attempt)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns; a name server knows of no time limit.

    Raises:
        TimeoutError: It did not return in time, and goes on in its thread.
    """
    future = in_thread(call)
    if not wait([future], timeout=seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return future.result()


def in_thread(call: Callable[[], T]) -> "Future[T]":
    """Start ``call``, in a thread that does not keep the process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            with suppress(InvalidStateError):
                future.set_exception(error)
            return
        future.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return future


def refusal(error: HfHubHTTPError, place: Place, file: str, deadline: float) -> Exception:
    """What a status of the Hub means: nothing but a ``FailedAttempt`` is worth another attempt."""
    what, host = f"{file} of {place}", constants.ENDPOINT
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"cannot fetch {what}: one has to be let into the repository; "
            f"ask for it on {place.page}, then run `hf auth login`"
        )
    if isinstance(error, DisabledRepoError):
        return PermissionError(f"cannot fetch {what}: {host} has disabled it; see {place.page}")
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(
            f"{place.repository} has no revision {place.revision!r}; "
            f"{place.page}/commits/main shows what there is"
        )
    if isinstance(error, EntryNotFoundError):
        return FileNotFoundError(
            f"{place} holds no {file}; {place.page}/tree/main shows what it holds"
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"there is no repository {place.repository} at {host} that this user may see; "
            f"check the name, or run `hf auth login`"
        )
    if error.response.status_code in _RIGHTS:
        return PermissionError(
            f"cannot fetch {what}: {host} does not accept the token "
            f"(status {error.response.status_code}); run `hf auth login`, and unset HF_TOKEN"
        )
    return _failed(error, place, deadline)


def _failed(error: HfHubHTTPError, place: Place, deadline: float) -> FailedAttempt:
    status, headers = error.response.status_code, error.response.headers
    told = f"status {status} {HTTPStatus(status).phrase}"
    if status != HTTPStatus.TOO_MANY_REQUESTS:
        passes = status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT
        return FailedAttempt(told, f"try again later, or {place.elsewhere}", is_final=not passes)
    after = re.fullmatch(r"(\d+)", headers.get("Retry-After", ""))
    after = after or re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))
    mend = "wait, or run `hf auth login`, since more is allowed to those whom the Hub knows"
    if after is None:
        return FailedAttempt(told, mend)
    seconds = int(after[1])
    if time.monotonic() + seconds < deadline:
        time.sleep(seconds)
        return FailedAttempt(told, mend)
    return FailedAttempt(f"{told}, for {seconds} seconds more", mend, is_final=True)


def no_answer(error: BaseException, place: Place, *, url: str | None = None) -> FailedAttempt:
    """Nobody is there, or does not speak.

    Args:
        url: What was asked for, if not of the Hub itself.
    """
    host = "{0.scheme}://{0.netloc}".format(urlsplit(url)) if url else constants.ENDPOINT
    reason = first_line(error)
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        reason = "timeout"
    return FailedAttempt(
        f"{host} does not answer ({reason})",
        f"see to the network and try again, or {place.elsewhere}",
    )


def first_line(error: BaseException) -> str:
    """Of its message, without what signs addresses; its type where there is no message."""
    return unsigned(str(error).strip().partition("\n")[0]) or type(error).__name__


def unsigned(text: str) -> str:
    """``text`` with its addresses up to the question mark: whoever reads the rest may write there.

    Example:
        >>> unsigned("no answer from 'https://a.b/c?token=1'")
        "no answer from 'https://a.b/c'"
    """
    return re.sub(r"(\bhttps?://[^\s?'\"]*)\?[^\s'\")]*", r"\1", text)
