"""Photos with one class per pixel: a mask beside each photo, on disk or inside tar archives."""

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from wszoo.datasets.classification import open_image
from wszoo.datasets.listing import ListedFile, as_known, choose_split
from wszoo.datasets.mask_shards import MaskShards, open_mask_shards
from wszoo.datasets.masks import IGNORED, lay_on_photo, open_mask, read_header
from wszoo.datasets.segmentation_layouts import Pair, SegmentationListing, list_segmentation
from wszoo.datasets.shard_files import StoredParts
from wszoo.datasets.shard_splits import WORKERS_PATIENCE, find_shards
from wszoo.datasets.shards import shuffled
from wszoo.training.sampler import epoch_order

_UNKNOWN = -1
_SEE = "see `wszoo check-data --task segment`, whose --quarantine lists what to leave out"


@dataclass(frozen=True, kw_only=True)
class SegmentationImages:
    """A segmentation set, decoded on demand.

    Attributes:
        names: Path of each photo, or ``archive:member``.
        sources: Where its bytes are: a path, or the bytes themselves; those in shards are read when
            they are asked for.
        mask_sources: The same of its mask.
        classes: Names of the classes 0 to K-1.
        ignore_index: What pixels of no class hold.
        mask_names: As ``names``.
        values: What the files hold for each class; 0 to K-1 if None.
        ignored: Other values that the files may hold, for pixels of no class; 255 always is one.
    """

    names: Sequence[str]
    sources: Sequence[Path | bytes]
    mask_sources: Sequence[Path | bytes]
    classes: tuple[str, ...]
    ignore_index: int = IGNORED
    mask_names: Sequence[str] = ()
    values: tuple[int, ...] | None = None
    ignored: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """Photo ``index`` as upright RGB."""
        return open_image(self.sources[index], self.names[index])

    def mask(self, index: int) -> np.ndarray:
        """Classes of the upright photo ``index``.

        Returns:
            ``(H, W)`` uint8: 0 to K-1, or ``ignore_index``.

        Raises:
            FileNotFoundError: The mask is gone.
            ValueError: It cannot be decoded, has several channels, another size than the photo, or
                a value that is neither a class nor ignored.
        """
        name = self.mask_names[index] if self.mask_names else f"the mask of {self.names[index]}"
        labels = open_mask(self.mask_sources[index], name)
        targets = self._targets[labels]
        if (targets == _UNKNOWN).any():
            value = labels[targets == _UNKNOWN].min()
            raise ValueError(
                f"{name} holds the value {value}, which is no class of {len(self.classes)}; name "
                f"all of them from value 0 on (--classes), or ignore it (--ignore {value})"
            )
        try:
            header = read_header(self.sources[index])
        except Exception:  # Pillow's readers raise almost anything; decoding finds the words
            self.image(index)
            raise
        return np.ascontiguousarray(lay_on_photo(targets.astype(np.uint8), header, name))

    @cached_property
    def _targets(self) -> np.ndarray:
        """What each value in a file becomes."""
        table = np.full(256, _UNKNOWN, dtype=np.int16)
        values = range(len(self.classes)) if self.values is None else self.values
        table[[*values]] = range(len(self.classes))
        table[[*self.ignored, IGNORED]] = self.ignore_index
        return table

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """A permutation of all photos, the same one for the same arguments.

        From a server it keeps to a few shards at a time; else it is wholly free.
        """
        stored = self.sources
        if isinstance(stored, StoredParts):
            return shuffled(stored, seed, epoch)
        return epoch_order(seed, epoch, len(self))

    def select(self, indices: Iterable[int]) -> "SegmentationImages":
        """These photos, in this order, with all classes."""
        rows = [*indices]
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            sources=_chosen(self.sources, rows),
            mask_sources=_chosen(self.mask_sources, rows),
            mask_names=tuple(self.mask_names[row] for row in rows) if self.mask_names else (),
        )

    def without(self, names: Collection[str]) -> "SegmentationImages":
        """All but the photos of these names; how their paths are written makes no difference."""
        left_out = as_known(names)
        if not left_out:
            return self
        return self.select(
            row for row, name in enumerate(self.names) if not as_known([name]) & left_out
        )


def _chosen(sources: Sequence[Path | bytes], rows: Sequence[int]) -> Sequence[Path | bytes]:
    if isinstance(sources, StoredParts):
        return sources.select(rows)
    return tuple(sources[row] for row in rows)


def read_segmentation(
    path: Path | str,
    split: str | None = None,
    *,
    default: str | None = None,
    classes: Sequence[str] | None = None,
    ignore: Collection[int] = (),
    quarantine: Collection[str] = (),
) -> SegmentationImages:
    """Find the photos and masks under ``path``.

    Photos and masks belong together by name. Known layouts: ``images/`` and ``masks/`` (or
    ``annotations/``, ``labels/``), alone, with splits inside them, or inside splits; ``train/``
    with ``trainannot/``, as in CamVid; Pascal VOC. All of them on disk or inside tar archives, or
    as shards, of which nothing is read before it is asked for.

    Args:
        path: A folder, an archive, a folder of archives with splits in their names, or shards as
            ``wszoo shards make`` writes them: a folder of them, one such folder per split, or the
            address of either on an HTTP server.
        split: ``"train"``, ``"val"`` or ``"test"``; needed where ``path`` holds several.
        default: The split to take if ``path`` has it and none is named.
        classes: Names of the values 0, 1, ..., ignored ones included. By default those in a file
            ``classes.txt`` (``.tsv``, ``.csv``, ``.json``) or ``labels.txt`` of the set; without
            one, the masks of all splits are decoded, and the values found are the names. Shards
            tell of them.
        ignore: Values whose pixels have no class, besides 255. They are left out of ``classes``.
        quarantine: Names of photos or masks to leave out.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: No photos or no masks, one without the other, two of one name, a damaged
            archive, shard or class file, fewer than two classes, or several splits and none named.
        ConnectionError: Shards could not be fetched.
    """
    require_values(ignore)
    if shards := find_shards(path):
        chosen = choose_split(path, {*filter(None, shards)}, split, default)
        opened = open_mask_shards(shards[chosen], WORKERS_PATIENCE)
        left = _from_shards(path, opened, classes, ignore).without(quarantine)
        if not len(left):
            raise ValueError(f"no images are left of {path}; put some in, or quarantine fewer")
        return left
    path = Path(path)
    listing = list_segmentation(path)
    chosen = choose_split(path, listing.splits, split, default)
    left_out = as_known(quarantine)
    pairs = [pair for pair in listing.pairs if not as_known(pair.names) & left_out]
    here = [pair for pair in pairs if pair.split == chosen]
    _require_whole(path, listing, here, left_out)
    names = tuple(classes) if classes is not None else listing.classes
    if names is None:
        names = _numbers((pair.mask for pair in pairs if pair.mask is not None), ignore)
    values = _require_two(path, names, ignore)
    images = [pair.image for pair in here if pair.image is not None]
    masks = [pair.mask for pair in here if pair.mask is not None]
    return SegmentationImages(
        names=tuple(file.name for file in images),
        sources=tuple(file.source for file in images),
        mask_sources=tuple(file.source for file in masks),
        classes=tuple(names[value] for value in values),
        mask_names=tuple(file.name for file in masks),
        values=values,
        ignored=frozenset(ignore),
    )


def _from_shards(
    path: Path | str,
    shards: MaskShards,
    classes: Sequence[str] | None,
    ignore: Collection[int],
) -> SegmentationImages:
    told, gaps = shards.names_of_values()
    names, ignored = (classes, frozenset(ignore)) if classes else (told, gaps.union(ignore))
    values = _require_two(path, names, ignored)
    return SegmentationImages(
        names=shards.names,
        sources=shards.images,
        mask_sources=shards.masks,
        classes=tuple(names[value] for value in values),
        mask_names=shards.mask_names,
        values=values,
        ignored=ignored,
    )


def _require_two(
    path: Path | str, names: Sequence[str], ignore: Collection[int]
) -> tuple[int, ...]:
    """Values that are classes, if there are enough of them to tell apart."""
    values = kept_values(path, names, ignore)
    if len(values) < 2:
        told = f"only the class {names[values[0]]!r}" if values else "no class"
        raise ValueError(
            f"{path} has {told} besides what is ignored (255 always is); store the values 0 and 1 "
            f"for a background and an object"
        )
    return values


def kept_values(path: Path | str, names: Sequence[str], ignore: Collection[int]) -> tuple[int, ...]:
    """Values that are classes.

    Args:
        path: The set, for messages.
        names: Of the values from 0 on.
        ignore: Values that are none.

    Raises:
        ValueError: There are too many names, or one comes twice.
    """
    if len(names) > IGNORED:
        raise ValueError(f"{path} has {len(names)} classes; at most {IGNORED} fit beside 255")
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ValueError(f"the classes of {path} name {twice!r} twice; give each its own name")
    return tuple(value for value in range(len(names)) if value not in ignore)


def require_values(ignore: Collection[int]) -> None:
    """Stop unless a mask can hold all of these.

    Raises:
        ValueError: A value is negative or above 255.
    """
    if wrong := [value for value in ignore if not 0 <= value <= IGNORED]:
        raise ValueError(f"ignore holds {wrong[0]}; values of masks are 0 to {IGNORED}")


def _require_whole(
    path: Path, listing: SegmentationListing, pairs: Sequence[Pair], left_out: frozenset[str]
) -> None:
    if not pairs:
        raise ValueError(f"no images are left of {path}; put some in, or quarantine fewer")
    taken = {name for pair in pairs for name in pair.names}
    for first, *others in listing.clashes:
        clashing = [other.name for other in others if not as_known([other.name]) & left_out]
        if first.name in taken and clashing:
            raise ValueError(f"{first.name} and {clashing[0]} belong to one name; rename one")
    for pair in pairs:
        if pair.image is None:
            named = f"the mask {pair.mask.name}" if pair.mask else f"{pair.key!r}, which is listed,"
            raise ValueError(f"{named} has no image in {path}; {_SEE}")
        if pair.mask is None:
            raise ValueError(f"{pair.image.name} has no mask; {_SEE}")


def _numbers(masks: Iterable[ListedFile], ignore: Collection[int]) -> tuple[str, ...]:
    """Names for the values up to the largest one in any mask."""

    def largest(mask: ListedFile) -> int:
        present = np.bincount(open_mask(mask.source, mask.name).ravel(), minlength=256) > 0
        present[[*ignore, IGNORED]] = False
        return max(np.flatnonzero(present).tolist(), default=0)

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        return tuple(map(str, range(1 + max(pool.map(largest, masks), default=0))))
