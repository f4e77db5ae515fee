import io
import json
import pickle
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.file_server import serve
from tests.photo_sets import write_classes, write_masks
from wszoo.datasets import open_shards, read_labelled_images
from wszoo.datasets.check import check_data
from wszoo.datasets.mask_shards import open_mask_shards
from wszoo.datasets.segmentation import SegmentationImages, read_segmentation
from wszoo.datasets.segmentation_layouts import are_mask_folders, list_segmentation
from wszoo.datasets.shard_check import check_shards
from wszoo.datasets.shard_files import LocalShards, StoredParts
from wszoo.datasets.shard_index import read_index
from wszoo.datasets.shard_manifest import MaskManifest, parse_manifest, read_manifest
from wszoo.datasets.shard_splits import find_shards
from wszoo.datasets.shard_writing import write_shards
from wszoo.files import sha256_of
from wszoo.training.sampler import epoch_order

SPLITS = {"train": 7, "val": 3}
SMALL = 61_440  # bytes: two of the drawn photos per shard


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A folder of photos and masks in two splits."""
    return write_masks(tmp_path / "drawn", splits=SPLITS)


@pytest.fixture
def sharded(drawn: Path, tmp_path: Path) -> Path:
    """The same in shards."""
    for split in SPLITS:
        write_shards(
            read_segmentation(drawn, split), tmp_path / "shards" / split, bytes_per_shard=SMALL
        )
    return tmp_path / "shards"


@pytest.fixture
def url(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Their address on a server, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve(sharded) as address:
        yield address


def everything(images: SegmentationImages) -> Counter[tuple[bytes, bytes]]:
    """Pixels and labels of all photos."""
    return Counter(
        (images.image(n).tobytes(), images.mask(n).tobytes()) for n in range(len(images))
    )


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_shards_hold_the_photos_and_masks_that_they_were_made_from(
    drawn: Path, sharded: Path
) -> None:
    for split, count in SPLITS.items():
        folder, shards = read_segmentation(drawn, split), read_segmentation(sharded, split)

        assert len(shards) == count and everything(shards) == everything(folder)
        assert (shards.classes, shards.values) == (("ground", "red"), (0, 1))
    assert len(read_manifest(sharded / "train").shards) > 2
    with pytest.raises(ValueError, match=r"holds several splits \(train, val\); name one"):
        read_segmentation(sharded)
    with pytest.raises(FileNotFoundError, match="has no split 'test'; its splits: train, val"):
        read_segmentation(sharded, "test")
    assert len(read_segmentation(sharded, default="val")) == 3


def test_one_folder_of_shards_is_a_set_without_splits(sharded: Path) -> None:
    for path in (sharded / "val", str(sharded / "val"), sharded / "val" / "manifest.json"):
        assert len(read_segmentation(path)) == 3


def test_files_are_kept_byte_by_byte_and_named_as_webdataset_groups_them(
    drawn: Path, sharded: Path
) -> None:
    with tarfile.open(sharded / "train" / "shard-000000.tar") as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        contents = {name: file.read() for name, file in members.items() if file is not None}

    assert len(contents) > 3 and [*contents][:2] == ["000000000.png", "000000000.seg.png"]
    known = {path.read_bytes() for path in (drawn / "train").rglob("*.png")}
    assert known.issuperset(contents.values())


def test_the_manifest_tells_of_counts_digests_classes_and_values(
    drawn: Path, tmp_path: Path
) -> None:
    images = read_segmentation(drawn, "train", classes=["void", "red", "blue"], ignore=[0, 9])

    manifest = write_shards(images, tmp_path / "out")

    assert isinstance(manifest, MaskManifest)
    assert (manifest.classes, manifest.values) == (("red", "blue"), (1, 2))
    assert manifest.ignored == (0, 9)
    assert manifest.index.count == sum(shard.count for shard in manifest.shards) == 7
    assert parse_manifest((tmp_path / "out" / "manifest.json").read_bytes(), "here") == manifest
    again = read_segmentation(tmp_path / "out")
    assert everything(again) == everything(images)
    assert (again.classes, again.values) == (("red", "blue"), (1, 2))
    assert again.ignored == {0, 9}


def test_classes_can_be_named_and_values_ignored_of_shards_too(sharded: Path) -> None:
    named = read_segmentation(sharded, "val", classes=["earth", "box", "sky"])
    fewer = read_segmentation(sharded, "val", classes=["earth", "box", "sky"], ignore=[0])

    assert named.classes == ("earth", "box", "sky")
    assert fewer.classes == ("box", "sky") and set(np.unique(fewer.mask(0))) == {0, 255}
    with pytest.raises(ValueError, match="only the class 'red' besides what is ignored"):
        read_segmentation(sharded, "val", ignore=[0])


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(values=[0, 255]), "the value 255 is a class and ignored"),
        (lambda data: data.update(ignored=[1]), "the value 1 is a class and ignored"),
        (
            lambda data: data.update(values=[0, 256]),
            r"its values are \[0, 256\]; masks hold 0 to 2",
        ),
        (lambda data: data.update(values=[0, -1]), r"its values are \[0, -1\]; masks hold"),
        (lambda data: data.update(values=[0, True]), r"its values are \[0, True\]; masks hold"),
        (lambda data: data.update(ignored=["7"]), r"its ignored values are \['7'\]; masks"),
        (lambda data: data.update(values=[1, 1]), r"its values are \[1, 1\], one of them twice"),
        (lambda data: data.update(values=[0, 1, 2]), "it has 3 values for 2 classes"),
        (lambda data: data.update(values=[0], classes=["a"]), "it has 1 values for 1 classes"),
        (lambda data: data.update(values=None), "its values are no list"),
        (lambda data: data.pop("ignored"), "it has no 'ignored'"),
        (lambda data: data.update(version=2), r"it is of format \('wszoo mask shards', 2\), known"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(change: Change, message: str, sharded: Path) -> None:
    data = json.loads((sharded / "val" / "manifest.json").read_text())
    change(data)

    with pytest.raises(ValueError, match=f"^here is no manifest of shards: {message}"):
        parse_manifest(json.dumps(data).encode(), "here")


@pytest.mark.parametrize("column", ["mask_offset", "mask_length", "mask_suffix"])
def test_an_index_that_points_beyond_is_refused(column: str, sharded: Path) -> None:
    manifest, path = read_manifest(sharded / "val"), sharded / "val" / "index.npy"
    rows: np.ndarray = np.load(path)
    rows[column][2] = 200
    rows["mask_offset"][2] += 2**40 * (column == "mask_offset")
    rows["mask_length"][2] += 2**40 * (column == "mask_length")
    np.save(path, rows)
    manifest = replace(manifest, index=replace(manifest.index, sha256=sha256_of(path)))

    with pytest.raises(ValueError, match=r"sample 2 lies beyond its shard|suffix 200 of 8"):
        read_index(path, manifest)


def test_shards_of_the_other_kind_are_refused(sharded: Path, tmp_path: Path) -> None:
    photos = read_labelled_images(write_classes(tmp_path / "classes"), "val")
    write_shards(photos, tmp_path / "labelled")

    with pytest.raises(ValueError, match="val holds photos with masks, not with one class each; r"):
        open_shards(sharded / "val")
    with pytest.raises(ValueError, match="holds photos with one class each, no masks; make shards"):
        read_segmentation(tmp_path / "labelled")


def test_a_manifest_of_something_else_is_no_shards(drawn: Path) -> None:
    (drawn / "manifest.json").write_text("{}")

    assert find_shards(drawn) == {}
    assert len(read_segmentation(drawn, "val")) == 3


def test_splits_with_other_classes_each_are_refused(drawn: Path, sharded: Path) -> None:
    shutil.rmtree(sharded / "val")
    write_shards(read_segmentation(drawn, "val", classes=["ground", "blue"]), sharded / "val")

    with pytest.raises(ValueError, match="the splits of .* have other classes each; make their s"):
        list_segmentation(sharded)


def broken(images: SegmentationImages, mask: bytes, photo: bytes | None = None) -> Any:
    """Whose second mask, or photo, is another."""
    masks, photos = [*images.mask_sources], [*images.sources]
    masks[1] = mask
    photos[1] = photo or photos[1]
    return replace(images, mask_sources=tuple(masks), sources=tuple(photos))


@pytest.mark.parametrize(
    ("mask", "photo", "reason"),
    [
        (b"", None, r"\(cannot decode .*1.png: it is empty\)"),
        (png(np.full((80, 96), 7, np.uint8)), None, "holds the value 7, which is no class of 2"),
        (png(np.zeros((9, 9), np.uint8)), None, "has 9 x 9 pixels, its photo 96 x 80"),
        (png(np.zeros((80, 96), np.uint8)), b"x", r"\(it is no image of a known format\)"),
    ],
)
def test_pairs_that_cannot_be_learnt_from_stop_it_or_are_left_out(
    mask: bytes, photo: bytes | None, reason: str, drawn: Path, tmp_path: Path
) -> None:
    images = broken(read_segmentation(drawn, "train"), mask, photo)

    with pytest.raises(ValueError, match=f"1 of 7 images cannot be learnt from .*{reason}.*; mend"):
        write_shards(images, tmp_path / "out")
    manifest = write_shards(images, tmp_path / "out", quarantine=True)

    assert (manifest.quarantined, manifest.index.count) == (1, 6)
    assert "1.png\t" in (tmp_path / "out" / "quarantine.tsv").read_text()
    assert everything(read_segmentation(tmp_path / "out")).total() == 6


def test_masks_without_names_and_sets_without_a_whole_pair_are_refused(
    drawn: Path, tmp_path: Path
) -> None:
    images = read_segmentation(drawn, "val").select([1, 1])

    with pytest.raises(ValueError, match="the masks have no names; give mask_names"):
        write_shards(replace(images, mask_names=()), tmp_path / "out")
    with pytest.raises(ValueError, match="no image can be learnt from with its mask; mend some"):
        write_shards(
            broken(images.select([0, 0]), b"").select([1]), tmp_path / "o", quarantine=True
        )


def test_nothing_is_read_before_it_is_asked_for(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_shard = LocalShards.open

    def noted(self: LocalShards, shard: Any) -> Any:
        opened.append(shard.name)
        return open_shard(self, shard)

    monkeypatch.setattr(LocalShards, "open", noted)

    images = read_segmentation(sharded, "train")
    fewer = images.without([images.names[0]]).select([5, 0])
    assert opened == []
    fewer.image(0), fewer.mask(0)

    assert opened == [Path(images.names[6]).name.partition(":")[0]]
    assert fewer.names == (images.names[6], images.names[1])
    assert fewer.mask(1).tobytes() == images.mask(1).tobytes()
    opened.clear()
    assert list_segmentation(sharded).pairs and opened == []


def test_a_set_travels_to_worker_processes_without_its_open_files(sharded: Path) -> None:
    images = read_segmentation(sharded, "train")
    first = images.mask(0)

    again = pickle.loads(pickle.dumps(images))

    assert np.array_equal(again.mask(0), first)
    assert everything(again) == everything(images)


def test_what_is_quarantined_is_left_out_however_its_path_is_written(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = read_segmentation(sharded, "train").names[2]
    monkeypatch.chdir(sharded)

    images = read_segmentation(".", "train", quarantine=[name])

    assert len(images) == 6
    with pytest.raises(ValueError, match="no images are left of"):
        read_segmentation(sharded, "val", quarantine=read_segmentation(sharded, "val").names)


def test_a_cut_shard_and_a_damaged_photo_are_named(sharded: Path) -> None:
    images = read_segmentation(sharded, "train")
    assert isinstance(images.mask_sources, StoredParts)
    _, offset, length = images.mask_sources.places[0].tolist()
    shard = sharded / "train" / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[offset : offset + length] = bytes(length)
    shard.write_bytes(content)

    with pytest.raises(
        ValueError, match=r"cannot decode .*/train/shard-000000.tar:000000000.seg.p"
    ):
        images.mask(0)
    shard.write_bytes(content[: offset + 10])
    with pytest.raises(ValueError, match=r"000.seg.png is cut short: 10 of \d+ bytes; copy this"):
        images.mask(0)
    with pytest.raises(ValueError, match=r"the manifest says .*, cut short at shard-000000.tar:00"):
        read_segmentation(sharded, "train")


def test_a_sound_set_of_shards_is_checked_like_its_folder(drawn: Path, sharded: Path) -> None:
    folder, shards = check_data("segment", drawn), check_data("segment", sharded)

    assert shards.ok and shards.findings == folder.findings == ()
    assert [split.per_class for split in shards.survey.splits] == [
        split.per_class for split in folder.survey.splits
    ]
    assert [split.images for split in shards.survey.splits] == [7, 3]


def test_defects_of_shards_are_found_by_the_check(drawn: Path, tmp_path: Path) -> None:
    images = read_segmentation(drawn, "train")
    void = png(np.full((80, 96), 255, np.uint8))
    write_shards(broken(images, void), tmp_path / "shards")

    report = check_data("segment", tmp_path / "shards", classes=["ground"])
    ignoring = check_data("segment", tmp_path / "shards")

    assert {finding.code for finding in report.findings} == {"class-single"}
    (finding,) = ignoring.findings
    assert finding.code == "mask-ignored"
    assert finding.images[0].startswith(f"{tmp_path}/shards/shard-000000.tar:0000000")


def damage(folder: Path, part: str) -> None:
    """Zeros for the second photo or mask."""
    images = read_segmentation(folder)
    parts = images.mask_sources if part == "mask" else images.sources
    assert isinstance(parts, StoredParts)
    shard, offset, length = parts.places[1].tolist()
    path = folder / f"shard-{shard:06}.tar"
    content = bytearray(path.read_bytes())
    content[offset : offset + length] = bytes(length)
    path.write_bytes(content)


def test_whole_shards_are_found_whole(sharded: Path) -> None:
    report = check_shards(sharded / "train", decode=True)

    assert report.ok and (report.images, report.classes) == (7, 2)


@pytest.mark.parametrize(("part", "name"), [("mask", "000000001.seg.png"), ("image", "01.png")])
def test_damage_is_found(part: str, name: str, sharded: Path) -> None:
    damage(sharded / "train", part)

    whole, decoded = check_shards(sharded / "train"), check_shards(sharded / "train", decode=True)

    assert [told.partition(" of ")[0] for told in whole.findings] == ["the sha256"]
    assert len(decoded.findings) == 2
    assert f"{name}: it is no image of a known format" in decoded.findings[1]


def test_masks_at_another_place_than_the_index_tells_are_found(sharded: Path) -> None:
    folder = sharded / "train"
    rows: np.ndarray = np.load(folder / "index.npy")
    rows["mask_length"][1] -= 1
    np.save(folder / "index.npy", rows)
    data = json.loads((folder / "manifest.json").read_text())
    data["index"]["sha256"] = sha256_of(folder / "index.npy")
    (folder / "manifest.json").write_text(json.dumps(data))

    (finding,) = check_shards(folder).findings

    assert "holds 000000001.seg.png of" in finding and "make the shards again" in finding


def test_a_server_gives_the_same_photos_and_masks(url: str, sharded: Path) -> None:
    for split in SPLITS:
        local, remote = read_segmentation(sharded, split), read_segmentation(url, split)

        assert everything(remote) == everything(local)
        assert remote.names[0] == f"{url}/{split}/shard-000000.tar:000000000.png"
    assert len(read_segmentation(f"{url}/val")) == 3
    with pytest.raises(FileNotFoundError, match="has no split 'test'; its splits: train, val"):
        read_segmentation(url, "test")


def test_shards_on_a_server_are_checked_as_on_a_disk(url: str, sharded: Path) -> None:
    local, remote = check_data("segment", sharded), check_data("segment", url)

    assert remote.ok
    assert [split.to_json() for split in remote.survey.splits] == [
        split.to_json() for split in local.survey.splits
    ]


def test_an_address_without_shards_is_named(url: str) -> None:
    with pytest.raises(ConnectionError, match=rf"fetch {url}/no/manifest\.json: status 404 Not F"):
        read_segmentation(f"{url}/no", "train")
    with pytest.raises(ValueError, match="'ftp://host/set' is no http:// or https:// address"):
        read_segmentation("ftp://host/set")


def test_a_shard_that_a_server_does_not_give_is_named(url: str, sharded: Path) -> None:
    images = read_segmentation(url, "val")
    (sharded / "val" / "shard-000000.tar").unlink()

    with pytest.raises(ConnectionError, match=f"fetch {url}/val/shard-000000.tar: status 404 Not"):
        images.mask(0)


def test_the_order_is_free_on_a_disk_and_a_few_shards_at_a_time_from_a_server(
    url: str, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wszoo.datasets.shards.SHARDS_PER_BLOCK", 1)
    monkeypatch.setitem(blockwise_defaults(), "shards_per_block", 1)
    local, remote = read_segmentation(sharded, "train"), read_segmentation(url, "train")
    remote = remote.select([6, 0, 1, 5, 2])

    order = remote.order(3, 1)

    assert local.order(3, 1).tolist() == epoch_order(3, 1, 7).tolist()
    assert sorted(order.tolist()) == [*range(5)]
    assert remote.order(3, 1).tolist() == order.tolist()
    assert isinstance(remote.sources, StoredParts)
    shards = remote.sources.places[order, 0].tolist()
    changes = sum(before != after for before, after in pairwise(shards))
    assert changes == len({*shards}) - 1, "each shard is used up before the next one"


def blockwise_defaults() -> dict[str, Any]:
    from wszoo.datasets.shards import blockwise_order

    assert blockwise_order.__kwdefaults__ is not None
    return blockwise_order.__kwdefaults__


def test_folders_of_photos_and_masks_are_told_from_classes() -> None:
    assert are_mask_folders(["images", "masks"])
    assert are_mask_folders(["train", "trainannot", "val", "valannot"])
    assert not are_mask_folders(["images", "masks", "hats"])
    assert not are_mask_folders(["train", "plane"])


def test_shards_of_one_split_are_opened_by_their_place(sharded: Path) -> None:
    shards = open_mask_shards(sharded / "val")

    image, mask = next(shards.files())

    assert (image.is_image, image.size) == (True, len(image.read()))
    assert mask.source == shards.masks[0] and shards.masks[:2] == (mask.read(), shards.masks[1])
    assert mask.place.name == "000000000.seg.png"
