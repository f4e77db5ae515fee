"""The pre-flight: all that is wrong with a data set, before anything is trained on it."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wszoo.datasets.check_classification import survey_classification
from wszoo.datasets.check_segmentation import survey_segmentation
from wszoo.datasets.findings import Finding
from wszoo.datasets.photo_check import Progress
from wszoo.datasets.survey import ALL, LEVELS, SplitSurvey, Survey, by_level, in_order, sizes_array

if TYPE_CHECKING:
    from wszoo.datasets.annotations import AnnotatedImage

    _Sized = tuple[AnnotatedImage, tuple[int, int] | None]

Task = Literal["classify", "detect", "segment"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a check of a data set has found.

    Attributes:
        task: What the set is for.
        path: Where it lies.
        survey: Figures and findings.
    """

    task: Task
    path: str
    survey: Survey

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, errors first."""
        return self.survey.findings

    @property
    def ok(self) -> bool:
        """Whether it can be trained on: there are no errors."""
        return not any(finding.level == "error" for finding in self.findings)

    def quarantine(self) -> dict[str, str]:
        """Names of the photos with errors, and the first reason of each."""
        reasons: dict[str, str] = {}
        for finding in self.findings:
            if finding.level == "error":
                for name in finding.images:
                    reasons.setdefault(name, f"{finding.code}: {finding.message}")
        return reasons

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the verdict."""
        return {
            "task": self.task,
            "path": self.path,
            "ok": self.ok,
            "images": self._images,
            "classes": list(self.survey.classes),
            "splits": [split.to_json() for split in self.survey.splits],
            "findings": [finding.to_json() for finding in self.findings],
        }

    @property
    def _images(self) -> int:
        return sum(split.images for split in self.survey.splits)

    def __str__(self) -> str:
        unit = self.survey.unit
        counts = Counter(finding.level for finding in self.findings)
        told = [
            f"{counts[level]} {level}{'s' * (counts[level] > 1)}"
            for level in LEVELS
            if counts[level]
        ]
        verdict = ", ".join(["ok"] * self.ok + told)
        return "\n".join(
            [
                *(split.summary(unit) for split in self.survey.splits),
                *map(str, self.findings),
                f"{self.path}: {self._images} images of {len(self.survey.classes)} classes to "
                f"{self.task}: {verdict}",
            ]
        )


def check_data(
    task: Task,
    path: Path | str,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    ignore: Collection[int] = (),
    input_size: int | None = None,
    progress: Progress = iter,
) -> Report:
    """Look at every file of a set, and tell of all that is wrong with it.

    Args:
        task: What it is for.
        path: As ``read_labelled_images``, ``read_detection`` or ``read_segmentation`` takes it.
        split: The only one to look at; all by default, which also compares them.
        classes: As the reader takes them; class folders have their own names.
        ignore: Values of masks whose pixels have no class.
        input_size: Side in pixels of what the net will see, to note photos under half of it; not
            for detectors.
        progress: Wraps the files, as ``tqdm`` does.

    Raises:
        FileNotFoundError: ``path`` or the split does not exist.
        ValueError: Nothing of ``path`` can be read for this task, or an argument is not for it.
    """
    if task == "classify" and classes is not None:
        raise ValueError("class folders name their classes: classes is for detect and segment")
    if task != "segment" and ignore:
        raise ValueError(f"ignore is for masks, not for the task {task!r}")
    if task == "detect" and input_size is not None:
        raise ValueError("input_size is not for detect: detectors resize by themselves")
    if task == "classify":
        survey = survey_classification(path, split, input_size=input_size, progress=progress)
    elif task == "segment":
        survey = survey_segmentation(
            path, split, classes=classes, ignore=ignore, input_size=input_size, progress=progress
        )
    else:
        survey = _survey_detection(path, split, classes, progress)
    return Report(task=task, path=str(path), survey=survey)


def _survey_detection(
    path: Path | str, split: str | None, classes: Sequence[str] | None, progress: Progress
) -> Survey:
    from wszoo.datasets.check_detection import inspect_detection
    from wszoo.datasets.detection import read_annotations
    from wszoo.datasets.detection_photos import known_sizes

    findings = inspect_detection(path, split, classes=classes, progress=progress)
    found, _ = read_annotations(Path(path), split, classes=classes, all_splits=True)
    sizes, _ = known_sizes(found.images)
    of_split: defaultdict[str, list[_Sized]] = defaultdict(list)
    for image, size in zip(found.images, sizes, strict=True):
        of_split[image.split or ALL].append((image, size))
    return Survey(
        unit="objects",
        classes=found.classes,
        splits=tuple(_figures(name, of_split[name], found.classes) for name in in_order(of_split)),
        findings=by_level(findings),
    )


def _figures(
    split: str,
    images: Sequence["_Sized"],
    classes: Sequence[str],
) -> SplitSurvey:
    labels = Counter(one.label for image, _ in images for one in image.annotations)
    return SplitSurvey(
        split=split,
        images=len(images),
        per_class={name: labels[label] for label, name in enumerate(classes, start=1)},
        sizes=sizes_array([size for _, size in images if size is not None]),
        box_sizes=tuple(
            share for image, size in images if size is not None for share in _shares(image, size)
        ),
        objects=tuple(len(image.annotations) for image, _ in images),
    )


def _shares(image: "AnnotatedImage", size: tuple[int, int]) -> Iterator[float]:
    """Square root of the share of the photo, for each box that has an area."""
    for one in image.annotations:
        left, top, right, bottom = one.box
        area = max(right - left, 0) * max(bottom - top, 0) / (size[0] * size[1])
        if 0 < area <= 1:  # NaN is neither
            yield float(np.sqrt(area))
