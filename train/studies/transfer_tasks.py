"""The three small tasks that backbones are tried on: data, head, and how long."""

import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wszoo.datasets.quarantine import write_quarantine
from wszoo.files import sha256_of
from wszoo.finetune.data import DataSource
from wszoo.finetune.settings import TaskName

_EMPTY_BOXES = (
    "BloodImage_00338",
    "BloodImage_00343",
)  # side length zero, as its authors left them
_ROADS = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)
_HELD_OUT_OF_CAMVID = "0001TP"  # the only of its sequences that is in train and test, in halves


@dataclass(frozen=True, kw_only=True)
class TransferTask:
    """One data set with what is done on it.

    Attributes:
        task: As in ``wszoo finetune``.
        archive: File name in the folder of the data sets.
        folder: What it unpacks to; None for the archive's own top.
        batches: Photos per step that are tried, the one that says most first.
        seeds: Runs of each start and batch.
        metric: Figure in percent that stands for the outcome.
        metric_name: For people.
        settings: Of the run, but for learning rate, batch and seed.
        lr_per_photo: Learning rate at batch one, linear up to ``most_lr``.
        ignore: Values of masks without a class.
        classes: Their names, where the data has numbers alone.
    """

    task: TaskName
    archive: str
    folder: str | None
    batches: tuple[int, ...]
    metric: str
    metric_name: str
    settings: Mapping[str, Any]
    lr_per_photo: float
    seeds: int = 2
    most_lr: float = 1e-3
    ignore: tuple[int, ...] = ()
    classes: tuple[str, ...] | None = None

    def lr(self, batch_size: int) -> float:
        """The peak learning rate, the same for every start."""
        return min(self.most_lr, batch_size * self.lr_per_photo)


TASKS = {
    "bccd": TransferTask(
        task="detect",
        archive="bccd.tar",
        folder="BCCD",
        batches=(2, 1, 8),
        metric="box_ap50",
        metric_name="AP50 of blood cells",
        settings={"head": "fcos", "epochs": 5, "image_size": 240, "trainable_stages": 5},
        lr_per_photo=5e-4,
    ),
    "camvid": TransferTask(
        task="segment",
        archive="camvid-480x360.tar",
        folder=None,
        batches=(1, 8),
        metric="miou",
        metric_name="mIoU of road scenes",
        settings={
            "head": "semantic_fpn",
            "epochs": 4,
            "image_size": 180,
            "trainable_stages": 5,
            "scale": (0.5, 1.25),
        },
        lr_per_photo=5e-4,
        ignore=(11,),
        classes=_ROADS,
    ),
    "clothing": TransferTask(
        task="classify",
        archive="clothing-96.tar",
        folder="clothing-96",
        batches=(2, 1, 8),
        metric="top1",
        metric_name="top-1 of clothing",
        settings={"head": "linear", "epochs": 3, "image_size": 64},
        lr_per_photo=2e-4,
        seeds=3,
    ),
}


def prepare(task: TransferTask, data: Path, cache: Path) -> tuple[DataSource, str]:
    """The photos, unpacked where they are not yet, with a split to judge by; and their digest.

    Raises:
        FileNotFoundError: The archive is not in ``data``.
    """
    archive = data / task.archive
    if not archive.is_file():
        raise FileNotFoundError(f"no {task.archive} in {data}; name the folder of the data sets")
    digest = sha256_of(archive)
    folder = cache / f"{archive.stem}-{digest[:12]}"
    if not folder.exists():
        _unpack(task, archive, folder)
    photos = folder / (task.folder or "")
    quarantine = folder / "quarantine.tsv" if task.task == "detect" else None
    if quarantine is not None:  # names are paths here, so it is written where it will be read
        names = [photos / "JPEGImages" / f"{name}.jpg" for name in _EMPTY_BOXES]
        write_quarantine(quarantine, {str(name): "a box of no size" for name in names})
    source = DataSource(
        task=task.task,
        path=photos,
        classes=task.classes,
        ignore=task.ignore,
        quarantine=quarantine,
    )
    return source, digest


def _unpack(task: TransferTask, archive: Path, folder: Path) -> None:
    """Into a folder beside, renamed when it is whole."""
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(aside, filter="data")
    if task.task == "segment":
        _hold_out_sequence(aside)
    aside.rename(folder)


def _hold_out_sequence(folder: Path) -> None:
    """Make a split ``val`` out of one sequence of CamVid's train: its frames are much alike."""
    for kind in ("", "annot"):
        (folder / f"val{kind}").mkdir()
        for file in sorted((folder / f"train{kind}").glob(f"{_HELD_OUT_OF_CAMVID}*")):
            file.rename(folder / f"val{kind}" / file.name)
