"""Defects of a segmentation set: photos with a mask each."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from wszoo.datasets.findings import SHOWN, Finding
from wszoo.datasets.listing import ListedFile, require_split
from wszoo.datasets.mask_check import MaskFacts, examine_masks, mask_findings, value_findings
from wszoo.datasets.masks import IGNORED, open_mask
from wszoo.datasets.photo_check import (
    LEAVE_OUT,
    Labelled,
    PhotoFacts,
    Progress,
    case_findings,
    copy_findings,
    examine_photos,
    make_finding,
    photo_findings,
    unread_findings,
)
from wszoo.datasets.segmentation import kept_values, require_values
from wszoo.datasets.segmentation_layouts import Pair, SegmentationListing, list_segmentation
from wszoo.datasets.survey import ALL, SplitSurvey, Survey, by_level, in_order, sizes_array


def inspect_segmentation(
    path: Path | str,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    ignore: Collection[int] = (),
) -> list[Finding]:
    """Every defect of a set, for ``read_segmentation`` or for what is learnt from it.

    Args:
        path: As ``read_segmentation`` takes it.
        split: The only one to look at; all by default.
        classes: As ``read_segmentation`` takes them.
        ignore: As ``read_segmentation`` takes it.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: There are no photos or no masks, or an archive or the class file is damaged.
    """
    return [*survey_segmentation(path, split, classes=classes, ignore=ignore).findings]


def survey_segmentation(
    path: Path | str,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    ignore: Collection[int] = (),
    input_size: int | None = None,
    progress: Progress = iter,
) -> Survey:
    """Findings as those of ``inspect_segmentation``, and figures.

    Args:
        path: As ``read_segmentation`` takes it.
        split: The only one to look at; all by default.
        classes: As ``read_segmentation`` takes them.
        ignore: As ``read_segmentation`` takes it.
        input_size: Side in pixels of what the net will see, if small photos are to be noted.
        progress: Wraps the photos, and then the masks, as ``tqdm`` does.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: There are no photos or no masks, or an archive or the class file is damaged.
    """
    require_values(ignore)
    listing = list_segmentation(path)
    ignore = listing.ignored.union(ignore) if classes is None else frozenset(ignore)
    require_split(path, listing.splits, split)
    pairs = [pair for pair in listing.pairs if _is_asked_for(pair, listing, split)]
    images = [pair.image for pair in pairs if pair.image is not None]
    facts = examine_photos(images, progress)
    of_image = {image.name: fact for image, fact in zip(images, facts, strict=True)}
    whole = [pair for pair in pairs if pair.image is not None and pair.mask is not None]
    sound = [of_image[pair.names[0]].defect is None for pair in whole]
    masks = examine_masks(whole, sound, [pair.split or ALL for pair in whole], progress)

    given = classes if classes is not None else listing.classes
    names = _numbers(masks, ignore) if given is None else given
    kept = {value: names[value] for value in kept_values(path, names, ignore)}
    ignored = frozenset({*ignore, IGNORED})
    findings = [
        *photo_findings([image.name for image in images], facts, input_size),
        *_pair_findings(pairs, listing),
        *mask_findings(masks),
        *value_findings(masks, kept, ignored, named=given is not None),
        *_copy_findings(whole, of_image),
        *_place_findings(listing, split),
        *case_findings([image.name for image in images], "images", "name-case"),
        *case_findings(names, "classes", "class-spelling"),
    ]
    return Survey(
        unit="pixels",
        classes=tuple(kept.values()),
        splits=tuple(_figures(pairs, of_image, masks, kept)),
        findings=by_level(findings),
    )


def _is_asked_for(pair: Pair, listing: SegmentationListing, split: str | None) -> bool:
    if split is not None:
        return pair.split == split
    return pair.split is not None or not listing.splits


def _numbers(masks: Sequence[MaskFacts], ignore: Collection[int]) -> tuple[str, ...]:
    """Names for the values up to the largest one in any mask."""
    present = np.sum([np.zeros(256), *(m.counts for m in masks)], axis=0) > 0
    present[[*ignore, IGNORED]] = False
    return tuple(map(str, range(1 + max(np.flatnonzero(present).tolist(), default=0))))


def _pair_findings(pairs: Sequence[Pair], listing: SegmentationListing) -> Iterator[Finding]:
    yield from make_finding(
        "mask-missing",
        "error",
        "images without a mask",
        f"bring the masks back: {LEAVE_OUT}",
        {p.image.name: p.image.name for p in pairs if p.image is not None and p.mask is None},
    )
    lone = [pair for pair in pairs if pair.image is None]
    yield from make_finding(
        "image-missing",
        "error",
        "masks or listed names without an image",
        f"bring the images back: {LEAVE_OUT}",
        {p.names[0]: p.mask.name if p.mask else f"{p.key}, listed in {p.split}" for p in lone},
    )
    yield from make_finding(
        "name-shared",
        "error",
        "files with the name of another one but for its ending",
        f"rename them: {LEAVE_OUT}",
        {
            other.name: f"{first.name} = {other.name}"
            for first, *others in listing.clashes
            for other in others
        },
    )


def _copy_findings(pairs: Sequence[Pair], of_image: dict[str, PhotoFacts]) -> Iterator[Finding]:
    facts = [of_image[pair.names[0]] for pair in pairs]
    times = Counter(fact.digest for fact in facts if fact.digest is not None)
    photos = [
        Labelled(
            name=pair.names[0],
            split=pair.split or ALL,
            label=_mask_digest(pair.mask) if fact.digest and times[fact.digest] > 1 else "",
        )
        for pair, fact in zip(pairs, facts, strict=True)
    ]
    yield from copy_findings(photos, facts, show_labels=False)


def _mask_digest(mask: ListedFile | None) -> str:
    """Of its labels, which can be encoded in many ways; of none where it is broken."""
    try:
        assert mask is not None
        return hashlib.sha256(open_mask(mask.source, mask.name).tobytes()).hexdigest()
    except ValueError:  # a finding already
        return ""


def _place_findings(listing: SegmentationListing, split: str | None) -> Iterator[Finding]:
    yield from unread_findings(listing.unread, "in no folder of images or masks")
    aside = [pair.names[0] for pair in listing.pairs if pair.split is None]
    if aside and listing.splits and split is None:
        yield Finding(
            code="split-unknown",
            level="note",
            message="images or masks beside the splits that belong to none, and are not read",
            fix="move them into train, val or test",
            count=len(aside),
            examples=tuple(aside[:SHOWN]),
        )


def _figures(
    pairs: Sequence[Pair],
    of_image: dict[str, PhotoFacts],
    masks: Sequence[MaskFacts],
    classes: dict[int, str],
) -> Iterator[SplitSurvey]:
    for split in in_order(pair.split or ALL for pair in pairs):
        images = [p.image for p in pairs if (p.split or ALL) == split and p.image is not None]
        sizes = [size for image in images if (size := of_image[image.name].size) is not None]
        counts = [m.counts for m in masks if m.split == split]
        pixels = np.sum(counts or [np.zeros(256, dtype=np.int64)], axis=0)
        yield SplitSurvey(
            split=split,
            images=len(images),
            per_class={name: int(pixels[value]) for value, name in classes.items()},
            sizes=sizes_array(sizes),
        )
