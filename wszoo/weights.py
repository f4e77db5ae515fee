"""Finding weights: the record behind a name, and the file of a record."""

import logging
import os
from functools import cache
from pathlib import Path

from wszoo.hub import fetch_weights, place_of
from wszoo.origin import ORIGIN_FILE, cache_root, check_converted, converted
from wszoo.weights_file import (
    WEIGHTS_FILE,
    check_file,
    read_header,
    read_metadata,
    write_whole,
)
from wszoo.weights_record import ASSETS, IMAGENET, PUBLISHED, Origin, OriginFile, Weights
from wszoo.weights_table import WEIGHTS

__all__ = [
    "ASSETS",
    "IMAGENET",
    "PUBLISHED",
    "WEIGHTS",
    "WEIGHTS_FILE",
    "Origin",
    "OriginFile",
    "Weights",
    "check_file",
    "download",
    "find",
    "locate",
    "read_header",
    "read_metadata",
    "record_of",
]

_logger = logging.getLogger(__name__)


def find(name: str) -> Weights:
    """Look up ``"model.tag"``, or the first record of ``"model"``.

    Raises:
        ValueError: No such model or tag; the message lists those that exist.
    """
    model, _, tag = name.partition(".")
    of_model = [weights for weights in WEIGHTS if weights.model == model]
    if not of_model:
        known = ", ".join(dict.fromkeys(weights.model for weights in WEIGHTS))
        raise ValueError(f"no weights for model {model!r}; models with weights: {known}")
    for weights in of_model:
        if tag in ("", weights.tag):
            return weights
    tags = ", ".join(weights.tag for weights in of_model)
    raise ValueError(f"model {model!r} has no weights tagged {tag!r}; its tags: {tags}")


def record_of(name: str) -> Weights | None:
    """The record behind ``"model.tag"`` or ``"model"``, if there is one."""
    try:
        return find(name)
    except ValueError:
        return None


def locate(
    weights: Weights,
    *,
    cache_dir: str | Path | None = None,
    accept_unverified: bool = False,
) -> Path:
    """Path of the record's file, its digest and storage type checked.

    Looked for in this order: the directory that ``WSZOO_WEIGHTS`` names, the package, the Hub, the
    origin. What has to be fetched is fetched now, and no second time.

    Args:
        cache_dir: Where the Hub's client keeps files, instead of its default; files from origins
            then lie in ``wszoo`` below it.
        accept_unverified: Take an original that carries no hash for what it says it is.

    Raises:
        FileNotFoundError: The record is in none of these places.
        ConnectionError, TimeoutError: It could not be fetched.
        PermissionError: It may not be fetched, or the cache not be written.
        ValueError: The file is there and is not the one that was published.
    """
    if (path := _present(weights)) is None:
        if weights.hub:
            place = place_of(weights.hub, name=weights.name, cache_dir=cache_dir)
            return fetch_weights(place, sha256=weights.sha256, dtype=weights.dtype)
        if weights.origin:
            path = converted(weights, cache_root(cache_dir), accept_unverified=accept_unverified)
        else:
            raise FileNotFoundError(_nowhere(weights))
    if weights.origin:
        check_converted(path, weights, accept_unverified=accept_unverified)
    else:
        check_file(path, sha256=weights.sha256, dtype=weights.dtype)
    return path


def download(
    weights: Weights,
    folder: Path,
    *,
    cache_dir: str | Path | None = None,
    accept_unverified: bool = False,
) -> Path:
    """Put the record's file into ``folder``, for ``WSZOO_WEIGHTS`` to name where no network is.

    Returns:
        ``folder/<model.tag>/model.safetensors``.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: As for ``locate``.
        OSError: ``folder`` cannot be written.
    """
    path = locate(weights, cache_dir=cache_dir, accept_unverified=accept_unverified)
    target = folder / weights.name
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make {target}: {error.strerror}; name another folder") from error
    for name in (ORIGIN_FILE, WEIGHTS_FILE):
        if (path.parent / name).is_file():
            write_whole(target / name, (path.parent / name).read_bytes())
    return target / WEIGHTS_FILE


def _present(weights: Weights) -> Path | None:
    """Where the file is, if it need not be fetched."""
    folder = os.environ.get("WSZOO_WEIGHTS")
    if folder:
        path = Path(folder).expanduser() / weights.name / WEIGHTS_FILE
        if path.exists():
            return path
        _warn_of(folder)
    return ASSETS / weights.name / WEIGHTS_FILE if weights.packaged else None


@cache  # once a process for each folder, however many weights are looked for
def _warn_of(folder: str) -> None:
    """A folder without these weights may be meant; one that can hold none is a slip."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        _logger.warning("WSZOO_WEIGHTS=%r is no folder; it is ignored, unset or mend it", folder)
    elif (path / WEIGHTS_FILE).exists():
        _logger.warning(
            "WSZOO_WEIGHTS=%r holds %s itself; it is ignored, set it to the folder above, %r",
            folder,
            WEIGHTS_FILE,
            str(path.absolute().parent),
        )


def _nowhere(weights: Weights) -> str:
    folder = os.environ.get("WSZOO_WEIGHTS")
    lacking = f" (WSZOO_WEIGHTS={folder!r} does not hold {weights.name}/{WEIGHTS_FILE})"
    return (
        f"the weights {weights.name!r} are in the repository only; "
        f"set WSZOO_WEIGHTS to its folder model_cards{lacking if folder else ''}"
    )
