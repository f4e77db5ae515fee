"""Weights that others published: fetched from their origin at first use, checked and converted.

For each record a folder in the cache holds the original, ``model.safetensors`` made from it, and
``origin.json``, which says what it was made from. Where there is no network, the original may be
copied there by hand.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import filelock
import timm
import torch
from huggingface_hub import constants
from torch import Tensor

from wszoo.fetch import Patience
from wszoo.originals import Original, environment_accepts, obtain
from wszoo.weights_file import WEIGHTS_FILE, check_file, weights_bytes, write_whole
from wszoo.weights_record import Weights

ORIGIN_FILE = "origin.json"
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
PATIENCE = Patience(attempts=3, pause=0.5, timeout=5, limit=1800)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What ``origin.json`` says of the file beside it.

    Attributes:
        name: ``model.tag``.
        url: Where the original was published.
        original: File name of the original.
        original_sha256: Its digest, which another original under its name must have, too.
        original_bytes: Its size.
        sha256: Digest of ``model.safetensors``.
        bytes: Size of ``model.safetensors``.
        converted_at: Time in UTC, as ISO 8601 writes it.
    """

    name: str
    url: str
    original: str
    original_sha256: str
    original_bytes: int
    sha256: str
    bytes: int
    converted_at: str


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where folders of fetched weights lie.

    ``wszoo`` in ``cache_dir``, or what ``WSZOO_CACHE`` names, or ``wszoo`` in the Hub's own folder
    (``HF_HOME``).
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / "wszoo"
    named = os.environ.get("WSZOO_CACHE")
    return Path(named).expanduser() if named else Path(constants.HF_HOME) / "wszoo"


def converted(
    weights: Weights,
    root: Path,
    *,
    accept_unverified: bool = False,
    patience: Patience = PATIENCE,
) -> Path:
    """The record's ``model.safetensors`` in ``root``; fetched and converted if it is not there yet.

    Args:
        weights: A record with an origin.
        root: Folder of the folders, see ``cache_root``.
        accept_unverified: Take an original whose name carries no hash for what it says it is.
        patience: How long to try.

    Raises:
        ConnectionError: The original could not be fetched.
        TimeoutError: Another process was fetching it for too long.
        ValueError: It is not what it must be, or nothing says what it must be.
        OSError: The folder cannot be written.
    """
    folder = root / weights.name
    made = folder / WEIGHTS_FILE
    if not _is_made(folder):  # the lock needs a folder that can be written to
        with _only_one(folder, patience):
            if not _is_made(folder):
                _convert(weights, _obtain(weights, folder, accept_unverified, patience), folder)
    return made


def original_of(
    weights: Weights,
    root: Path,
    *,
    accept_unverified: bool = False,
    patience: Patience = PATIENCE,
) -> Original:
    """The checkpoint that a record is converted from, fetched if it is not in ``root`` yet.

    Raises:
        ConnectionError, TimeoutError, ValueError, OSError: As for ``converted``.
    """
    folder = root / weights.name
    with _only_one(folder, patience):
        return _obtain(weights, folder, accept_unverified, patience)


def check_converted(path: Path, weights: Weights, *, accept_unverified: bool = False) -> None:
    """Hold a converted file against its record, or ``origin.json`` where none is pinned yet.

    Args:
        path: It, with ``origin.json`` beside it.
        weights: A record with an origin.
        accept_unverified: Where neither pins a digest, take the file for what it says it is.

    Raises:
        ValueError: It is damaged or another file, or nothing says what it is.
    """
    stated = read_provenance(path.parent)
    if stated is not None and stated.name != weights.name:
        raise ValueError(
            f"{path.parent / ORIGIN_FILE} is of {stated.name!r}, not of {weights.name!r}; "
            f"each belongs into the folder of its name"
        )
    digest = weights.sha256 or (stated.sha256 if stated else None)
    try:
        check_file(path, sha256=digest, dtype=weights.dtype)
    except ValueError as error:
        raise ValueError(f"{error}: {_mend(path)}") from error
    if digest is None and not (accept_unverified or environment_accepts()):
        raise ValueError(
            f"nothing says that {path} holds {weights.name!r}: there is no {ORIGIN_FILE} beside "
            f"it, as `wszoo download {weights.name} --to DIR` writes; "
            f"to take it as it is, set WSZOO_ACCEPT_UNVERIFIED=1"
        )


def _mend(path: Path) -> str:
    """What to do about a damaged file: that in the user's own folder is not made by us."""
    named = os.environ.get("WSZOO_WEIGHTS")
    if named and Path(named).expanduser().resolve() in path.resolve().parents:
        return "copy it anew from a machine where `wszoo download NAME --to DIR` wrote it"
    return "delete it, and the next use makes it anew"


def read_provenance(folder: Path) -> Provenance | None:
    """What ``origin.json`` says in a folder of converted weights; None where there is none.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / ORIGIN_FILE
    if not path.is_file():
        return None
    try:
        facts = Provenance(**json.loads(path.read_text(encoding="utf-8")))
        if not all(isinstance(text, str) for text in (facts.original_sha256, facts.sha256)):
            raise ValueError("a sha256 that is no text")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged; {_mend(path)}") from error
    return facts


def _is_made(folder: Path) -> bool:
    return (folder / WEIGHTS_FILE).is_file() and (folder / ORIGIN_FILE).is_file()


@contextmanager
def _only_one(folder: Path, patience: Patience) -> Iterator[None]:
    """Hold the folder, so that of several processes one fetches and the others wait."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            _logger.warning("another process is fetching into %s; waiting for it", folder)
            lock.acquire(timeout=patience.limit)
    except filelock.Timeout as error:
        raise TimeoutError(
            f"another process has been fetching into {folder} for {patience.limit:g} seconds; "
            f"end it, or set WSZOO_CACHE to another folder"
        ) from error
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot write to {folder}: {reason}; set WSZOO_CACHE to a folder that you may write to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _obtain(
    weights: Weights, folder: Path, accept_unverified: bool, patience: Patience
) -> Original:
    stated = read_provenance(folder)
    pinned = {stated.original: stated.original_sha256} if stated else {}
    return obtain(weights, folder, patience, pinned=pinned, accept_unverified=accept_unverified)


def _convert(weights: Weights, original: Original, folder: Path) -> None:
    """Write ``origin.json``, then the file that it speaks of."""
    for left_over in folder.glob(f".{WEIGHTS_FILE}.*"):  # of a process that was killed
        left_over.unlink()
    metadata = {"format": "pt", "model": weights.model, "tag": weights.tag}
    tensors = _read_and_convert(weights, original)
    content = weights_bytes(tensors, metadata | {"formula": weights.formula})
    digest = hashlib.sha256(content).hexdigest()
    if weights.sha256 not in (None, digest):
        raise ValueError(
            f"{original.path} converts to sha256 {digest[:12]}…, the record says "
            f"{weights.sha256[:12] if weights.sha256 else ''}…: it is another file than the one "
            f"that was confirmed; delete it to have it fetched again"
        )
    provenance = Provenance(
        name=weights.name,
        url=original.file.url,
        original=original.file.file_name,
        original_sha256=original.sha256,
        original_bytes=original.path.stat().st_size,
        sha256=digest,
        bytes=len(content),
        converted_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    write_whole(folder / ORIGIN_FILE, (json.dumps(asdict(provenance), indent=2) + "\n").encode())
    write_whole(folder / WEIGHTS_FILE, content)


def _read_and_convert(weights: Weights, original: Original) -> dict[str, Tensor]:
    from wszoo.convert import convert_state, read_foreign  # only where there is a first use

    try:
        result = convert_state(read_foreign(original.path), original.file.source)
        if result.architecture != weights.model:
            raise ValueError(f"it holds a {result.architecture!r}")
        if result.source.formula != weights.formula:
            raise ValueError(f"its formula is {result.source.formula!r}, not {weights.formula!r}")
        _require_fit(weights, result.state_dict)
        _require_sound(weights, result.state_dict)
    except ValueError as error:
        reason = str(error).removeprefix(f"{original.path} ")
        raise ValueError(
            f"{original.path} cannot be converted to {weights.name!r}: {reason}"
        ) from error
    return result.state_dict


def _require_fit(weights: Weights, tensors: dict[str, Tensor]) -> None:
    """Every tensor of the net, and no other."""
    with torch.device("meta"):
        net = timm.create_model(weights.model, num_classes=weights.num_classes)
    wanted = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors do not fit the net, e.g. {wrong[0]}: "
            f"{found.get(wrong[0])} instead of {wanted.get(wrong[0])}"
        )


def _require_sound(weights: Weights, tensors: dict[str, Tensor]) -> None:
    """Numbers, of the type that the record says."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != _DTYPES[weights.dtype]:
            raise ValueError(f"{key} is of {tensor.dtype}, the record says {weights.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{key} holds values that are not finite")
