from dataclasses import replace
from pathlib import Path

import pytest

from tests.photo_sets import write_classes, write_coco, write_masks
from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.datasets.labelled import LabelledShards
from wszoo.datasets.segmentation import SegmentationImages, read_segmentation
from wszoo.datasets.shard_writing import write_shards
from wszoo.finetune.data import DataSource, read_splits, require_sound, warnings_of, with_classes


def test_a_run_is_judged_on_val_or_else_on_test(tmp_path: Path) -> None:
    both = write_masks(tmp_path / "both", splits={"train": 2, "val": 2, "test": 3})
    test = write_masks(tmp_path / "test", splits={"train": 2, "test": 3})

    named = [
        read_splits(DataSource(task="segment", path=path)).held_out_name for path in (both, test)
    ]

    assert named == ["val", "test"]


def test_data_without_the_splits_is_refused(tmp_path: Path) -> None:
    alone = write_coco(tmp_path / "alone", splits={"train": 2})
    flat = write_classes(tmp_path / "flat", splits={"train": 2}) / "train"

    with pytest.raises(ValueError, match="alone has no split val and no split test, but fine-tu"):
        read_splits(DataSource(task="detect", path=alone))
    with pytest.raises(ValueError, match="has no split train, but fine-tuning learns from train"):
        read_splits(DataSource(task="classify", path=flat))
    with pytest.raises(FileNotFoundError, match="no such data"):
        read_splits(DataSource(task="classify", path=tmp_path / "gone"))


def test_class_ids_are_those_of_the_source(tmp_path: Path) -> None:
    coco = read_splits(DataSource(task="detect", path=write_coco(tmp_path / "coco")))
    data = write_masks(tmp_path / "masks", classes=("void", "red", "blue"))
    masks = read_splits(DataSource(task="segment", path=data, ignore=(0,)))
    folders = read_splits(DataSource(task="classify", path=write_classes(tmp_path / "folders")))

    assert (coco.classes, coco.class_ids) == (("red", "blue"), (7, 14))
    assert (masks.classes, masks.class_ids) == (("red", "blue"), (1, 2))
    assert (folders.classes, folders.class_ids) == (("blue", "red"), ("blue", "red"))


def test_labels_are_counted_in_the_classes_of_the_net() -> None:
    images = LabelledImages(
        names=("a", "b"), sources=(b"", b""), targets=(0, 1), classes=("x", "z")
    )

    moved = with_classes(images, ("x", "y", "z"), "here")

    assert isinstance(moved, LabelledImages)
    assert (moved.targets, moved.classes) == ((0, 2), ("x", "y", "z"))
    with pytest.raises(ValueError, match="here has the class 'z', but known are x, y; leave it"):
        with_classes(images, ("x", "y"), "here")


def test_what_was_declared_changes_with_names_labels_and_boxes(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data")
    source = DataSource(task="detect", path=data)
    before = read_splits(source)
    train = before.train
    assert not isinstance(train, LabelledImages)

    fewer = replace(before, train=train.select([0, 1, 2]))
    again = read_splits(source)

    assert again.declaration() == before.declaration()
    assert fewer.declaration()["digest"] != before.declaration()["digest"]


def test_only_errors_beyond_the_quarantine_count(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", splits={"train": 11, "val": 3})
    bad = data / "val" / "red" / "1.png"
    bad.write_bytes(b"")
    source = DataSource(task="classify", path=data)
    left_out = tmp_path / "left-out.tsv"
    left_out.write_text(f"name\treason\n{bad}\tempty\n")

    with pytest.raises(ValueError, match=r"data has 1 x .*as in .*1\.png"):
        require_sound(source)

    assert not require_sound(replace(source, quarantine=left_out)).ok


def test_each_warning_of_the_check_is_one_line(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", splits={"train": 11, "val": 3})
    clean = require_sound(DataSource(task="classify", path=data))
    copied = (data / "train" / "red" / "0.png").read_bytes()
    (data / "val" / "red" / "copy.png").write_bytes(copied)

    (warning,) = warnings_of(require_sound(DataSource(task="classify", path=data)))

    assert not list(warnings_of(clean))
    assert warning.startswith("data: 1 x ")
    assert "copy.png" in warning and "\n" not in warning


def shard(drawn: Path, out: Path) -> Path:
    for split in ("train", "val"):
        write_shards(read_segmentation(drawn, split), out / split, bytes_per_shard=40_960)
    return out


def test_shards_of_masks_are_splits_that_change_with_their_content(tmp_path: Path) -> None:
    drawn = write_masks(tmp_path / "drawn", classes=("void", "red", "blue"))
    source = DataSource(task="segment", path=shard(drawn, tmp_path / "shards"))
    splits = read_splits(source)
    train = splits.train
    assert isinstance(train, SegmentationImages)

    again = read_splits(DataSource(task="segment", path=str(source.path)))
    fewer = replace(splits, train=train.select([0, 1, 2, 3, 4, 5][:5]))
    (drawn / "train" / "masks" / "0.png").write_bytes(
        (drawn / "train" / "masks" / "1.png").read_bytes()
    )
    other = read_splits(replace(source, path=shard(drawn, tmp_path / "other")))

    assert require_sound(source).ok
    assert (splits.classes, splits.class_ids) == (("void", "red", "blue"), (0, 1, 2))
    assert again.declaration() == splits.declaration()
    digests = {each.declaration()["digest"] for each in (splits, fewer, other)}
    assert len(digests) == 3
    with pytest.raises(ValueError, match="shards/val has no split train, but fine-tuning learns"):
        read_splits(replace(source, path=tmp_path / "shards" / "val"))


def test_shards_of_classes_are_splits_that_change_with_their_content(tmp_path: Path) -> None:
    drawn = write_classes(tmp_path / "drawn")
    for split, name in (("train", "one"), ("val", "one"), ("train", "two"), ("val", "two")):
        if name == "two":
            (drawn / "train" / "red" / "0.png").write_bytes(
                (drawn / "train" / "red" / "1.png").read_bytes()
            )
        write_shards(read_labelled_images(drawn, split), tmp_path / name / split)
    source = DataSource(task="classify", path=tmp_path / "one")
    splits = read_splits(source)
    train = splits.train
    assert isinstance(train, LabelledImages)

    again = read_splits(DataSource(task="classify", path=str(source.path)))
    fewer = replace(splits, train=train.select(range(5)))
    other = read_splits(replace(source, path=tmp_path / "two"))

    assert require_sound(source).ok
    assert (splits.classes, splits.class_ids) == (("blue", "red"), ("blue", "red"))
    assert again.declaration() == splits.declaration()
    assert len({each.declaration()["digest"] for each in (splits, fewer, other)}) == 3
    with pytest.raises(ValueError, match="one/val has no split train, but fine-tuning learns"):
        read_splits(replace(source, path=tmp_path / "one" / "val"))


def test_classes_of_shards_are_matched_by_name(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "drawn", splits={"train": 2})
    write_classes(tmp_path / "drawn", ("red",), splits={"val": 2})
    for split in ("train", "val"):
        write_shards(read_labelled_images(data, split), tmp_path / "shards" / split)

    splits = read_splits(DataSource(task="classify", path=tmp_path / "shards"))

    assert isinstance(splits.held_out, LabelledShards)
    assert (splits.held_out.targets, splits.held_out.classes) == ((1, 1), ("blue", "red"))


def test_photos_with_boxes_on_a_server_are_told_to_be_fetched() -> None:
    source = DataSource(task="detect", path="http://127.0.0.1:9/cells")
    line = "^http://127.0.0.1:9/cells is an address, but photos with boxes .*; fetch them first$"

    with pytest.raises(ValueError, match=line):
        require_sound(source)
    with pytest.raises(ValueError, match=line):
        read_splits(source)
