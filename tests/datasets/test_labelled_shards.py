import pickle
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.file_server import serve
from tests.photo_sets import write_classes, write_masks
from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.datasets.check import check_data
from wszoo.datasets.labelled import LabelledShards
from wszoo.datasets.segmentation import read_segmentation
from wszoo.datasets.shard_files import LocalShards
from wszoo.datasets.shard_writing import write_shards
from wszoo.datasets.shards import blockwise_order
from wszoo.training.sampler import epoch_order

SPLITS = {"train": 12, "val": 3}
SMALL = 40_960  # bytes: a few of the drawn photos per shard


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Class folders in two splits."""
    return write_classes(tmp_path / "drawn", splits=SPLITS)


def to_shards(drawn: Path, out: Path) -> Path:
    for split in SPLITS:
        write_shards(read_labelled_images(drawn, split), out / split, bytes_per_shard=SMALL)
    return out


@pytest.fixture
def sharded(drawn: Path, tmp_path: Path) -> Path:
    """The same in shards."""
    return to_shards(drawn, tmp_path / "shards")


@pytest.fixture
def url(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Their address on a server, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve(sharded) as address:
        yield address


def everything(images: LabelledImages) -> Counter[tuple[bytes, str]]:
    """Pixels and classes of all photos."""
    return Counter(
        (images.image(row).tobytes(), images.classes[target])
        for row, target in enumerate(images.targets)
    )


def test_shards_hold_the_photos_and_classes_that_they_were_made_from(
    drawn: Path, sharded: Path
) -> None:
    for split, count in SPLITS.items():
        folder, shards = read_labelled_images(drawn, split), read_labelled_images(sharded, split)

        assert len(shards) == 2 * count and everything(shards) == everything(folder)
        assert shards.classes == ("blue", "red")
    with pytest.raises(ValueError, match=r"holds several splits \(train, val\); name one"):
        read_labelled_images(sharded)
    with pytest.raises(FileNotFoundError, match="has no split 'test'; its splits: train, val"):
        read_labelled_images(sharded, "test")
    assert len(read_labelled_images(sharded, default="val")) == 6
    for path in (sharded / "val", str(sharded / "val"), sharded / "val" / "manifest.json"):
        assert len(read_labelled_images(path)) == 6


def test_a_server_gives_the_same_photos_and_classes(url: str, sharded: Path) -> None:
    for split in SPLITS:
        local, remote = read_labelled_images(sharded, split), read_labelled_images(url, split)

        assert everything(remote) == everything(local)
        assert remote.names[0].startswith(f"{url}/{split}/shard-000000.tar:000000000")
    assert len(read_labelled_images(f"{url}/val")) == 6
    with pytest.raises(ConnectionError, match=rf"fetch {url}/no/manifest\.json: status 404 Not F"):
        read_labelled_images(f"{url}/no", "train")


def test_nothing_is_read_before_it_is_asked_for(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_shard = LocalShards.open

    def noted(self: LocalShards, shard: Any) -> Any:
        opened.append(shard.name)
        return open_shard(self, shard)

    monkeypatch.setattr(LocalShards, "open", noted)

    images = read_labelled_images(sharded, "train")
    fewer = images.without([images.names[0]]).select([5, 0])
    assert opened == []
    fewer.image(0)

    assert opened == [Path(images.names[6]).name.partition(":")[0]]
    assert fewer.names == (images.names[6], images.names[1])
    assert fewer.targets == (images.targets[6], images.targets[1])
    assert fewer.image(1).tobytes() == images.image(1).tobytes()


def test_a_set_travels_to_worker_processes_without_its_open_files(sharded: Path) -> None:
    images = read_labelled_images(sharded, "train")
    images.image(0)

    assert everything(pickle.loads(pickle.dumps(images))) == everything(images)


def test_the_order_is_free_on_a_disk_and_a_few_shards_at_a_time_from_a_server(
    url: str, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert blockwise_order.__kwdefaults__ is not None
    monkeypatch.setitem(blockwise_order.__kwdefaults__, "shards_per_block", 1)
    local, remote = read_labelled_images(sharded, "train"), read_labelled_images(url, "train")
    assert isinstance(local, LabelledShards) and isinstance(remote, LabelledShards)
    remote = remote.select([20, 0, 1, 22, 2, 9])

    order = remote.order(3, 1)

    assert local.order(3, 1).tolist() == epoch_order(3, 1, 24).tolist()
    assert sorted(order.tolist()) == [*range(6)]
    shards = remote.sources.places[order, 0].tolist()
    changes = sum(before != after for before, after in pairwise(shards))
    assert changes == len({*shards}) - 1 > 0, "each shard is used up before the next one"


def test_shards_of_masks_are_refused(tmp_path: Path) -> None:
    masks = read_segmentation(write_masks(tmp_path / "drawn"), "val")
    write_shards(masks, tmp_path / "shards")

    with pytest.raises(ValueError, match="holds photos with masks, not with one class each; read"):
        read_labelled_images(tmp_path / "shards")


def test_a_sound_set_is_checked_like_its_folder_wherever_it_lies(
    url: str, drawn: Path, sharded: Path
) -> None:
    folder, *others = (check_data("classify", path) for path in (drawn, sharded, url))

    for shards in others:
        assert shards.ok and shards.findings == folder.findings == ()
        assert shards.survey.classes == ("blue", "red")
        assert [split.to_json() for split in shards.survey.splits] == [
            split.to_json() for split in folder.survey.splits
        ]
    assert [
        split.split for split in check_data("classify", sharded, split="val").survey.splits
    ] == ["val"]
    with pytest.raises(FileNotFoundError, match="has no split 'test'; its splits: train, val"):
        check_data("classify", sharded, split="test")


def test_defects_of_shards_are_found_and_left_out(drawn: Path, tmp_path: Path) -> None:
    shutil.copy(drawn / "train" / "red" / "0.png", drawn / "val" / "blue" / "0.png")
    sharded = to_shards(drawn, tmp_path / "shards")
    images = read_labelled_images(sharded, "train")
    assert isinstance(images, LabelledShards)
    shard, offset, length = images.sources.places[1].tolist()
    tar = sharded / "train" / f"shard-{shard:06}.tar"
    content = bytearray(tar.read_bytes())
    content[offset : offset + length] = bytes(length)
    tar.write_bytes(content)

    report = check_data("classify", sharded)

    assert {finding.code for finding in report.findings} == {"image-broken", "copy-conflict"}
    assert [*report.quarantine()] == [images.names[1]]
    left = images.without(report.quarantine())
    assert len(left) == 23 and everything(left).total() == 23
    with pytest.raises(ValueError, match=r"cannot decode .*/train/shard-000000.tar:000000001"):
        images.image(1)


def test_a_class_of_the_manifest_without_photos_is_found(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = read_labelled_images(drawn, "train")
    monkeypatch.setattr("wszoo.datasets.shard_contents.LabelledContents.require", lambda *_: None)
    write_shards(images.select(range(12)), tmp_path / "shards")

    codes = {
        finding.code: finding for finding in check_data("classify", tmp_path / "shards").findings
    }

    assert codes["class-empty"].examples == (f"{tmp_path}/shards: red",)
    assert codes["class-empty"].level == "error"
