"""Checking a folder of shards against its manifest: files, members, and the photos themselves."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wszoo.datasets.fetching import Patience, RemoteFolder, fetch_file
from wszoo.datasets.shard_files import fetch_manifest, folder_of, remote_file
from wszoo.datasets.shard_index import read_index
from wszoo.datasets.shard_manifest import INDEX, Manifest, ShardFile, read_manifest
from wszoo.datasets.shard_members import Sample, check_members
from wszoo.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class ShardsReport:
    """What a check of shards has found.

    Attributes:
        location: Folder, or its address.
        shards: Tar files in the manifest.
        images: Samples in the manifest.
        classes: Classes in the manifest.
        bytes: Of all shards, by the manifest.
        quarantined: Photos of the source that were left out when the shards were made.
        decode: Whether each photo was to be decoded.
        findings: What is wrong, one line each.
    """

    location: str
    shards: int
    images: int
    classes: int
    bytes: int
    quarantined: int
    decode: bool
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the verdict."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        left_out = f" ({self.quarantined} left out)" if self.quarantined else ""
        verdict = f"{len(self.findings)} findings"
        if self.ok:
            verdict = "ok, every image decoded" if self.decode else "ok"
        summary = (
            f"{self.location}: {self.images} images{left_out} of {self.classes} classes in "
            f"{self.shards} shards, {self.bytes / 2**20:.1f} MiB: {verdict}"
        )
        return "\n".join([*(f"BAD  {finding}" for finding in self.findings), summary])


def check_shards(
    location: str | Path,
    *,
    decode: bool = False,
    patience: Patience | None = None,
    progress: Callable[[Sequence[ShardFile]], Iterable[ShardFile]] = iter,
) -> ShardsReport:
    """Compare every shard with the manifest and the index, by size, sha256 and members.

    Args:
        location: A folder or an address, as ``open_shards`` takes it. From a server every shard
            is fetched, one at a time, past the cache.
        decode: Decode every photo as well.
        patience: How long to try to fetch a file.
        progress: Wraps the shards, as ``tqdm`` does.

    Raises:
        FileNotFoundError: There is no manifest.
        ValueError: The manifest is damaged.
        ConnectionError: The manifest could not be fetched.
    """
    folder = folder_of(location)
    source: _LocalSource | _RemoteSource = (
        _LocalSource(folder)
        if isinstance(folder, Path)
        else _RemoteSource(folder, patience or Patience())
    )
    manifest = source.manifest()
    findings = tuple(_check_all(source, manifest, decode, progress))
    return ShardsReport(
        location=str(source),
        shards=len(manifest.shards),
        images=manifest.index.count,
        classes=len(manifest.classes),
        bytes=sum(shard.bytes for shard in manifest.shards),
        quarantined=manifest.quarantined,
        decode=decode,
        findings=findings,
    )


def _check_all(
    source: "_LocalSource | _RemoteSource",
    manifest: Manifest,
    decode: bool,
    progress: Callable[[Sequence[ShardFile]], Iterable[ShardFile]],
) -> Iterator[str]:
    """All findings."""
    yield from source.strangers(manifest)
    index = None
    try:
        with source.at_hand(manifest.index) as path:
            index = read_index(path, manifest, f"{source}/{INDEX}")
    except (ValueError, OSError) as error:
        yield f"{error}; the members of the shards were not compared with it"
    start = 0
    for shard in progress(manifest.shards):
        try:
            with source.at_hand(shard) as path:
                where = f"{source}/{shard.name}"
                yield from _misfits(path, shard, where)
                if index is not None:
                    rows = index[start : start + shard.count]
                    samples = [
                        Sample.told_by(row, start + number, manifest)
                        for number, row in enumerate(rows)
                    ]
                    yield from check_members(path, where, samples, manifest if decode else None)
        except (ValueError, OSError) as error:
            yield str(error)
        start += shard.count


class _LocalSource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def manifest(self) -> Manifest:
        return read_manifest(self._folder)

    def strangers(self, manifest: Manifest) -> Iterator[str]:
        """Findings of what lies beside the shards and looks like one."""
        listed = {shard.name for shard in manifest.shards}
        for path in sorted(self._folder.glob("*.tar")):
            if path.name not in listed:
                yield f"{path} is not in the manifest; remove it"

    def at_hand(self, file: ShardFile) -> AbstractContextManager[Path]:
        """Where a file is."""
        path = self._folder / file.name
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}; copy it again")
        return nullcontext(path)


class _RemoteSource:
    def __init__(self, folder: RemoteFolder, patience: Patience) -> None:
        self._folder, self._patience = folder, patience

    def __str__(self) -> str:
        return str(self._folder).rstrip("/")

    def manifest(self) -> Manifest:
        return fetch_manifest(self._folder, self._patience)

    def strangers(self, _manifest: Manifest) -> Iterator[str]:
        """None: a server need not tell what it has."""
        return iter(())

    @contextmanager
    def at_hand(self, file: ShardFile) -> Iterator[Path]:
        """Where a file is while the context lasts."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / file.sha256
            fetch_file(remote_file(self._folder, file), path, self._patience)
            yield path


def _misfits(path: Path, shard: ShardFile, where: str) -> Iterator[str]:
    """Findings of size and digest."""
    if (size := path.stat().st_size) != shard.bytes:
        yield f"{where} has {size} bytes, the manifest says {shard.bytes}; copy it again"
    elif (digest := sha256_of(path)) != shard.sha256:
        yield f"the sha256 of {where} is {digest}, the manifest says {shard.sha256}; copy it again"
