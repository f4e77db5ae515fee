"""Checkpoints that others published: fetched once, checked by what is known of them."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import constants
from tqdm import tqdm

from wszoo.fetch import FailedAttempt, Patience, fetch_rest, retried, without_query
from wszoo.files import sha256_of
from wszoo.weights_file import placeholder
from wszoo.weights_record import Origin, OriginFile, Weights

_MAX_BYTES = 2**30  # the largest one has some 180 MB

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Original:
    """A published checkpoint that is here, checked as far as it can be.

    Attributes:
        path: Where it lies.
        file: Which of the origin's files it is.
        sha256: Its digest.
    """

    path: Path
    file: OriginFile
    sha256: str


def obtain(
    weights: Weights,
    folder: Path,
    patience: Patience,
    *,
    pinned: Mapping[str, str],
    accept_unverified: bool = False,
) -> Original:
    """The original that lies in ``folder``, or else comes from the first place that has it.

    Args:
        weights: A record with an origin.
        folder: For this record alone, held by this process alone.
        patience: How long to try at each place.
        pinned: File name to the sha256 that it had at its first use.
        accept_unverified: Take one whose name carries no hash for what it says it is.

    Raises:
        ConnectionError: No place has it.
        ValueError: It is not what it must be, or nothing says what it must be.
        OSError: ``folder`` cannot be written.
    """
    files = _origin(weights).files
    _refuse_folders(files, folder)
    present = next((file for file in files if (folder / file.file_name).is_file()), None)
    takes_any = accept_unverified or environment_accepts() or weights.sha256 is not None
    trusted = [
        file for file in files if takes_any or file.sha256_prefix or file.file_name in pinned
    ]
    if not trusted or (present and present not in trusted):
        raise ValueError(_unverifiable(weights, present or files[0]))
    file = present or _fetch_first(weights, trusted, folder, patience)
    path = folder / file.file_name
    if (fault := _fault(path, file)) is not None:
        raise ValueError(f"{path} {fault}; delete it to have it fetched again")
    digest = sha256_of(path)
    if digest != (before := pinned.get(file.file_name, digest)):
        raise ValueError(
            f"{path} has sha256 {digest[:12]}…, at its first use it had {before[:12]}…; "
            f"find out why, or delete {folder} to start anew"
        )
    return Original(path=path, file=file, sha256=digest)


def _origin(weights: Weights) -> Origin:
    if weights.origin is None:
        raise ValueError(f"{weights.name!r} has no origin outside of this zoo")
    return weights.origin


def environment_accepts() -> bool:
    """Whether the user takes files that nothing vouches for: ``WSZOO_ACCEPT_UNVERIFIED``."""
    return os.environ.get("WSZOO_ACCEPT_UNVERIFIED", "").lower() in ("1", "true", "yes", "on")


def _refuse_folders(files: tuple[OriginFile, ...], folder: Path) -> None:
    for path in (folder / file.file_name for file in files):
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder, where the file of this name belongs; "
                f"put the file itself there, or delete the folder to have it fetched"
            )


def _unverifiable(weights: Weights, file: OriginFile) -> str:
    return (
        f"no hash was published for {file.url}: nothing would tell a damaged or forged file; "
        f"to take it as it is, set WSZOO_ACCEPT_UNVERIFIED=1 or run "
        f"`wszoo download {weights.name} --accept-unverified`"
    )


def _fetch_first(
    weights: Weights, files: list[OriginFile], folder: Path, patience: Patience
) -> OriginFile:
    """Fetch the first of ``files`` that can be had."""
    places = dict.fromkeys(str(folder / file.file_name) for file in files)
    by_hand = (
        f"or put the file, fetched elsewhere, at {' or '.join(places)}, or set WSZOO_WEIGHTS=DIR "
        f"to what `wszoo download {weights.name} --to DIR` made on a machine with a network"
    )
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(
            f"cannot fetch {files[0].url}: HF_HUB_OFFLINE is set; unset it, {by_hand}"
        )
    failures = []
    for file in files:
        try:
            _fetch(file, folder, patience)
        except ConnectionError as failure:
            _logger.info("%s", failure)
            failures.append(failure)
        else:
            return file
    others = f" ({len(failures) - 1} more failed)" if failures[1:] else ""
    raise ConnectionError(f"{failures[0]}{others}, {by_hand}") from failures[0]


def _fetch(file: OriginFile, folder: Path, patience: Patience) -> None:
    """Fetch one file into place, going on with what an earlier try has left."""
    partial = folder / f".{file.file_name}.partial"
    _logger.info("fetching %s", file.url)
    with tqdm(desc=file.file_name, unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def tell(size: int, total: int | None) -> None:
            if total is not None and total > _MAX_BYTES:
                raise _refused(f"would have {total} bytes, at most {_MAX_BYTES} are taken")
            bar.total = total
            bar.update(size - bar.n)

        def attempt(deadline: float) -> None:
            if file.sha256_prefix is None:  # nothing would tell halves of two different files
                partial.unlink(missing_ok=True)
            is_resumed = partial.exists()
            if is_resumed and _fault(partial, file) is None:
                return  # a process was stopped just before it could rename the file
            try:
                total = fetch_rest(
                    file.url, partial, patience, deadline, max_bytes=_MAX_BYTES, on_bytes=tell
                )
            except FailedAttempt as failure:
                if failure.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise
                partial.unlink()
                raise FailedAttempt("the server has another file than before") from failure
            _check_fetched(partial, file, total, is_resumed=is_resumed)

        retried(without_query(file.url), patience, attempt)
    partial.replace(folder / file.file_name)


def _check_fetched(partial: Path, file: OriginFile, total: int | None, *, is_resumed: bool) -> None:
    size = partial.stat().st_size
    if total is not None and size < total:
        raise FailedAttempt(f"short read: {size} of {total} bytes")
    too_large = f"has more than {_MAX_BYTES} bytes" if size > _MAX_BYTES else None
    if (fault := too_large or _fault(partial, file)) is not None:
        partial.unlink()
        raise _refused(fault, is_final=not is_resumed)


def _refused(fault: str, *, is_final: bool = True) -> FailedAttempt:
    mend = "see what lies at this address"
    return FailedAttempt(f"what the server sent {fault}", mend, is_final=is_final)


def _fault(path: Path, file: OriginFile) -> str | None:
    """What is wrong with a whole file, as the end of a sentence."""
    with path.open("rb") as opened:
        if (kind := placeholder(opened.read(512))) is not None:
            return f"is {kind}"
    if file.sha256_prefix is not None:
        digest = sha256_of(path)
        if not digest.startswith(file.sha256_prefix):
            return (
                f"has sha256 {digest[:12]}…, its name says {file.sha256_prefix}…: "
                f"it is damaged or another file"
            )
    return None
