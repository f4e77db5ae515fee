"""Files of a data set over HTTP: fetched with retries and time limits, and checked."""

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlsplit

from wszoo.fetch import (
    FailedAttempt,
    Patience,
    ask,
    chunks,
    fetch_rest,
    retried,
    without_query,
)
from wszoo.files import sha256_of

__all__ = [
    "Patience",
    "RemoteFile",
    "RemoteFolder",
    "fetch_bytes",
    "fetch_file",
    "remote_folder",
]


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
        return without_query(self.url)


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
        with ask(url, {}, patience, deadline) as response:
            expected = response.length or 0  # None where the server does not tell
            for chunk in chunks(response, patience, deadline):
                content += chunk
                if len(content) > max_bytes:
                    reason = f"it is larger than {max_bytes} bytes"
                    raise FailedAttempt(reason, "see what lies at this address", is_final=True)
        if len(content) < expected:
            raise FailedAttempt(f"short read: {len(content)} of {expected} bytes")
        return bytes(content)

    return retried(without_query(url), patience, attempt)


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
            raise FailedAttempt(f"short read: {size} of {file.bytes} bytes")
        if (digest := sha256_of(path)) != file.sha256:
            path.unlink()
            raise _wrong(f"its sha256 is {digest}, the manifest says {file.sha256}")

    retried(str(file), patience, attempt)


def _wrong(reason: str) -> FailedAttempt:
    return FailedAttempt(reason, "upload it again, or make the shards again")


def _append(file: RemoteFile, path: Path, have: int, patience: Patience, deadline: float) -> None:
    try:
        fetch_rest(file.url, path, patience, deadline, max_bytes=file.bytes)
    except FailedAttempt as failure:
        if failure.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        raise _wrong(f"short read: the server has only {have} of {file.bytes} bytes") from failure
