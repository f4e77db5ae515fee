"""Weights from the Hub: by its client, held against their digest, fetched anew where that is wrong.

The client checks the size of what it fetches, never its digest, and trusts its cache for ever.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import OfflineModeIsEnabled

from wszoo.fetch import Patience
from wszoo.files import sha256_of
from wszoo.hub_client import Place, look_up
from wszoo.hub_transfer import transfer
from wszoo.weights_file import WEIGHTS_FILE, check_file, placeholder

CONFIG_FILE = "config.json"
PATIENCE = Patience(attempts=3, pause=0.5, timeout=4, limit=8)
_ONE_TRY = Patience(attempts=1, timeout=4, limit=4)  # where the cache has a copy
_SOURCE = "hf-hub:"

_logger = logging.getLogger(__name__)


def place_of(
    identifier: str, *, name: str | None = None, cache_dir: str | Path | None = None
) -> Place:
    """The place that ``"namespace/name"`` or ``"namespace/name@revision"`` means.

    Args:
        name: ``model.tag`` of the record that names it, for messages.
        cache_dir: Where to keep its files, instead of the client's own cache.
    """
    repository, _, revision = identifier.partition("@")
    return Place(repository=repository, revision=revision or None, name=name, cache_dir=cache_dir)


def fetch_weights(
    place: Place, *, sha256: str | None, dtype: str | None, patience: Patience = PATIENCE
) -> Path:
    """The weights of a repository, in the cache, checked.

    Args:
        sha256: What they must have; where None, what the Hub said that they have.
        dtype: What they must be stored in, as ``check_file`` takes it.

    Raises:
        FileNotFoundError: The Hub has none, or the cache and offline mode is on.
        ConnectionError, TimeoutError: They could not be fetched.
        PermissionError: The Hub does not let this user, or the cache cannot be written.
        ValueError: They are damaged or others than they should be, here and on the Hub.
    """

    def check(path: Path) -> None:
        check_file(path, sha256=sha256 or _stored_sha256(path), dtype=dtype)

    return fetch_checked(place, WEIGHTS_FILE, check, patience)


def fetch_config(place: Place, *, patience: Patience = PATIENCE) -> tuple[Place, dict[str, Any]]:
    """What config.json of a repository says, and the commit that it is from.

    Raises:
        FileNotFoundError, ConnectionError, PermissionError, ValueError: As for ``fetch_weights``.
    """
    path = fetch_checked(place, CONFIG_FILE, _check_config, patience)
    return replace(place, revision=path.parent.name), read_config(path)


def read_config(path: Path) -> dict[str, Any]:
    """What a config.json says, as timm writes it and the zoo adds to it.

    Raises:
        ValueError: It is damaged, or not that of a net of timm's.
    """
    content = path.read_bytes()
    try:
        published = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = placeholder(content[:512]) or "damaged"
        raise ValueError(f"{path} is {reason}, not a configuration; fetch it again") from error
    if not isinstance(published, dict):
        raise ValueError(f"{path} is damaged, not a configuration; fetch it again")
    for key in ("pretrained_cfg", "model_args", "wszoo"):
        _require(path, published, key, dict, "an object")
    ours = published.get("wszoo", {})
    for key in ("formula", "sha256", "dtype"):
        if ours.get(key) is not None:
            _require(path, ours, key, str, "text")
    return published


def _check_config(path: Path) -> None:
    read_config(path)


def _require(path: Path, entries: dict[str, Any], key: str, kind: type, noun: str) -> None:
    if key in entries and not isinstance(entries[key], kind):
        found = json.dumps(entries[key])
        raise ValueError(f"{path} has {found[:40]} as {key!r}, not {noun}; fetch it again")


def prefetch(name: str, *, cache_dir: str | Path | None = None) -> None:
    """Fetch what timm asks for first, if ``name`` is of the Hub, and fail as this module does.

    For those who want to know before they do other work: ``timm.create_model`` does so by itself,
    see ``wszoo.loading.guard_timm``.

    Raises:
        FileNotFoundError, ConnectionError, PermissionError, ValueError: As for ``fetch_weights``.
    """
    if name.startswith(_SOURCE):
        fetch_config(place_of(name.removeprefix(_SOURCE), cache_dir=cache_dir))


def fetch_checked(
    place: Place,
    file: str,
    check: Callable[[Path], None],
    patience: Patience = PATIENCE,
) -> Path:
    """A file in the cache that ``check`` passes; one that does not is fetched a second time.

    Raises:
        ValueError: It does not pass then either.
        OSError: As for ``fetch``.
    """
    path = fetch(place, file, patience)
    try:
        check(path)
        return path
    except ValueError as error:
        damage = _reason(error)
    if _is_as_stored(path):
        raise ValueError(
            f"{damage}; this is what {place} holds: whoever published it has to mend it, "
            f"see {place.page}"
        )
    _logger.warning("%s; it is fetched a second time", damage)
    try:
        path = fetch(place, file, patience, again=True)
    except OSError as error:
        raise ValueError(f"{damage}; fetching it a second time failed: {error}") from error
    try:
        check(path)
    except ValueError as error:
        _discard(path)
        raise ValueError(
            f"{_reason(error)}, in two attempts; see to what changes files on the way here, "
            f"or {place.elsewhere}"
        ) from error
    return path


def fetch(
    place: Place,
    file: str,
    patience: Patience = PATIENCE,
    *,
    again: bool = False,
) -> Path:
    """A file of a repository, in the cache; not checked.

    No request is made for what lies in the cache from a pinned commit. For a branch or a tag the
    Hub is asked once; where it does not answer, or what it has now cannot be brought here, the copy
    in the cache is taken.

    Args:
        again: Fetch it even if it is there.

    Raises:
        FileNotFoundError, ConnectionError, TimeoutError, PermissionError, OSError: As for
            ``look_up`` and ``transfer``.
    """
    found = try_to_load_from_cache(
        place.repository, file, revision=place.revision, cache_dir=place.cache
    )
    cached = Path(found) if isinstance(found, str) and not again else None
    if cached is not None and place.is_pinned:
        return cached
    try:
        stated = look_up(place, file, patience if cached is None else _ONE_TRY)
    except OfflineModeIsEnabled as error:
        if cached is not None:
            return cached
        raise FileNotFoundError(
            f"{file} of {place} is not in the cache {place.cache}, and HF_HUB_OFFLINE forbids to "
            f"fetch it; unset it once, or {place.elsewhere}"
        ) from error
    except OSError as error:
        return _instead(cached, error)
    if cached is not None and cached.parent.name == stated.commit_hash:
        return cached
    try:
        return transfer(place, file, stated, patience, again=again)
    except OSError as error:
        return _instead(cached, error)


def _instead(cached: Path | None, error: OSError) -> Path:
    """The copy in the cache, with a warning; the error where there is none."""
    if cached is None:
        raise error
    _logger.warning("%s; the copy in the cache is used", error)
    return cached


def _reason(error: ValueError) -> str:
    """What is wrong, without the way out, which is another one here."""
    return str(error).partition("; ")[0]


def _stored_name(path: Path) -> str:
    """What the client calls a file by: its sha256 if it is large, else git's digest."""
    return Path(os.readlink(path)).name if path.is_symlink() else ""


def _stored_sha256(path: Path) -> str | None:
    name = _stored_name(path)
    return name if len(name) == 64 else None


def _is_as_stored(path: Path) -> bool:
    """Whether a file is what the Hub said that it would send."""
    name = _stored_name(path)
    if len(name) == 64:
        return sha256_of(path) == name
    content = path.read_bytes() if len(name) == 40 else b""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == name


def _discard(path: Path) -> None:
    """Take a file out of the cache, where others would trust it."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            path.resolve().unlink(missing_ok=True)
        path.unlink()
