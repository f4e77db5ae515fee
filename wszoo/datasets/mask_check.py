"""Defects of masks, each on its own and of all their values together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wszoo.datasets.findings import SHOWN, Finding, Level
from wszoo.datasets.masks import (
    IGNORED,
    MaskError,
    PhotoHeader,
    lay_on_photo,
    open_mask,
    read_header,
)
from wszoo.datasets.photo_check import LEAVE_OUT, Progress, make_finding, run_in_pool
from wszoo.datasets.segmentation_layouts import Pair

_KINDS = {
    "mask-broken": ("masks that cannot be decoded", LEAVE_OUT),
    "mask-lossy": ("masks saved as JPEG, which changes labels", "make them again, as PNG"),
    "mask-channels": (
        "masks of several channels",
        "turn each colour into the number of its class and save a grey or palette PNG",
    ),
    "mask-size": (
        "masks of another size than their image",
        "resize them (nearest neighbour), or make them again",
    ),
    "mask-value": (
        "masks with values beyond the classes",
        "name all classes from value 0 on (--classes), or ignore the value (--ignore)",
    ),
}
_RARE = 0.001  # share of the labelled pixels, under which a note says so


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """What decoding a mask has shown.

    Attributes:
        image: Name of its photo.
        mask: Its own name.
        split: Where they lie.
        counts: ``(256,)`` pixels of each value; all 0 where it cannot be decoded.
        code: Of what is wrong with it, a finding.
        defect: The same in words.
        is_ambiguous: Whether its photo may be turned without it.
    """

    image: str
    mask: str
    split: str
    counts: np.ndarray
    code: str | None = None
    defect: str | None = None
    is_ambiguous: bool = False


def examine_masks(
    pairs: Sequence[Pair], decodable: Sequence[bool], splits: Sequence[str], progress: Progress
) -> list[MaskFacts]:
    """Decode the masks of whole ``pairs`` and hold them against their photos.

    Args:
        pairs: Photos with masks.
        decodable: Whether each photo can be decoded.
        splits: What the split of each pair is called.
        progress: Wraps the numbers of the pairs, as ``tqdm`` does.
    """

    def examine(index: int) -> MaskFacts:
        return _examine(pairs[index], decodable[index], splits[index])

    return run_in_pool(examine, range(len(pairs)), progress)


def _examine(pair: Pair, decodable: bool, split: str) -> MaskFacts:
    image, mask = pair.image, pair.mask
    assert image is not None and mask is not None
    facts = MaskFacts(
        image=image.name, mask=mask.name, split=split, counts=np.zeros(256, dtype=np.int64)
    )
    try:
        labels = open_mask(mask.source, mask.name)
        facts = replace(facts, counts=np.bincount(labels.ravel(), minlength=256))
        header: PhotoHeader | None = read_header(image.source) if decodable else None
        if header is not None:
            lay_on_photo(labels, header, mask.name)
            facts = replace(facts, is_ambiguous=header.is_ambiguous)
    except MaskError as error:
        told = str(error).removeprefix(f"cannot decode {mask.name}: ").partition("; ")[0]
        return replace(facts, code=error.code, defect=told.removeprefix(f"{mask.name} "))
    return facts


def mask_findings(masks: Sequence[MaskFacts]) -> Iterator[Finding]:
    """Findings of each mask on its own, but for its values."""
    for code, (message, fix) in _KINDS.items():
        places = {m.image: f"{m.mask}: {m.defect}" for m in masks if m.code == code}
        yield from make_finding(code, "error", message, fix, places)
    yield from make_finding(
        "mask-orientation",
        "warning",
        "images with an orientation tag that leaves open whether their masks are turned, too",
        "see how the masks lie, and save these images upright and without the tag",
        {m.image: m.image for m in masks if m.is_ambiguous},
    )


def value_findings(
    masks: Sequence[MaskFacts], classes: Mapping[int, str], ignored: frozenset[int], *, named: bool
) -> Iterator[Finding]:
    """Findings of what the masks hold.

    Args:
        masks: All of them.
        classes: Names by value.
        ignored: Values of no class, 255 among them.
        named: Whether somebody has named the classes; else they are all values up to the largest.
    """
    sound = [m for m in masks if m.counts.any()]
    if not sound:
        return
    if hopeless := _hopeless(sound, classes):
        yield hopeless
        return
    known = ignored.union(classes)
    strange = {m.image: _strange(m, known) for m in sound}
    message, fix = _KINDS["mask-value"]
    yield from make_finding(
        "mask-value",
        "error",
        f"{message} (0 to {max(classes)})",
        fix,
        {image: told for image, told in strange.items() if told},
    )
    yield from make_finding(
        "mask-ignored",
        "warning",
        "masks without a single pixel of a class",
        "label something in them, or remove them: nothing is learnt from these images",
        {m.image: m.mask for m in sound if not m.counts[[*classes]].any() and not strange[m.image]},
    )
    of_split = {
        split: np.sum([m.counts for m in sound if m.split == split], axis=0)
        for split in dict.fromkeys(m.split for m in sound)
    }
    yield from _presence_findings(np.sum([*of_split.values()], axis=0), classes, named)
    yield from _split_findings(of_split, classes)


def _hopeless(masks: Sequence[MaskFacts], classes: Mapping[int, str]) -> Finding | None:
    """What leaves nothing to learn, beside which no other finding matters."""
    present = {value for m in masks for value in np.flatnonzero(m.counts).tolist()}
    if IGNORED in present and present <= {0, IGNORED}:
        return Finding(
            code="mask-binary",
            level="error",
            message="masks of 0 and 255 only: 255 is always ignored, and no class is left",
            fix="store 1 in place of 255",
            count=sum(bool(m.counts[IGNORED]) for m in masks),
            examples=tuple(m.mask for m in masks if m.counts[IGNORED])[:SHOWN],
        )
    if len(classes) < 2:
        return Finding(
            code="class-single",
            level="error",
            message="class besides what is ignored: there is nothing to tell it from",
            fix="store 0 and 1 for a background and an object",
            count=len(classes),
            examples=tuple(classes.values()),
        )
    return None


def _strange(mask: MaskFacts, known: frozenset[int]) -> str:
    values = [value for value in np.flatnonzero(mask.counts).tolist() if value not in known]
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return f"{mask.mask}: {', '.join(map(str, values[:SHOWN]))}{more}" if values else ""


def _presence_findings(
    total: np.ndarray, classes: Mapping[int, str], named: bool
) -> Iterator[Finding]:
    """Findings of classes that are nowhere; ``total`` counts the pixels of all masks by value."""
    absent = [value for value in classes if not total[value]]
    if named:
        yield from _class_finding(
            "class-absent",
            "warning",
            "classes without a pixel",
            "remove them, or label some",
            [classes[value] for value in absent],
        )
    elif absent:  # such as between 0 and 128, or at edges that a resize has blurred
        yield Finding(
            code="value-gap",
            level="error" if len(absent) > len(classes) / 2 else "warning",
            message=f"values between 0 and {max(classes)} that no mask holds",
            fix="number the classes 0, 1, 2, ...; or name all (--classes) if some are only missing",
            count=len(absent),
            examples=tuple(map(str, absent[:SHOWN])),
        )


def _split_findings(
    of_split: dict[str, np.ndarray], classes: Mapping[int, str]
) -> Iterator[Finding]:
    """Findings of classes that are in some splits only, or hardly there to be learnt."""
    training = of_split.pop("train") if "train" in of_split else None
    if training is None and len(of_split) == 1:
        training = of_split.popitem()[1]
    if training is None:
        return
    elsewhere = {value for counts in of_split.values() for value in np.flatnonzero(counts).tolist()}
    yield from _class_finding(
        "class-untrained",
        "warning",
        "classes with pixels in other splits but none in train",
        "label some in train, or ignore these classes",
        [name for value, name in classes.items() if value in elsewhere and not training[value]],
    )
    yield from _class_finding(
        "class-unmeasured",
        "note",
        "classes of train without a pixel in another split",
        "expect no score of them there",
        [
            f"{name}: not in {split}"
            for split, counts in of_split.items()
            for value, name in classes.items()
            if training[value] and not counts[value]
        ],
    )
    labelled = training[[*classes]].sum()
    yield from _class_finding(
        "class-rare",
        "note",
        f"classes of under {_RARE:.1%} of the pixels to train on",
        "look at the score of each class, not at the share of right pixels",
        [
            f"{name}: {training[value] / labelled:.3%}"
            for value, name in classes.items()
            if 0 < training[value] < _RARE * labelled
        ],
    )


def _class_finding(
    code: str, level: Level, message: str, fix: str, classes: Sequence[str]
) -> Iterator[Finding]:
    if classes:
        yield Finding(
            code=code,
            level=level,
            message=message,
            fix=fix,
            count=len(classes),
            examples=tuple(classes[:SHOWN]),
        )
