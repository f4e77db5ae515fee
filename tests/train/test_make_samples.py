from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train import make_samples
from train.make_samples import smaller_voc, write_archive
from wszoo.datasets.detection import read_detection

XML = """<annotation><filename>{stem}.jpg</filename>
<size><width>640</width><height>480</height><depth>3</depth></size>
<object><name>RBC</name><difficult>0</difficult>
<bndbox><xmin>{left}</xmin><ymin>100</ymin><xmax>141</xmax><ymax>480</ymax></bndbox>
</object></annotation>"""


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos with one box each in either list, of which the sample takes one."""
    monkeypatch.setattr(make_samples, "CELL_PHOTOS", {"train": 1, "val": 1})
    folder = tmp_path / "BCCD"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for split in ("train", "val"):
        stems = [f"{split}{number}" for number in range(2)]
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            annotate(folder, stem, left=40)
            pixels = np.full((480, 640, 3), 200, np.uint8)
            Image.fromarray(pixels).save(folder / f"JPEGImages/{stem}.jpg")
    return folder


def annotate(folder: Path, stem: str, *, left: int) -> None:
    (folder / f"Annotations/{stem}.xml").write_text(XML.format(stem=stem, left=left))


def test_boxes_are_made_smaller_with_their_photos(cells: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "sample" / "cells.tar.xz", smaller_voc(cells))

    for split in ("train", "val"):
        photos = read_detection(tmp_path / "sample", split)
        assert [Path(name).name for name in photos.names] == [f"{split}0.jpg"]
        assert photos.image(0).size == photos.objects[0].size == (320, 240)
        assert photos.target(0)["boxes"].tolist() == [[20.0, 50.0, 70.5, 240.0]]


def test_a_sample_is_the_same_on_every_run(cells: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name / "cells.tar.xz" for name in ("once", "again")]

    for path in paths:
        write_archive(path, smaller_voc(cells))

    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_empty_box_is_refused(cells: Path) -> None:
    annotate(cells, "val0", left=141)

    with pytest.raises(ValueError, match=r"val0\.xml: box 1 is empty, xmin 141 xmax 141"):
        list(smaller_voc(cells))


def test_what_is_no_annotation_of_voc_is_refused(cells: Path) -> None:
    (cells / "Annotations/train0.xml").write_text("<annotation/>")

    with pytest.raises(ValueError, match=r"train0\.xml: <annotation> has no size/width"):
        list(smaller_voc(cells))


def test_a_list_of_too_few_photos_is_refused(cells: Path) -> None:
    (cells / "ImageSets/Main/val.txt").write_text("")

    with pytest.raises(ValueError, match=r"val\.txt names 0 photos, the sample takes 1"):
        list(smaller_voc(cells))
