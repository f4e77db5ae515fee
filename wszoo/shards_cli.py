"""The commands over tar shards: ``wszoo shards make`` and ``wszoo shards check``."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wszoo.terminal import CHECK_FAILED, MainGroup, as_json, progress, report

if TYPE_CHECKING:
    from wszoo.datasets import LabelledImages
    from wszoo.datasets.segmentation import SegmentationImages

_UNITS = {
    "": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}


def _size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Bytes, from ``256MB`` (of 1000) or ``256MiB`` (of 1024)."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)", text.lower())
    if match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise click.BadParameter(f"{text!r} is no size; write it as 256MB or 256MiB")
    return max(1, round(float(match[1]) * _UNITS[match[2]]))


def _names(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    """Names between commas."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise click.BadParameter(f"{text!r} holds an empty name; write them as a,b,c")
    return names


@click.group(cls=MainGroup)
def shards() -> None:
    """Make and check tar shards: many photos in few files, for discs and HTTP servers."""


@shards.command()
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="New folder for the shards.",
)
@click.option(
    "--task",
    default="classify",
    show_default=True,
    type=click.Choice(["classify", "segment"]),
    help="Class folders, or photos with masks.",
)
@click.option("--split", help="train, val or test, where DIR holds several.")
@click.option(
    "--classes",
    metavar="A,B,...",
    callback=_names,
    help="Names of the values in masks from 0 on; by default as the set tells.",
)
@click.option(
    "--ignore",
    multiple=True,
    type=click.IntRange(0, 255),
    help="Value of pixels without a class; may be given several times.",
)
@click.option("--bytes-per-shard", default="256MiB", show_default=True, callback=_size)
@click.option("--quarantine", is_flag=True, help="Leave out what cannot be decoded, and list it.")
@as_json
def make(
    source: Path,
    output: Path,
    task: str,
    split: str | None,
    classes: tuple[str, ...] | None,
    ignore: tuple[int, ...],
    bytes_per_shard: int,
    quarantine: bool,
    as_json: bool,
) -> None:
    """Write the photos of DIR with their classes or masks, from folders or archives, into shards.

    A folder with one such folder of shards per split (train, val, test) is a data set.
    """
    from wszoo.datasets.shard_manifest import ShardFile
    from wszoo.datasets.shard_writing import QUARANTINE, write_shards

    images = _read(source, task, split, classes, ignore)

    def tell(shard: ShardFile) -> None:
        if not sys.stderr.isatty():  # where there is no bar
            click.echo(f"{shard.name}: {shard.count} images, {shard.bytes} bytes", err=True)

    manifest = write_shards(
        images,
        output,
        bytes_per_shard=bytes_per_shard,
        quarantine=quarantine,
        on_shard=tell,
        progress=lambda numbers: progress(numbers, len(images), "images"),
    )
    facts = {
        "output": str(output),
        "images": manifest.index.count,
        "classes": len(manifest.classes),
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "quarantined": manifest.quarantined,
    }
    lines = [
        f"{output}: {facts['images']} images of {facts['classes']} classes in {facts['shards']} "
        f"shards, {facts['bytes']} bytes"
    ]
    if manifest.quarantined:
        lines.append(f"{manifest.quarantined} left out, see {output / QUARANTINE}")
    report(as_json, facts, lambda: "\n".join(lines))


def _read(
    source: Path,
    task: str,
    split: str | None,
    classes: tuple[str, ...] | None,
    ignore: tuple[int, ...],
) -> "LabelledImages | SegmentationImages":
    from wszoo.datasets import read_labelled_images
    from wszoo.datasets.segmentation import read_segmentation
    from wszoo.datasets.segmentation_layouts import are_mask_folders

    if task == "segment":
        return read_segmentation(source, split, classes=classes, ignore=ignore)
    for option, given in (("--classes", classes), ("--ignore", ignore)):
        if given:
            raise click.BadParameter("it is for the masks of --task segment", param_hint=option)
    images = read_labelled_images(source, split)
    if are_mask_folders(images.classes):
        told = " and ".join(images.classes)
        raise ValueError(f"{source} holds {told}, which are no classes; give --task segment")
    return images


@shards.command()
@click.argument("location", metavar="PATH|URL")
@click.option("--decode", is_flag=True, help="Decode every photo as well.")
@as_json
def check(location: str, decode: bool, as_json: bool) -> None:
    """Compare shards, in a folder or on an HTTP server, with their manifest and index."""
    from wszoo.datasets.shard_check import check_shards

    result = check_shards(
        location,
        decode=decode,
        progress=lambda files: progress(files, len(files), "shards"),
    )
    report(as_json, result.to_json(), lambda: str(result))
    if not result.ok:
        sys.exit(CHECK_FAILED)
