"""Reading and augmenting photos beside torchvision, on the same photos with the same choices."""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from wszoo.bench.nets import IMAGE_SIZE
from wszoo.bench.result import Row
from wszoo.bench.setting import Cell, Setting
from wszoo.bench.timing import interleave, to_row

if TYPE_CHECKING:
    from wszoo.datasets import LabelledImages

_ROUNDS, _MOST, _BATCH = 7, 128, 32
_SEED = 0


def cells(setting: Setting) -> list[Cell]:
    """One.

    Raises:
        FileNotFoundError: There are no photos where ``setting.data`` says.
        ValueError: They do not lie in class folders.
    """
    if setting.data is not None:
        read_photos(setting.data)  # before what takes minutes
    return [Cell("photos", partial(_time, setting))]


def _time(setting: Setting) -> list[Row]:
    with _folder(setting.data) as folder:
        photos = read_photos(folder)
        chosen = [*range(0, len(photos), -(-len(photos) // _MOST))]
        names = [photos.names[index] for index in chosen]
        loaders = ours(photos, chosen), theirs(folder, names)
        works = [partial(exhaust, each) for each in loaders]
        seconds = interleave(works, setting.rounds_of(_ROUNDS), setting.host_clock)
    timed = to_row(*seconds, group="loader", what="", peer="")
    rates = [len(chosen) / median(taken) for taken in seconds]
    return [
        Row(
            group="loader",
            what=f"read, crop to {IMAGE_SIZE} px, flip",
            peer="torchvision",
            unit="images/s",
            ours=rates[0],
            theirs=rates[1],
            ratio=timed.ratio,
            quartiles=timed.quartiles,
            rounds=timed.rounds,
        )
    ]


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    """Class folders: those given, or the packaged photos, unpacked."""
    from wszoo.weights import ASSETS

    if data is not None:
        yield data
        return
    with TemporaryDirectory() as folder:
        with tarfile.open(ASSETS / "clothing" / "clothing-train.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def read_photos(folder: Path) -> "LabelledImages":
    """The photos of a folder as this zoo finds them.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It does not hold class folders and nothing else.
    """
    from torchvision.datasets import ImageFolder

    from wszoo.datasets import read_labelled_images

    photos = read_labelled_images(folder, default="train")
    theirs: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError):  # a class without photos; an archive
        theirs += (path for path, _ in ImageFolder(str(folder)).samples)
    if sorted(theirs) != sorted(photos.names):
        raise ValueError(
            f"{folder} must hold class folders and nothing else, as torchvision's ImageFolder "
            f"takes them: {folder}/<class>/<image>"
        )
    return photos


class _Photos:
    """A data set of ours: photos as augmented arrays, each by a generator of its own."""

    def __init__(self, photos: "LabelledImages", chosen: Sequence[int]) -> None:
        from wszoo.training.transforms import TrainTransform

        self._photos, self._chosen = photos, chosen
        self._transform = TrainTransform(IMAGE_SIZE, interpolation="bilinear")

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        index = self._chosen[place]
        generator = np.random.default_rng((_SEED, index))
        return self._transform(self._photos.image(index), generator), self._photos.targets[index]


def ours(photos: "LabelledImages", chosen: Sequence[int]) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of augmented photos as this zoo reads them, uint8, and their classes."""
    return DataLoader(_Photos(photos, chosen), batch_size=_BATCH)  # type: ignore[arg-type]


def theirs(folder: Path, names: Sequence[str]) -> DataLoader[tuple[Tensor, Tensor]]:
    """The same by torchvision alone, from the files of these names."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = (
        transforms.RandomResizedCrop(IMAGE_SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    )
    photos = ImageFolder(str(folder), transforms.Compose(steps))
    places = {path: place for place, (path, _) in enumerate(photos.samples)}
    return DataLoader(Subset(photos, [places[name] for name in names]), batch_size=_BATCH)


def exhaust(loader: DataLoader[tuple[Tensor, Tensor]]) -> int:
    """Read all there is."""
    return sum(len(targets) for _, targets in loader)
