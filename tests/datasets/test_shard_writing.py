import csv
import io
import resource
import shutil
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.datasets.file_cache import try_lock
from wszoo.datasets.shard_index import read_index
from wszoo.datasets.shard_manifest import ShardFile, read_manifest
from wszoo.datasets.shard_writing import write_shards
from wszoo.files import sha256_of


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


def members(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Shard, name and content of all members."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                yield path.name, member.name, file.read()


def with_broken(photos: LabelledImages, *numbers: int) -> LabelledImages:
    sources = list(photos.sources)
    for number in numbers:
        source = sources[number]
        assert isinstance(source, bytes)
        sources[number] = source[: len(source) // 2]
    return replace(photos, sources=tuple(sources))


def png(size: tuple[int, int]) -> bytes:
    """An image that does not compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def test_the_same_photos_give_the_same_bytes(photos: LabelledImages, tmp_path: Path) -> None:
    for copy in ("one", "two"):
        for number, (source, target) in enumerate(zip(photos.sources, photos.targets, strict=True)):
            path = tmp_path / copy / photos.classes[target] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source if isinstance(source, bytes) else source.read_bytes())

    for copy in ("one", "two"):
        images = read_labelled_images(tmp_path / copy)
        write_shards(images, tmp_path / f"shards {copy}", bytes_per_shard=40_960)

    assert digests(tmp_path / "shards one") == digests(tmp_path / "shards two")
    with tarfile.open(tmp_path / "shards one" / "shard-000000.tar") as tar:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert facts == {(0, 0, 0, "", "", 0o644)}


def test_the_manifest_tells_of_every_file(folder: Path) -> None:
    manifest = read_manifest(folder)

    told = {file.name: file.sha256 for file in (manifest.index, *manifest.shards)}

    found = digests(folder)
    del found["manifest.json"]
    assert told == found
    for file in (manifest.index, *manifest.shards):
        assert (folder / file.name).stat().st_size == file.bytes


def test_photos_keep_their_bytes_and_classes(photos: LabelledImages, folder: Path) -> None:
    found = list(members(folder))

    pairs = zip(found[::2], found[1::2], strict=True)
    samples = [(image, int(label)) for (*_, image), (*_, label) in pairs]

    assert Counter(samples) == Counter(zip(photos.sources, photos.targets, strict=True))


def test_samples_are_named_as_webdataset_groups_them(folder: Path) -> None:
    """By what stands before the first dot, one behind the other, each key once."""
    found = [(shard, *name.split(".", 1)) for shard, name, _ in members(folder)]

    keys = [(shard, key) for shard, key, _ in found]

    assert keys[::2] == keys[1::2]
    assert len(set(keys)) == len(keys) // 2
    assert [extension for *_, extension in found] == ["jpg", "cls"] * (len(keys) // 2)
    assert [key for _, key in keys[::2]] == sorted(f"{n:09}" for n in range(len(keys) // 2))


def test_the_index_tells_where_each_photo_lies(folder: Path) -> None:
    manifest = read_manifest(folder)
    found = list(members(folder))

    for row, (shard, _, image), (*_, label) in zip(
        read_index(folder / "index.npy", manifest), found[::2], found[1::2], strict=True
    ):
        data = (folder / shard).read_bytes()[int(row["offset"]) :][: int(row["length"])]
        assert data == image
        assert manifest.shards[row["shard"]].name == shard
        assert row["target"] == int(label)


def test_suffixes_stay_in_lower_case(tmp_path: Path) -> None:
    images = LabelledImages(
        names=("a.PNG", "set.tar:b/c.Png"),
        sources=(png((4, 4)),) * 2,
        targets=(0, 1),
        classes=("a", "b"),
    )

    write_shards(images, tmp_path / "out")

    assert [name for _, name, _ in members(tmp_path / "out")][::2] == [
        "000000000.png",
        "000000001.png",
    ]


def test_no_shard_is_larger_than_asked_for(photos: LabelledImages, tmp_path: Path) -> None:
    told: list[ShardFile] = []

    manifest = write_shards(
        photos, tmp_path / "out", name="my-set", bytes_per_shard=55_000, on_shard=told.append
    )

    assert tuple(told) == manifest.shards
    assert all(shard.bytes <= 55_000 for shard in told)
    assert min(shard.bytes for shard in told[:-1]) > 40_000, "and they are filled"
    assert [shard.name for shard in told] == [f"my-set-{n:06}.tar" for n in range(len(told))]


def test_a_photo_larger_than_a_shard_has_one_of_its_own(
    photos: LabelledImages, tmp_path: Path
) -> None:
    manifest = write_shards(photos, tmp_path / "out", bytes_per_shard=1)

    assert [shard.count for shard in manifest.shards] == [1] * len(photos)


def test_a_shard_is_a_fair_sample_of_the_classes(tmp_path: Path) -> None:
    data = png((4, 4))
    images = LabelledImages(
        names=("x.png",) * 800,
        sources=(data,) * 800,
        targets=tuple(np.repeat(np.arange(4), 200).tolist()),
        classes=("a", "b", "c", "d"),
    )

    manifest = write_shards(images, tmp_path / "out", bytes_per_shard=300_000)

    index = read_index(tmp_path / "out" / "index.npy", manifest)
    assert len(manifest.shards) > 4
    for number in range(len(manifest.shards) - 1):
        counts = np.bincount(index["target"][index["shard"] == number], minlength=4)
        assert counts.min() > 0.6 * counts.mean()


def test_broken_photos_stop_it_with_the_first_five_named(
    photos: LabelledImages, tmp_path: Path
) -> None:
    broken = with_broken(photos, 0, 7, 14, 21, 28, 35, 42)

    with pytest.raises(
        ValueError, match="^7 of 50 images cannot be decoded: .* and 2 more; mend"
    ) as raised:
        write_shards(broken, tmp_path / "out")

    assert all(f"{photos.names[n]} (image file is truncated" in str(raised.value) for n in (0, 28))
    assert photos.names[35] not in str(raised.value)
    assert "--quarantine" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_broken_photos_are_left_out_and_listed_on_demand(
    photos: LabelledImages, tmp_path: Path
) -> None:
    manifest = write_shards(with_broken(photos, 7, 3), tmp_path / "out", quarantine=True)

    with (tmp_path / "out" / "quarantine.tsv").open(newline="") as file:
        rows = list(csv.reader(file, "excel-tab"))
    assert [name for name, _ in rows] == ["name", photos.names[3], photos.names[7]]
    assert rows[1][1].startswith("image file is truncated")
    assert manifest.quarantined == 2
    written = [content for _, name, content in members(tmp_path / "out") if name.endswith("jpg")]
    assert Counter(written) == Counter(s for n, s in enumerate(photos.sources) if n not in (3, 7))


def test_whole_sets_have_no_list_of_broken_photos(folder: Path) -> None:
    assert not (folder / "quarantine.tsv").exists()


def test_a_photo_that_cannot_be_read_counts_as_broken(
    photos: LabelledImages, tmp_path: Path
) -> None:
    gone = replace(photos, sources=(tmp_path / "gone.jpg", *photos.sources[1:]))

    with pytest.raises(ValueError, match=r"^1 of 50 images .*: .*\(No such file or directory\); m"):
        write_shards(gone, tmp_path / "out")


def test_a_class_that_would_be_left_without_photos_is_named(
    photos: LabelledImages, tmp_path: Path
) -> None:
    hats = [n for n, target in enumerate(photos.targets) if photos.classes[target] == "hat"]

    with pytest.raises(ValueError, match="no image of class 'hat' can be decoded; mend one"):
        write_shards(with_broken(photos, *hats), tmp_path / "out", quarantine=True)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pixels", [70, 110])  # up to twice the limit Pillow warns only
def test_a_decompression_bomb_is_refused_by_its_name(
    pixels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    sources = (png((7, 7)), png((pixels // 10, 10)))
    images = LabelledImages(
        names=("fine.png", "bomb.png"), sources=sources, targets=(0, 1), classes=("a", "b")
    )

    with pytest.raises(ValueError, match=r"^1 of 2 images .*: bomb.png \(.*decompression bomb"):
        write_shards(images, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bytes_per_shard": 0}, "bytes_per_shard must be at least 1, got 0"),
        ({"name": "../a"}, "shards cannot be named '../a'; use letters, digits"),
        ({"name": ""}, "shards cannot be named ''"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: dict[str, Any], message: str, photos: LabelledImages, tmp_path: Path
) -> None:
    def begin(_numbers: Iterable[int]) -> Iterable[int]:
        raise AssertionError("it is to be refused before any photo is decoded")

    with pytest.raises(ValueError, match=message):
        write_shards(photos, tmp_path / "out", **arguments, progress=begin)

    assert list(tmp_path.iterdir()) == []


def test_no_photos_and_no_images_are_refused(photos: LabelledImages, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no images to write"):
        write_shards(replace(photos, names=(), sources=(), targets=()), tmp_path / "out")
    with pytest.raises(ValueError, match="notes.txt is not named like an image; known: .jpg"):
        write_shards(replace(photos, names=("notes.txt",) * len(photos)), tmp_path / "out")


def test_a_folder_with_something_in_it_is_not_touched(folder: Path, photos: LabelledImages) -> None:
    before = digests(folder)

    with pytest.raises(FileExistsError, match=f"{folder} exists already; remove it, or name"):
        write_shards(photos, folder)

    assert digests(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["shards"]


def test_an_empty_folder_is_filled(photos: LabelledImages, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    write_shards(photos, tmp_path / "out")

    assert read_manifest(tmp_path / "out").index.count == len(photos)


def test_ctrl_c_leaves_nothing(photos: LabelledImages, tmp_path: Path) -> None:
    def interrupt(shard: ShardFile) -> None:
        assert not list(tmp_path.glob("**/manifest.json")), "which is written last"
        if shard.name == "shard-000002.tar":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(photos, tmp_path / "out", bytes_per_shard=40_960, on_shard=interrupt)

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_is_cleared_away(
    folder: Path, photos: LabelledImages, tmp_path: Path
) -> None:
    left_over = tmp_path / ".out.partial"
    left_over.mkdir()
    (left_over / ".lock").touch()
    shutil.copy(folder / "shard-000000.tar", left_over / "shard-000009.tar")

    write_shards(photos, tmp_path / "out", bytes_per_shard=40_960)

    assert digests(tmp_path / "out") == digests(folder)
    assert not left_over.exists()


def test_a_folder_has_one_writer(photos: LabelledImages, tmp_path: Path) -> None:
    aside = tmp_path / ".out.partial"
    aside.mkdir()

    with (aside / ".lock").open("ab") as other:
        assert try_lock(other.fileno())
        with pytest.raises(OSError, match="out is being written by another process; wait for it"):
            write_shards(photos, tmp_path / "out")

    assert aside.exists()


def test_a_write_that_fails_is_named_and_leaves_nothing(
    photos: LabelledImages, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*\.tar: File too large; free some space"):
            write_shards(photos, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(photos: LabelledImages, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match=r"cannot write .*file/out: Not a directory; free some space"):
        write_shards(photos, tmp_path / "file" / "out")


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    photo = png((200, 200))  # 120 kB
    (tmp_path / "data" / "a").mkdir(parents=True)
    for number in range(150):
        (tmp_path / "data" / "a" / f"{number}.png").write_bytes(photo)
    images = read_labelled_images(tmp_path / "data")
    tracemalloc.start()

    manifest = write_shards(images, tmp_path / "out")

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest.index.count == 150
    assert peak < 0.6 * 150 * len(photo)
