import io
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from wszoo.datasets import read_labelled_images
from wszoo.datasets.check_classification import inspect_classification, survey_classification
from wszoo.datasets.findings import Finding
from wszoo.weights import ASSETS


def photo(number: int, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256, 7)).save(buffer, kind)
    return buffer.getvalue()


def animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in some hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sound(splits: tuple[str, ...] = ("train", "val")) -> dict[str, bytes]:
    """Two classes of ten photos in each split, all different."""
    numbers: Iterator[int] = iter(range(1000))
    return {
        f"{split}/{label}/{split}-{number}.png": photo(next(numbers))
        for split in splits
        for label in ("dress", "hat")
        for number in range(10)
    }


def by_code(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.code for finding in findings}) == len(findings)
    return {finding.code: finding for finding in findings}


def test_nothing_is_said_of_a_sound_set(tmp_path: Path) -> None:
    extras = {"readme.txt": b"x", ".cache/x.png": b"x", "train/hat/._a.png": b"x"}

    assert inspect_classification(write_folder(tmp_path / "set", sound() | extras)) == []
    assert inspect_classification(write_archive(tmp_path / "set.tar", sound())) == []
    assert inspect_classification(ASSETS / "clothing", "val") == []


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "class folders": lambda root: write_folder(
        root, {name.replace("train/", ""): data for name, data in sound(("train",)).items()}
    ),
    "split folders": lambda root: write_folder(root, sound()),
    "an archive": lambda root: write_archive(
        root / "all.tar", {f"./s/{k}": v for k, v in sound().items()}
    ),
    "archives": lambda root: write_archive(root / "x-train.tar", {"hat/1.png": photo(1)}).parent,
    "a class called train": lambda root: write_folder(
        root, {"train/1.png": photo(1), "bus/2.png": photo(2)}
    ),
    "photos in sub-folders": lambda root: write_folder(
        root, {"hat/old/1.png": photo(1), "dress/2.png": photo(2), "hat/3.PNG": photo(3)}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_photos_are_looked_at_as_are_read(layout: str, tmp_path: Path) -> None:
    path = LAYOUTS[layout](tmp_path)

    survey = survey_classification(path)

    for figures in survey.splits:
        split = None if figures.split == "all" else figures.split
        images = read_labelled_images(path, split)
        counts = {name: images.targets.count(target) for target, name in enumerate(images.classes)}
        assert figures.per_class == counts
        assert figures.images == len(figures.sizes) == len(images)
    assert sum(figures.images for figures in survey.splits) > 0


def test_images_are_named_as_the_reader_names_them(tmp_path: Path) -> None:
    files = {**sound(), "train/hat/bad.png": b"text"}
    for path in (write_folder(tmp_path / "set", files), write_archive(tmp_path / "a.tar", files)):
        broken = by_code(inspect_classification(path))["image-broken"]

        assert set(broken.images) < set(read_labelled_images(path, "train").names)


def add(files: Mapping[str, bytes]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda sound: {**sound, **files}


def rename(old: str, new: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda sound: {name.replace(old, new): data for name, data in sound.items()}


FAULTS = {
    "empty file": (add({"train/hat/x.png": b""}), "image-broken", "error", 1, "it is empty"),
    "no image": (
        add({"train/hat/x.png": b"hi"}),
        "image-broken",
        "error",
        1,
        "no image of a known",
    ),
    "cut short": (
        add({"train/hat/x.jpg": photo(1, (99, 99), "JPEG")[:-40]}),
        "image-broken",
        "error",
        1,
        "truncated",
    ),
    "bomb": (add({"train/hat/x.png": bomb()}), "image-broken", "error", 1, "decompression bomb"),
    "animated": (add({"train/hat/x.gif": animation()}), "image-animated", "warning", 1, "x.gif"),
    "two labels": (
        add({"train/hat/x.png": photo(0), "val/hat/y.png": photo(1)}),
        *("copy-conflict", "warning", 2, "train/dress/train-0.png (dress) = "),
    ),
    "two splits": (
        add({"val/dress/x.png": photo(0)}),
        "split-identical",
        "warning",
        1,
        "x.png (dress)",
    ),
    "twice": (add({"train/dress/x.png": photo(0)}), "copy", "note", 1, "train/dress/x.png (dress)"),
    "outside": (add({"train/x.png": photo(999)}), "image-stray", "error", 1, "train/x.png"),
    "beside": (add({"x.png": photo(999)}), "image-stray", "error", 1, "x.png"),
    "no photos": (add({"train/coat/x.txt": b"x"}), "class-empty", "error", 1, "train/coat"),
    "other files": (add({"train/hat/x.txt": b"x"}), "file-unread", "note", 1, "train/hat/x.txt"),
    "HEIC": (add({"train/hat/x.HEIC": b"x"}), "image-unread", "warning", 1, "train/hat/x.HEIC"),
    "no split": (add({"extra/hat/x.png": photo(999)}), "split-unknown", "note", 1, "extra"),
    "new class": (
        add({"val/coat/x.png": photo(999)}),
        "class-untrained",
        "error",
        1,
        "x.png (coat)",
    ),
    "unmeasured": (
        add({f"train/coat/{n}.png": photo(900 + n) for n in range(10)}),
        *("class-unmeasured", "warning", 1, "coat: not in val"),
    ),
    "one class": (rename("dress", "hat"), "class-single", "error", 1, None),
    "few": (lambda files: dict([*files.items()][5:]), "class-few", "note", 1, "dress: 5"),
    "uneven": (
        add({f"train/hat/more{n}.png": photo(100 + n) for n in range(200)}),
        *("class-uneven", "note", 1, "hat: 210"),
    ),
    "class case": (rename("val/hat", "val/Hat"), "class-spelling", "warning", 1, "Hat = hat"),
    "file case": (
        add({"train/hat/TRAIN-0.png": photo(999), "train/hat/train-0.png": photo(998)}),
        "name-case",
        "warning",
        1,
        "TRAIN-0.png = ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_told_with_its_place(fault: str, tmp_path: Path) -> None:
    change, code, level, count, example = FAULTS[fault]
    path = write_folder(tmp_path / "set", change(sound()))

    finding = by_code(inspect_classification(path))[code]

    assert (finding.level, finding.count) == (level, count)
    assert finding.fix
    if example is not None:
        assert any(example in line for line in finding.examples), finding.examples
    assert str(finding).startswith(f"{level}: {count} x ")


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in ("class case",)])
def test_a_fault_brings_no_other_finding_of_its_rank(fault: str, tmp_path: Path) -> None:
    change, code, level, *_ = FAULTS[fault]
    path = write_folder(tmp_path / "set", change(sound()))

    ranks = {finding.code: finding.level for finding in inspect_classification(path)}

    assert [other for other, rank in ranks.items() if rank == level] == [code]


def test_a_conflict_across_splits_is_counted_and_one_within_is_not(tmp_path: Path) -> None:
    files = {**sound(), "train/hat/x.png": photo(0), "val/hat/y.png": photo(1)}
    path = write_folder(tmp_path, files)

    both = by_code(inspect_classification(path))["copy-conflict"]
    within = by_code(inspect_classification(path, "train"))["copy-conflict"]

    assert "(1 of them across splits)" in both.message
    assert len(both.images) == 4
    assert within.count == 1 and "(0 of them across splits)" in within.message


def test_archives_are_checked_like_folders(tmp_path: Path) -> None:
    files = {
        **sound(),
        "train/hat/x.png": b"",
        "train/hat/note.txt": b"x",
        "train/hat/copy.png": photo(0),
        "hat/lost.png": photo(999),
        "stray.png": photo(998),
    }

    found = by_code(inspect_classification(write_archive(tmp_path / "set.tar", files)))

    assert {code: finding.count for code, finding in found.items()} == {
        **{"image-broken": 1, "image-stray": 1, "copy-conflict": 1},
        **{"file-unread": 1, "split-unknown": 1},
    }


def test_small_photos_are_noted_where_the_size_of_the_input_is_known(tmp_path: Path) -> None:
    path = write_folder(tmp_path, sound())

    unknown = survey_classification(path).findings
    small = survey_classification(path, input_size=61).findings
    large = survey_classification(path, input_size=60).findings

    assert unknown == large == ()
    assert [(f.code, f.level, f.count) for f in small] == [("image-small", "note", 40)]
    assert small[0].examples[0].endswith("train/dress/train-0.png: 40 x 30")
    assert len(small[0].examples) == 5 and len(small[0].images) == 40


def test_one_split_is_looked_at_alone(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {**sound(), "train/hat/x.png": b""})

    assert inspect_classification(path, "val") == []
    assert [split.split for split in survey_classification(path, "val").splits] == ["val"]
    with pytest.raises(FileNotFoundError, match="no split 'test'; its splits: train, val"):
        inspect_classification(path, "test")


def test_what_is_no_set_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty" / "hat").mkdir(parents=True)

    with pytest.raises(FileNotFoundError, match="no such folder or archive"):
        inspect_classification(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"no images in .*empty: expected <class>/<image>"):
        inspect_classification(tmp_path / "empty")
