"""Making and checking shards, as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.photo_sets import write_masks
from wszoo.datasets.segmentation import read_segmentation
from wszoo.datasets.shard_manifest import read_manifest
from wszoo.shards_cli import shards
from wszoo.weights import ASSETS

CLOTHING = ASSETS / "clothing"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(shards, [str(argument) for argument in arguments])


def test_what_is_made_is_found_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"

    made = run("make", CLOTHING, "-o", out, "--split", "val", "--bytes-per-shard", "200 kB")
    checked = run("check", out, "--decode")

    assert made.exit_code == 0, made.output
    shards_made = len(list(out.glob("*.tar")))
    size = sum(path.stat().st_size for path in out.glob("*.tar"))
    assert made.stdout == f"{out}: 200 images of 10 classes in {shards_made} shards, {size} bytes\n"
    assert len(made.stderr.splitlines()) == shards_made > 3, "one line each where there is no bar"
    assert checked.exit_code == 0
    assert checked.stdout.endswith(" MiB: ok, every image decoded\n")


def test_both_report_as_json(tmp_path: Path) -> None:
    out = tmp_path / "out"

    made = run("make", CLOTHING / "clothing-val.tar.xz", "-o", out, "--json")
    checked = run("check", out, "--json")

    facts = json.loads(made.stdout)
    assert facts["images"] == 200 and facts["quarantined"] == 0 and facts["shards"] == 1
    assert json.loads(checked.stdout).items() >= {"images": 200, "ok": True, "findings": []}.items()


def test_shards_of_masks_are_made_split_by_split_and_are_a_data_set(tmp_path: Path) -> None:
    drawn, out = write_masks(tmp_path / "drawn with spaces, ü"), tmp_path / "shards"

    made = [
        run("make", drawn, "-o", out / split, "--split", split, "--task", "segment")
        for split in ("train", "val")
    ]
    checked = run("check", out / "train", "--decode", "--json")

    assert [each.exit_code for each in made] == [0, 0], made[0].output
    assert made[0].stdout.startswith(f"{out / 'train'}: 6 images of 2 classes in 1 shards, ")
    assert json.loads(checked.stdout)["ok"] is True
    assert [len(read_segmentation(out, split)) for split in ("train", "val")] == [6, 3]


def test_values_of_masks_are_named_and_ignored_as_in_other_commands(tmp_path: Path) -> None:
    drawn, out = write_masks(tmp_path / "drawn"), tmp_path / "out"
    words = ("make", drawn, "-o", out, "--split", "val", "--task", "segment")

    made = run(*words, "--classes", "void,box,sky", "--ignore", "0")

    assert made.exit_code == 0, made.output
    images = read_segmentation(out)
    assert (images.classes, images.values) == (("box", "sky"), (1, 2))


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ((), 3, "holds images and masks, which are no classes; give --task segment"),
        (("--classes", "a,b"), 2, "it is for the masks of --task segment"),
        (("--ignore", "3"), 2, "it is for the masks of --task segment"),
        (("--task", "segment", "--classes", "a,,b"), 2, "'a,,b' holds an empty name"),
        (("--task", "detect"), 2, "'detect' is not one of 'classify', 'segment'"),
    ],
)
def test_masks_are_not_taken_for_classes(
    more: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    drawn = write_masks(tmp_path / "drawn")

    result = run("make", drawn, "-o", tmp_path / "out", "--split", "val", *more)

    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Two photos, one of which is none."""
    (tmp_path / "data" / "hat").mkdir(parents=True)
    (tmp_path / "data" / "hat" / "text.jpg").write_text("hello")
    photo = read_a_photo()
    (tmp_path / "data" / "hat" / "photo.jpg").write_bytes(photo)
    return tmp_path / "data"


def read_a_photo() -> bytes:
    from wszoo.datasets import read_labelled_images

    source = read_labelled_images(CLOTHING, "val").sources[0]
    assert isinstance(source, bytes)
    return source


def test_broken_photos_stop_it_unless_they_are_to_be_left_out(broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    stopped = run("make", broken, "-o", out)
    made = run("make", broken, "-o", out, "--quarantine")

    assert stopped.exit_code == 3
    assert stopped.stderr.startswith("wszoo: 1 of 2 images cannot be decoded: ")
    assert "text.jpg (it is no image of a known format); mend or remove them" in stopped.stderr
    assert len(stopped.stderr.splitlines()) == 1
    assert made.exit_code == 0
    assert made.stdout.endswith(f"\n1 left out, see {out}/quarantine.tsv\n")
    assert "1 images (1 left out) of 1 classes" in run("check", out).stdout


def test_a_failed_check_has_its_exit_code_and_lists_everything(
    broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("make", broken, "-o", out, "--quarantine").exit_code == 0
    os.truncate(out / "shard-000000.tar", 9999)

    for arguments in ((), ("--json",)):
        result = run("check", out, *arguments)

        assert result.exit_code == 1
        assert "shard-000000.tar has 9999 bytes, the manifest says 10240" in result.stdout


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024", 1024), ("1.5kB", 1500), ("2 MiB", 2**21), ("3gb", 3 * 10**9), ("1TiB", 2**40)],
)
def test_sizes_are_given_with_their_units(
    text: str, size: int, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(
        "wszoo.datasets.shard_writing.write_shards",
        lambda *_, bytes_per_shard, **__: given.append(bytes_per_shard),
    )

    run("make", broken, "-o", tmp_path / "out", "--bytes-per-shard", text)

    assert given == [size]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "x"], "Missing option '-o'"),
        (["make", "x", "-o", "y", "--bytes-per-shard", "many"], "'many' is no size; write it as 2"),
        (["make", "x", "-o", "y", "--bytes-per-shard", "0MB"], "'0MB' is no size"),
        (["make", "x", "-o", "y", "--bytes-per-shard", "5 XB"], "'5 XB' is no size"),
        (["check"], "Missing argument 'PATH|URL'"),
        (["mend"], "No such command 'mend'"),
    ],
    ids=" ".join,
)
def test_a_typing_mistake_is_a_usage_error(arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "nowhere", "-o", "y"], "no such folder or archive: nowhere"),
        (["make", str(CLOTHING), "-o", "y"], "several splits (train, val); name one"),
        (["check", "nowhere"], "no manifest.json in nowhere"),
        (["check", "ftp://host/set"], "'ftp://host/set' is no http:// or https:// address"),
    ],
    ids=" ".join,
)
def test_bad_data_is_named_in_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 3
    assert result.stderr.startswith("wszoo: ") and message in result.stderr
    assert len(result.stderr.splitlines()) == 1


# Every shard takes a twentieth of a second more, so that there is time to interrupt it.
SLOW_MAKER = """
import os, time
fsync = os.fsync
def slow(fd):
    time.sleep(0.05)
    fsync(fd)
os.fsync = slow
from wszoo.shards_cli import shards
shards()
"""


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    words = ["make", CLOTHING, "-o", tmp_path / "out", "--split", "train"]
    sizes = ["--bytes-per-shard", "1"]  # a shard for each photo takes its time
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_MAKER, *map(str, words), *sizes],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not [*tmp_path.glob(".out.partial/*.tar")] and process.poll() is None:
        time.sleep(0.01)

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 4
    assert errors.endswith("wszoo: stopped\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_maker_leaves_nothing_that_looks_whole_and_the_next_one_clears_it(
    broken: Path, tmp_path: Path
) -> None:
    words = ["make", CLOTHING, "-o", tmp_path / "out", "--split", "train"]
    sizes = ["--bytes-per-shard", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_MAKER, *map(str, words), *sizes], stderr=subprocess.DEVNULL
    )
    while not [*tmp_path.glob(".out.partial/*.tar")] and process.poll() is None:
        time.sleep(0.01)

    process.kill()
    process.wait(60)

    assert not (tmp_path / "out").exists()
    assert not [*tmp_path.glob("**/manifest.json")]
    assert run("make", broken, "-o", tmp_path / "out", "--quarantine").exit_code == 0
    assert read_manifest(tmp_path / "out").index.count == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
