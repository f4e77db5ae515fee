import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from train.recipes import RECIPES
from wszoo.datasets import LabelledImages
from wszoo.datasets.fetching import Patience
from wszoo.datasets.shard_files import LocalShards, default_cache
from wszoo.datasets.shards import ShardedImages, blockwise_order, open_shards
from wszoo.training.file_source import FileSource
from wszoo.training.runlog import RunLog
from wszoo.training.sampler import epoch_order

QUICK = Patience(attempts=2, pause=0.01, timeout=5)


class Site(ThreadingHTTPServer):
    """A folder as ``python -m http.server`` shows it, which knows no parts of files."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/shards"


class Handler(SimpleHTTPRequestHandler):
    server: Site

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on standard error."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path.rpartition("/")[2])
        super().do_GET()


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    with Site(folder.parent) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield site
        site.shutdown()
        thread.join()


def everything(images: ShardedImages | LabelledImages) -> Counter[tuple[str, bytes]]:
    """Class and pixels of all photos."""
    return Counter(
        (images.classes[images.targets[n]], images.image(n).tobytes()) for n in range(len(images))
    )


def test_shards_hold_the_photos_that_they_were_made_from(
    photos: LabelledImages, folder: Path
) -> None:
    images = open_shards(folder)

    assert images.classes == photos.classes
    assert len(images) == len(images.names) == len(images.targets) == len(photos)
    assert everything(images) == everything(photos)
    assert images.targets.dtype == np.int64


def test_a_folder_is_named_by_itself_or_by_its_manifest(folder: Path) -> None:
    for path in (folder, str(folder), folder / "manifest.json", f"{folder}/"):
        assert open_shards(path).names[0] == "shard-000000.tar:000000000.jpg"


def test_threads_may_read_more_shards_than_stay_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalShards, "open_at_once", 2)
    images = open_shards(folder)
    alone = [images.read(n) for n in range(len(images))]
    before = len(os.listdir("/proc/self/fd"))

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(images.read, [*range(len(images))] * 20))

    assert together == alone * 20
    assert len(images.manifest.shards) > 4
    assert len(os.listdir("/proc/self/fd")) <= before


def test_shards_pickle_without_their_open_files(folder: Path) -> None:
    images = open_shards(folder)
    first = images.read(0)

    again = pickle.loads(pickle.dumps(images))

    assert again.read(0) == first
    assert everything(again) == everything(images)


def test_files_are_closed_with_the_set(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    images = open_shards(folder)

    images.read(0)

    assert len(os.listdir("/proc/self/fd")) == before + 1
    del images
    assert len(os.listdir("/proc/self/fd")) == before


WORKERS = """
import sys
from torch.utils.data import DataLoader, Dataset
from wszoo.datasets.shards import ShardedImages, open_shards

class Digests(Dataset):
    def __init__(self, images): self.images = images
    def __len__(self): return len(self.images)
    def __getitem__(self, index): return hash(self.images.read(index))

if __name__ == "__main__":
    images = open_shards(sys.argv[1])
    alone = [hash(images.read(n)) for n in range(len(images))]
    loader = DataLoader(
        Digests(images), batch_size=None, num_workers=2, multiprocessing_context=sys.argv[2]
    )
    assert list(loader) == alone
    print("same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_what_their_parent_reads(context: str, folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)

    run = subprocess.run(
        [sys.executable, str(script), str(folder), context],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert run.stdout == "same\n", run.stderr


def test_a_shard_that_is_cut_short_is_named_with_the_first_sample_lost(folder: Path) -> None:
    images = open_shards(folder)
    row = images.index[images.index["shard"] == 1][2]
    shard = folder / "shard-000001.tar"
    os.truncate(shard, int(row["offset"]) + 10)
    lost = int(np.flatnonzero(images.index["shard"] == 1)[2])

    with pytest.raises(
        ValueError, match=rf"{shard} is damaged: it has \d+ bytes, .* says 40960, c"
    ):
        open_shards(folder)
    with pytest.raises(ValueError, match=rf"cut short at shard-000001.tar:{lost:09}.jpg; copy"):
        open_shards(folder)
    with pytest.raises(ValueError, match=rf"{shard}:{lost:09}.jpg is cut short: 10 of \d+ bytes"):
        images.image(lost)


def test_a_shard_of_another_size_that_lost_no_sample_is_refused_too(folder: Path) -> None:
    os.truncate(folder / "shard-000001.tar", 50_000)

    with pytest.raises(ValueError, match="it has 50000 bytes, the manifest says 40960; copy this"):
        open_shards(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "shard-000001.tar").unlink()

    with pytest.raises(FileNotFoundError, match=f"no such shard: {folder}/shard-000001.tar; copy"):
        open_shards(folder)


def test_a_photo_that_is_damaged_is_named_with_its_shard_and_key(folder: Path) -> None:
    row = open_shards(folder).index[7]
    with (folder / "shard-000000.tar").open("r+b") as file:
        file.seek(int(row["offset"]))
        file.write(bytes(int(row["length"])))
    images = open_shards(folder)

    with pytest.raises(ValueError, match=rf"cannot decode {folder}/shard-000000.tar:000000007.jpg"):
        images.image(7)

    assert images.image(6).mode == "RGB"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("share", [1.1, 2.1])  # up to twice the limit Pillow warns only
def test_a_decompression_bomb_is_refused_by_its_name(
    share: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_shards(folder)
    width, height = images.image(0).size
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(width * height / share))

    with pytest.raises(ValueError, match=r"cannot decode .*/shard-000000.tar:000000000.jpg.* bomb"):
        images.image(0)


def test_a_path_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no manifest.json in {tmp_path}/gone"):
        open_shards(tmp_path / "gone")
    with pytest.raises(ValueError, match="'s3://bucket/set' is no http:// or https:// address"):
        open_shards("s3://bucket/set")


def test_a_server_gives_the_same_photos(folder: Path, site: Site, tmp_path: Path) -> None:
    local = open_shards(folder)

    remote = open_shards(site.url, cache=tmp_path / "cache", patience=QUICK)

    assert list(remote.names) == list(local.names)
    assert remote.classes == local.classes
    assert [remote.read(n) for n in range(len(remote))] == [
        local.read(n) for n in range(len(local))
    ]
    assert pickle.loads(pickle.dumps(remote)).image(3) == local.image(3)


def test_only_the_shards_in_use_are_fetched_and_each_once(site: Site, tmp_path: Path) -> None:
    images = open_shards(f"{site.url}/manifest.json", cache=tmp_path / "cache", patience=QUICK)
    assert site.asked == ["manifest.json", "index.npy"]

    for number in (0, 1, len(images) - 1, 0):
        images.image(number)

    last = images.manifest.shards[-1].name
    assert site.asked[2:] == ["shard-000000.tar", last]
    again = open_shards(site.url, cache=tmp_path / "cache", patience=QUICK)
    again.image(0)
    assert site.asked[4:] == ["manifest.json"], "the rest is in the cache"


def test_a_shard_that_a_server_does_not_give_is_named_by_its_address(
    site: Site, folder: Path, tmp_path: Path
) -> None:
    images = open_shards(site.url, cache=tmp_path / "cache", patience=QUICK)
    (folder / "shard-000000.tar").rename(folder / "elsewhere.tar")

    with pytest.raises(ConnectionError, match=f"fetch {site.url}/shard-000000.tar: status 404 Not"):
        images.image(0)


def test_a_cache_smaller_than_two_blocks_is_refused(site: Site, tmp_path: Path) -> None:
    images = open_shards(site.url, cache=tmp_path / "cache", patience=QUICK)
    needed = sum(shard.bytes for shard in images.manifest.shards)

    with pytest.raises(ValueError, match=f"cache_bytes is {needed - 1}, but {needed} are in use"):
        open_shards(site.url, cache=tmp_path / "cache", cache_bytes=needed - 1, patience=QUICK)


def test_the_cache_of_a_user_is_taken_unless_one_is_named(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))

    open_shards(site.url, patience=QUICK)

    assert default_cache() == tmp_path / "mine" / "wszoo" / "shards"
    assert len([*default_cache().glob("[0-9a-f]*[0-9a-f]")]) == 1, "the index"


COUNTS = [30, 1, 20, 50, 7, 40, 25, 3, 60, 10]


def test_a_blockwise_order_has_every_sample_once() -> None:
    order = blockwise_order(0, 0, COUNTS, shards_per_block=3)

    assert sorted(order.tolist()) == list(range(sum(COUNTS)))


def test_a_blockwise_order_uses_few_shards_at_a_time() -> None:
    order = blockwise_order(1, 2, COUNTS, shards_per_block=3)

    shard_of = np.repeat(np.arange(len(COUNTS)), COUNTS)[order]
    places = [np.flatnonzero(shard_of == shard) for shard in range(len(COUNTS))]
    in_use = [sum(p[0] <= place <= p[-1] for p in places) for place in range(len(order))]
    assert max(in_use) == 3


def test_a_blockwise_order_is_mixed_inside_its_blocks() -> None:
    order = blockwise_order(0, 0, [100] * 8, shards_per_block=4)

    first = np.bincount(order[:100] // 100, minlength=8)

    assert sorted(first)[4] > 10, "a hundred samples of all four shards of the block"
    assert not np.array_equal(order, np.sort(order))


def test_a_blockwise_order_is_a_function_of_its_arguments() -> None:
    first = blockwise_order(3, 4, COUNTS)

    assert np.array_equal(first, blockwise_order(3, 4, tuple(COUNTS)))
    for seed, epoch, counts in ((2, 4, COUNTS), (3, 5, COUNTS), (3, 4, [*COUNTS[1:], COUNTS[0]])):
        assert not np.array_equal(first, blockwise_order(seed, epoch, counts))
    assert blockwise_order(0, 0, [3, 2, 4], shards_per_block=2).tolist() == [
        6,
        5,
        3,
        7,
        4,
        8,
        1,
        2,
        0,
    ]


def test_a_block_of_no_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="shards_per_block must be at least 1, got 0"):
        blockwise_order(0, 0, COUNTS, shards_per_block=0)


def test_the_order_is_free_on_a_disk_and_blockwise_from_a_server(
    folder: Path, site: Site, tmp_path: Path, photos: LabelledImages
) -> None:
    local = open_shards(folder)
    remote = open_shards(site.url, cache=tmp_path / "cache", patience=QUICK)
    counts = [shard.count for shard in local.manifest.shards]

    assert np.array_equal(local.order(5, 6), epoch_order(5, 6, len(photos)))
    assert np.array_equal(remote.order(5, 6), blockwise_order(5, 6, counts))
    assert local.fetched().tolist() == [0]
    assert remote.fetched().tolist() == [0, *np.cumsum(counts)[:-1]]


def test_a_source_mixes_photos_of_one_shard_where_shards_have_to_be_fetched(
    folder: Path, site: Site, tmp_path: Path
) -> None:
    remote = open_shards(site.url, cache=tmp_path / "cache", patience=QUICK)
    starts, count = remote.fetched(), len(remote)
    chosen = np.setdiff1d(np.arange(count), np.arange(starts[1], starts[2]))  # but for a shard
    log = RunLog(tmp_path / "log", title="test")
    held, recipe, cpu = (remote, np.arange(2)), RECIPES["smoke"], torch.device("cpu")

    source = FileSource(remote, chosen, held, recipe, cpu, workers=0, log=log)

    shard = np.searchsorted(starts, chosen, "right")
    expected = [0, *(np.flatnonzero(np.diff(shard)) + 1)]
    assert source.stretches().tolist() == expected
