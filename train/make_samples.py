"""Cut the packaged samples out of their data sets: ``python -m train.make_samples KIND DATA``.

The archives are the same on every run; where photos are encoded anew, with the same Pillow.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import click
from PIL import Image

from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.datasets.classification import open_image
from wszoo.terminal import MainGroup
from wszoo.weights import ASSETS

CLOTHING_PER_CLASS = {"train": 36, "val": 20}
CELL_PHOTOS = {"train": 84, "val": 36}
CELL_SIZE = (320, 240)  # pixels, half of what BCCD has
CELL_QUALITY = 80  # of JPEG

Member = tuple[str, bytes]  # name and content

folder = click.Path(path_type=Path, exists=True, file_okay=False)
data_argument = click.argument("data", type=folder)


@click.group(cls=MainGroup)
def main() -> None:
    """Write the samples that lie in wszoo/assets."""


@main.command()
@data_argument
def clothing(data: Path) -> None:
    """Original bytes of the first photos of each class under DATA, which are CC0."""
    splits = {split: read_labelled_images(data, split) for split in ("train", "val", "test")}
    for split, sets in (("train", ["train"]), ("val", ["val", "test"])):
        photos = first_of_each_class([splits[name] for name in sets], CLOTHING_PER_CLASS[split])
        write_archive(ASSETS / "clothing" / f"clothing-{split}.tar.xz", photos)
    copy_licence(data, ASSETS / "clothing")


@main.command()
@data_argument
def bccd(data: Path) -> None:
    """The first photos that each list of BCCD under DATA names, made smaller with their boxes."""
    write_archive(ASSETS / "bccd" / "bccd.tar.xz", smaller_voc(data))
    copy_licence(data, ASSETS / "bccd")


def first_of_each_class(sets: Sequence[LabelledImages], per_class: int) -> Iterator[Member]:
    for target, name in enumerate(sets[0].classes):
        chosen = [
            source
            for images in sets
            for source, of_class in zip(images.sources, images.targets, strict=True)
            if of_class == target
        ][:per_class]
        for source in chosen:
            assert isinstance(source, Path)
            yield f"{name}/{source.name}", source.read_bytes()


def smaller_voc(data: Path) -> Iterator[Member]:
    """Lists, photos and xml files of a smaller set in the layout of VOC.

    Raises:
        ValueError: A list names too few photos, or a box is empty.
    """
    for split, count in CELL_PHOTOS.items():
        listed = data / "ImageSets" / "Main" / f"{split}.txt"
        stems = listed.read_text().split()
        if len(stems) < count:
            raise ValueError(f"{listed} names {len(stems)} photos, the sample takes {count}")
        yield f"ImageSets/Main/{split}.txt", "".join(f"{s}\n" for s in stems[:count]).encode()
        for stem in stems[:count]:
            image = open_image(data / "JPEGImages" / f"{stem}.jpg")
            xml = data / "Annotations" / f"{stem}.xml"
            smaller = image.resize(CELL_SIZE, Image.Resampling.LANCZOS)
            yield f"JPEGImages/{stem}.jpg", encode(smaller)
            yield f"Annotations/{stem}.xml", scaled(xml, image.size)


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=CELL_QUALITY, optimize=True)
    return buffer.getvalue()


def scaled(xml: Path, size: tuple[int, int]) -> bytes:
    """An annotation with its boxes as they lie in the smaller photo."""
    root = ElementTree.parse(xml).getroot()
    for axis, side in enumerate(("width", "height")):
        element_of(root, f"size/{side}", xml).text = str(CELL_SIZE[axis])
    for number, box in enumerate(root.iterfind("object/bndbox"), 1):
        for axis, (low, high) in enumerate((("xmin", "xmax"), ("ymin", "ymax"))):
            edges = [element_of(box, edge, xml) for edge in (low, high)]
            first, last = (float(edge.text or "") for edge in edges)
            if not first < last:
                raise ValueError(f"{xml}: box {number} is empty, {low} {first:g} {high} {last:g}")
            for edge, value in zip(edges, (first, last), strict=True):
                edge.text = f"{value * CELL_SIZE[axis] / size[axis]:g}"
    text: bytes = ElementTree.tostring(root)
    return text


def element_of(parent: Element, path: str, xml: Path) -> Element:
    found = parent.find(path)
    if found is None:
        raise ValueError(f"{xml}: <{parent.tag}> has no {path}; it is no annotation of VOC")
    return found


def write_archive(path: Path, members: Iterable[Member]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz", preset=9) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    click.echo(f"{path.name}: {path.stat().st_size} bytes")


def copy_licence(data: Path, output: Path) -> None:
    (output / "LICENSE").write_bytes((data / "LICENSE").read_bytes())


if __name__ == "__main__":
    main()
