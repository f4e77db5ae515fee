"""Where the tar shards of each split of a set are, whatever they hold."""

from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

from wszoo.datasets.classification import SPLITS
from wszoo.datasets.fetching import Patience, RemoteFolder, remote_folder
from wszoo.datasets.shard_files import fetch_manifest, is_url, local_folder
from wszoo.datasets.shard_manifest import MANIFEST
from wszoo.fetch import FailedAttempt

Location = RemoteFolder | Path
WORKERS_PATIENCE = Patience(limit=240)  # a worker that reads for 300 s is given up without a word
_ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.FORBIDDEN)  # as S3 may call it


def find_shards(path: Path | str, patience: Patience | None = None) -> dict[str | None, Location]:
    """Where the shards of each split are; under None those that are all of ``path``.

    Args:
        path: A folder of shards or its ``manifest.json``, or a folder of such folders that are
            named for splits; or an address on an HTTP server, with ``train``, ``val`` and ``test``
            below it.
        patience: How long to try to fetch a manifest.

    Returns:
        Nothing where no path, or one of another layout, is named.

    Raises:
        ValueError: It is the address of no folder.
        ConnectionError: There is no manifest at an address.
    """
    if is_url(path):
        return _find_remote(remote_folder(str(path), MANIFEST), patience or Patience())
    folder = local_folder(path)
    if _holds_shards(folder):
        return {None: folder}
    return {
        split: folder / name
        for split, names in SPLITS.items()
        for name in names
        if _holds_shards(folder / name)
    }


def _holds_shards(folder: Path) -> bool:
    """Whether a manifest is that of shards, and not something else of that name."""
    return (folder / MANIFEST).is_file() and any(folder.glob("*.tar"))


def _find_remote(folder: RemoteFolder, patience: Patience) -> dict[str | None, Location]:
    absent: list[ConnectionError] = []

    def is_there(place: RemoteFolder) -> bool:
        try:
            fetch_manifest(place, patience)
        except ConnectionError as error:
            cause = error.__cause__
            if isinstance(cause, FailedAttempt) and cause.status in _ABSENT:
                absent.append(error)
                return False
            raise
        return True

    if is_there(folder):
        return {None: folder}
    places = {split: replace(folder, url=f"{folder.url}{split}/") for split in SPLITS}
    found: dict[str | None, Location] = {s: p for s, p in places.items() if is_there(p)}
    if not found:
        raise absent[0]
    return found
