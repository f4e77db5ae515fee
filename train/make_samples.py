"""Cut the packaged sample out of the clothing data set: ``python -m train.make_samples``.

The photos are CC0; the archives hold their original bytes and are the same on every run.
"""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import click

from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.terminal import OneLineErrors
from wszoo.weights import ASSETS

TRAIN_PER_CLASS, VAL_PER_CLASS = 36, 20


@click.command(cls=OneLineErrors)
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(data: Path) -> None:
    """Write the first photos of each class under DATA to wszoo/assets/clothing."""
    output = ASSETS / "clothing"
    output.mkdir(parents=True, exist_ok=True)
    splits = {split: read_labelled_images(data, split) for split in ("train", "val", "test")}
    write_archive(output / "clothing-train.tar.xz", [splits["train"]], TRAIN_PER_CLASS)
    write_archive(output / "clothing-val.tar.xz", [splits["val"], splits["test"]], VAL_PER_CLASS)
    (output / "LICENSE").write_bytes((data / "LICENSE").read_bytes())


def write_archive(path: Path, sets: Sequence[LabelledImages], per_class: int) -> None:
    with tarfile.open(path, "w:xz", preset=9) as tar:
        for target, name in enumerate(sets[0].classes):
            chosen = [
                source
                for images in sets
                for source, of_class in zip(images.sources, images.targets, strict=True)
                if of_class == target
            ][:per_class]
            for source in chosen:
                assert isinstance(source, Path)
                member = tarfile.TarInfo(f"{name}/{source.name}")
                member.size = source.stat().st_size
                tar.addfile(member, io.BytesIO(source.read_bytes()))
    click.echo(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
