"""Checking a folder of shards against its manifest: files, members, and the photos themselves."""

import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wszoo.datasets.classification import open_image
from wszoo.datasets.fetching import Patience, RemoteFolder, fetch_file, remote_folder
from wszoo.datasets.shard_manifest import (
    INDEX,
    MANIFEST,
    Manifest,
    ShardFile,
    read_index,
    read_manifest,
    sample_key,
)
from wszoo.datasets.shards import (
    fetch_manifest,
    is_url,
    local_folder,
    remote_file,
)
from wszoo.files import sha256_of

_LONGEST_LABEL = 10  # digits of a target in 32 bits


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
    source: _LocalSource | _RemoteSource
    if is_url(location):
        source = _RemoteSource(remote_folder(str(location), MANIFEST), patience or Patience())
    else:
        source = _LocalSource(local_folder(location))
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
                        _Sample.told_by(row, start + number, manifest)
                        for number, row in enumerate(rows)
                    ]
                    yield from _check_members(path, where, samples, decode)
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


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """What the index tells of a sample."""

    key: str
    image: str
    offset: int
    length: int
    target: int

    @classmethod
    def told_by(cls, row: np.void, number: int, manifest: Manifest) -> "_Sample":
        key = sample_key(number)
        return cls(
            key=key,
            image=f"{key}{manifest.suffixes[row['suffix']]}",
            offset=int(row["offset"]),
            length=int(row["length"]),
            target=int(row["target"]),
        )


def _check_members(
    path: Path, where: str, samples: Sequence[_Sample], decode: bool
) -> Iterator[str]:
    """Findings of members that are not as the index tells."""
    key = samples[0].key
    try:
        with tarfile.open(path, "r:") as tar:
            for sample in samples:
                key = sample.key
                image, label = tar.next(), tar.next()
                if image is None or label is None:
                    yield f"{where} ends before {key}; copy it again"
                    return
                yield from _check_sample(tar, image, label, sample, where, decode)
            if tar.next() is not None:
                yield f"{where} holds more than its {len(samples)} samples; make the shards again"
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        yield f"{where} cannot be read at {key}: {reason}; copy it again"


def _check_sample(
    tar: tarfile.TarFile,
    image: tarfile.TarInfo,
    label: tarfile.TarInfo,
    sample: _Sample,
    where: str,
    decode: bool,
) -> Iterator[str]:
    found = (image.name, image.offset_data, image.size)
    if found != (sample.image, sample.offset, sample.length):
        yield (
            f"{where} holds {found[0]} of {found[2]} bytes at {found[1]}, the index tells of "
            f"{sample.image} of {sample.length} at {sample.offset}; make the shards again"
        )
    text = _content(tar, label)[:_LONGEST_LABEL]
    if (label.name, text) != (f"{sample.key}.cls", str(sample.target).encode()):
        yield (
            f"{where} holds {label.name} of class {text.decode(errors='replace')!r}, the index "
            f"tells of {sample.key}.cls of class '{sample.target}'; make the shards again"
        )
    if decode:
        try:
            open_image(_content(tar, image), f"{where}:{image.name}")
        except ValueError as error:
            yield str(error)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""  # a link or a folder
