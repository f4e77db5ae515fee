"""The photos of a run: checked before the first step, then read split by split."""

import shlex
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.datasets.annotations import ClassId
from wszoo.datasets.check import Report, check_data
from wszoo.datasets.detection import DetectionImages, read_detection
from wszoo.datasets.findings import Finding
from wszoo.datasets.labelled import LabelledShards
from wszoo.datasets.listing import as_known
from wszoo.datasets.photo_check import Progress
from wszoo.datasets.quarantine import read_quarantine
from wszoo.datasets.segmentation import SegmentationImages, read_segmentation
from wszoo.datasets.shard_files import StoredParts, is_url
from wszoo.finetune.settings import TaskName
from wszoo.training.classify import digest_of

Images: TypeAlias = LabelledImages | DetectionImages | SegmentationImages


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where photos are, and how to read them.

    Attributes:
        task: What they are for.
        path: As the reader of the task takes it; that of shards may be an address.
        classes: As the reader takes them; class folders have their own names.
        ignore: Values of masks without a class.
        quarantine: File of photos to leave out, as ``wszoo check-data`` writes it.
    """

    task: TaskName
    path: Path | str
    classes: tuple[str, ...] | None = None
    ignore: tuple[int, ...] = ()
    quarantine: Path | None = None

    def left_out(self) -> frozenset[str]:
        """Names of the photos to leave out."""
        return frozenset() if self.quarantine is None else read_quarantine(self.quarantine)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What a run learns from, and what it is judged by.

    Attributes:
        train: The split ``train``.
        held_out: ``val``, or else ``test``.
        held_out_name: Which of the two.
        counts: Photos, objects or share of the pixels of each class in ``train``; empty where
            they were not counted.
    """

    train: Images
    held_out: Images
    held_out_name: str
    counts: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def class_ids(self) -> tuple[ClassId, ...]:
        """What the data calls the classes."""
        if isinstance(self.train, DetectionImages):
            return self.train.class_ids
        if isinstance(self.train, SegmentationImages):
            return self.train.values or tuple(range(len(self.classes)))
        return self.train.classes

    def declaration(self) -> dict[str, Any]:
        """What must not change while a run goes on."""
        return {
            "classes": list(self.classes),
            "train": len(self.train),
            "held_out": len(self.held_out),
            "digest": _digest(self.train) + _digest(self.held_out),
        }


def _digest(images: Images) -> str:
    if isinstance(images, LabelledImages):
        named = digest_of(images.names, images.targets)
        return images.sources.digest + named if isinstance(images, LabelledShards) else named
    if isinstance(images, DetectionImages):
        objects = images.objects
        return digest_of(
            images.names, (zlib.crc32(o.boxes.tobytes() + o.labels.tobytes()) for o in objects)
        )
    stored = images.sources
    if isinstance(stored, StoredParts):  # whose names are the same in every set
        return stored.digest
    return digest_of(images.names, range(len(images)))


def require_sound(source: DataSource, progress: Progress = iter) -> Report:
    """Look at every file of all splits.

    Raises:
        FileNotFoundError: There is no such data.
        ValueError: There are errors other than in photos that are left out.
    """
    report = check_data(
        source.task,
        source.path,
        classes=source.classes,
        ignore=source.ignore,
        progress=progress,
    )
    left_out = as_known(source.left_out())
    errors = [
        finding
        for finding in report.findings
        if finding.level == "error"
        and not (finding.images and as_known(finding.images) <= left_out)
    ]
    if errors:
        raise ValueError(_error_line(source, errors))
    return report


def _error_line(source: DataSource, errors: list[Finding]) -> str:
    first = errors[0]
    where = f", as in {first.examples[0]}" if first.examples else ""
    others = f" (and {len(errors) - 1} other kinds of errors)" if len(errors) > 1 else ""
    command = f"wszoo check-data --task {source.task} --data {shlex.quote(str(source.path))}"
    shows = f"`{command}` shows all"
    if first.images:  # which can be left out
        shows = (
            f"`{command} --quarantine FILE` shows all and writes the list that --quarantine takes "
            f"here"
        )
    return f"{source.path} has {first.count} x {first.message}{where}{others}; {first.fix}: {shows}"


def warnings_of(report: Report) -> Iterator[str]:
    """One line for each warning of a check."""
    for finding in report.findings:
        if finding.level == "warning":
            where = f", as in {finding.examples[0]}" if finding.examples else ""
            yield f"data: {finding.count} x {finding.message}{where}; {finding.fix}"


def counts_of(train: Images, report: Report | None) -> dict[str, str]:
    """How much of each class is in ``train``, for people; of pixels only a check knows it."""
    if isinstance(train, LabelledImages):
        labels = Counter(train.targets)
        return {name: f"{labels[row]:,}" for row, name in enumerate(train.classes)}
    if isinstance(train, DetectionImages):
        objects = Counter(int(label) for each in train.objects for label in each.labels)
        return {name: f"{objects[row]:,}" for row, name in enumerate(train.classes, 1)}
    splits = () if report is None else report.survey.splits
    pixels = next((each.per_class for each in splits if each.split == "train"), {})
    total = max(1, sum(pixels.values()))
    return {name: f"{count / total:.1%}" for name, count in pixels.items()}


def read_images(source: DataSource, split: str | None, default: str | None = None) -> Images:
    """One split, without the photos that are left out.

    Raises:
        FileNotFoundError, ValueError: As the reader of the task.
    """
    left_out = source.left_out()
    if source.task == "classify":
        images = read_labelled_images(source.path, split, default=default)
        return images.without(left_out) if left_out else images
    more: dict[str, Any] = {"classes": source.classes, "quarantine": left_out}
    if source.task == "detect":
        return read_detection(source.path, split, default=default, **more)
    return read_segmentation(source.path, split, default=default, ignore=source.ignore, **more)


def read_splits(source: DataSource) -> Splits:
    """What to learn from, and what to judge by.

    Raises:
        FileNotFoundError: There is no such data.
        ValueError: It has no ``train``, neither ``val`` nor ``test``, or these are of other
            classes than ``train``.
    """
    _, train = _first(source, ("train",), "learns from train")
    if source.task == "detect":  # labels are matched by name as they are read
        source = replace(source, classes=train.classes)
    name, held_out = _first(source, ("val", "test"), "is judged on val or test")
    return Splits(
        train=train,
        held_out=with_classes(held_out, train.classes, f"{name} of {source.path}"),
        held_out_name=name,
    )


def _first(source: DataSource, names: tuple[str, ...], why: str) -> tuple[str, Images]:
    if not is_url(source.path) and not Path(source.path).exists():
        raise FileNotFoundError(f"no such data: {source.path}")
    for name in names:
        try:
            return name, read_images(source, name)
        except FileNotFoundError:
            continue
    raise ValueError(
        f"{source.path} has no split {' and no split '.join(names)}, but fine-tuning {why}; "
        f"divide the photos into such splits"
    )


def with_classes(images: Images, classes: tuple[str, ...], where: str) -> Images:
    """The same photos with their labels counted as in ``classes``.

    Raises:
        ValueError: There are other classes, or those of pixels are in another order.
    """
    if images.classes == classes:
        return images
    if unknown := [name for name in images.classes if name not in classes]:
        raise ValueError(
            f"{where} has the class {unknown[0]!r}, but known are {', '.join(classes)}; leave it "
            f"out, or train with it"
        )
    if not isinstance(images, LabelledImages):
        raise ValueError(
            f"{where} has the classes {', '.join(images.classes)}, but {', '.join(classes)} are "
            f"wanted; name these, as with --classes"
        )
    row = {name: index for index, name in enumerate(classes)}
    targets = tuple(row[images.classes[target]] for target in images.targets)
    return replace(images, classes=classes, targets=targets)


def objects_text(images: DetectionImages) -> str:
    """How many objects there are, for people; photos without any are counted too."""
    counts = [len(each) for each in images.objects]
    return f"{sum(counts):,} in {len(counts):,} photos, {counts.count(0):,} of these without any"
