"""Defects of a classification set: class folders on disk, inside tar archives, or in shards."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from wszoo.datasets.classification_listing import ClassificationListing, list_classification
from wszoo.datasets.findings import SHOWN, Finding
from wszoo.datasets.photo_check import (
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
from wszoo.datasets.survey import ALL, SplitSurvey, Survey, by_level, in_order, sizes_array

_FEW = 10  # photos of a class to train on, under which a note says so
_UNEVEN = 20  # times as many photos of one class as of another, above which a note says so


def inspect_classification(path: Path | str, split: str | None = None) -> list[Finding]:
    """Every defect of a set, for ``read_labelled_images`` or for what is learnt from it.

    Args:
        path: As ``read_labelled_images`` takes it.
        split: The only one to look at; all by default.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: There are no photos, or an archive or a shard is damaged.
        ConnectionError: Shards could not be fetched.
    """
    return [*survey_classification(path, split).findings]


def survey_classification(
    path: Path | str,
    split: str | None = None,
    *,
    input_size: int | None = None,
    progress: Progress = iter,
) -> Survey:
    """Findings as those of ``inspect_classification``, and figures.

    Args:
        path: As ``read_labelled_images`` takes it.
        split: The only one to look at; all by default.
        input_size: Side in pixels of what the net will see, if small photos are to be noted.
        progress: Wraps the photos, as ``tqdm`` does.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: There are no photos, or an archive or a shard is damaged.
        ConnectionError: Shards could not be fetched.
    """
    listing = list_classification(path, split)
    facts = examine_photos([photo.file for photo in listing.photos], progress)
    photos = [
        Labelled(name=photo.file.name, split=photo.split or ALL, label=photo.label)
        for photo in listing.photos
    ]
    names = [photo.name for photo in photos]
    classes = sorted({photo.label for photo in photos})
    findings = [
        *photo_findings(names, facts, input_size),
        *copy_findings(photos, facts, show_labels=True),
        *_place_findings(listing),
        *_class_findings(photos),
        *_split_findings(photos),
        *case_findings(classes, "classes", "class-spelling"),
        *case_findings(names, "images", "name-case"),
    ]
    return Survey(
        unit="images",
        classes=tuple(classes),
        splits=tuple(_figures(photos, facts)),
        findings=by_level(findings),
    )


def _figures(photos: Sequence[Labelled], facts: Sequence[PhotoFacts]) -> Iterator[SplitSurvey]:
    for split in in_order(photo.split for photo in photos):
        counts = Counter(photo.label for photo in photos if photo.split == split)
        sizes = [
            fact.size
            for photo, fact in zip(photos, facts, strict=True)
            if photo.split == split and fact.size is not None
        ]
        yield SplitSurvey(
            split=split,
            images=counts.total(),
            per_class=dict(sorted(counts.items())),
            sizes=sizes_array(sizes),
        )


def _place_findings(listing: ClassificationListing) -> Iterator[Finding]:
    yield from make_finding(
        "image-stray",
        "error",
        "images outside the class folders",
        "move them into a class folder, or remove them",
        {file.name: file.name for file in listing.strays},
    )
    if listing.empty:
        yield Finding(
            code="class-empty",
            level="error",
            message="classes without images",
            fix="put some in, or remove these classes",
            count=len(listing.empty),
            examples=tuple(listing.empty[:SHOWN]),
        )
    yield from unread_findings(listing.unread, "in class folders")
    if listing.aside:
        yield Finding(
            code="split-unknown",
            level="note",
            message="folders or files beside the splits that belong to none, and are not read",
            fix="name the splits train, val and test",
            count=len(listing.aside),
            examples=tuple(listing.aside[:SHOWN]),
        )


def _class_findings(photos: Sequence[Labelled]) -> Iterator[Finding]:
    """Findings of what there is to learn from: the split ``train``, or the only one."""
    splits = {photo.split for photo in photos}
    if len(splits) > 1 and "train" not in splits:
        return
    counts = Counter(photo.label for photo in photos if photo.split == "train" or len(splits) == 1)
    (most_of, most), (least_of, least) = counts.most_common()[0], counts.most_common()[-1]
    if len(counts) == 1:
        yield Finding(
            code="class-single",
            level="error",
            message=f"class in all, {most_of!r}: there is nothing to tell it from",
            fix="name the folder above the class folders, or add a second class",
            count=1,
        )
    if few := [f"{label}: {count}" for label, count in sorted(counts.items()) if count < _FEW]:
        yield Finding(
            code="class-few",
            level="note",
            message=f"classes of fewer than {_FEW} images to train on",
            fix="add some, or expect little of these classes",
            count=len(few),
            examples=tuple(few[:SHOWN]),
        )
    if most > _UNEVEN * least:
        yield Finding(
            code="class-uneven",
            level="note",
            message=f"class with {most / least:.0f} times as many images as another one",
            fix="look at the accuracy of each class, not at that of all images",
            count=1,
            examples=(f"{most_of}: {most}", f"{least_of}: {least}"),
        )


def _split_findings(photos: Sequence[Labelled]) -> Iterator[Finding]:
    """Findings of classes that are in some splits only."""
    of_split: defaultdict[str, set[str]] = defaultdict(set)
    for photo in photos:
        of_split[photo.split].add(photo.label)
    if "train" not in of_split:
        return
    trained = of_split.pop("train")
    yield from make_finding(
        "class-untrained",
        "error",
        "images of classes that are not in train",
        "add these classes to train, or remove them from the other splits",
        {
            photo.name: f"{photo.name} ({photo.label})"
            for photo in photos
            if photo.label not in trained and photo.split != "train"
        },
    )
    missing = [
        f"{label}: not in {split}"
        for split, labels in of_split.items()
        for label in sorted(trained - labels)
    ]
    if missing:
        yield Finding(
            code="class-unmeasured",
            level="warning",
            message="classes of train that another split lacks",
            fix="put images of them there, or remove their folders",
            count=len(missing),
            examples=tuple(missing[:SHOWN]),
        )
