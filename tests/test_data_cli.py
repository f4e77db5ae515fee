"""Checking data sets, as a user types it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from wszoo.data_cli import check_data_command
from wszoo.datasets.quarantine import read_quarantine
from wszoo.datasets.segmentation import read_segmentation
from wszoo.weights import ASSETS

CLOTHING = ASSETS / "clothing"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(check_data_command, [str(argument) for argument in arguments])


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def roads(tmp_path: Path) -> Path:
    """Four photos of the classes 0 and 1; the mask of one holds a 7."""
    for number in range(4):
        write_image(tmp_path / f"roads/images/{number}.png", np.full((6, 8, 3), number, np.uint8))
        values = [0, 7 if number == 3 else 1] * 4
        write_image(tmp_path / f"roads/masks/{number}.png", np.array([values] * 6, np.uint8))
    return tmp_path / "roads"


def test_a_sound_set_is_told_in_two_lines() -> None:
    result = run("--task", "classify", "--data", CLOTHING, "--split", "val")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("val: 200 images; 10 classes of 20 images; ")
    assert result.stdout.endswith("to classify: ok\n")
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == ""


def test_errors_have_their_exit_code_and_are_told_as_json_too(roads: Path) -> None:
    arguments = ("--task", "segment", "--data", roads, "--classes", "sky, road")

    told, plain = run(*arguments), run(*arguments, "--json")

    assert told.exit_code == plain.exit_code == 1
    assert "error: 1 x masks with values beyond the classes (0 to 1); " in told.stdout
    facts = json.loads(plain.stdout)
    assert facts["ok"] is False and facts["classes"] == ["sky", "road"]
    assert [finding["code"] for finding in facts["findings"]] == ["mask-value"]
    assert facts["findings"][0]["images"] == [f"{roads}/images/3.png"]


def test_values_can_be_ignored(roads: Path) -> None:
    result = run("--task", "segment", "--data", roads, "--ignore", "7", "--ignore", "9")

    assert result.exit_code == 0
    assert "to segment: ok" in result.stdout


def test_what_is_quarantined_is_what_the_reader_leaves_out(roads: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.tsv"
    arguments = ("--task", "segment", "--data", roads, "--classes", "sky,road")

    result = run(*arguments, "--quarantine", listed)

    assert result.exit_code == 1
    assert result.stderr == f"1 images with errors listed: {listed}\n"
    quarantine = read_quarantine(listed)
    images = read_segmentation(roads, classes=["sky", "road"], quarantine=quarantine)
    assert len(images) == 3
    assert all(images.mask(index).max() == 1 for index in range(3))


def test_pictures_are_drawn_where_they_are_asked_for(roads: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    result = run("--task", "segment", "--data", roads, "--classes", "sky,road", "--save", out)

    names = ["classes.png", "sizes.png", "faults.png"]
    assert result.stderr == "".join(f"drawn: {out / name}\n" for name in names)
    assert {path.name for path in out.iterdir()} == set(names)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "segment", "--data", "nowhere"), "no such folder or archive: nowhere"),
        (("--task", "detect", "--data", "nowhere"), "no such folder or archive: nowhere"),
        (("--task", "classify", "--data", "nowhere"), "no such folder or archive: nowhere"),
        (
            ("--task", "classify", "--data", CLOTHING, "--split", "dev"),
            "no split 'dev'; its splits",
        ),
        (("--task", "segment", "--data", CLOTHING), "holds no images in a known layout: "),
    ],
)
def test_what_cannot_be_read_at_all_is_told_in_one_line(
    arguments: tuple[str | Path, ...], told: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == 3
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--data", "x"), "Missing option '--task'"),
        (("--task", "guess", "--data", "x"), "'guess' is not one of 'classify', 'detect'"),
        (("--task", "classify", "--data", "x", "--classes", "a,b"), "name their classes"),
        (("--task", "detect", "--data", "x", "--classes", "a,,b"), "holds an empty name"),
        (("--task", "detect", "--data", "x", "--ignore", "1"), "for the masks of --task segment"),
        (("--task", "segment", "--data", "x", "--ignore", "256"), "256 is not in the range"),
        (
            ("--task", "detect", "--data", "x", "--input-size", "9"),
            "detectors resize by",
        ),
    ],
)
def test_wrong_usage_is_told(arguments: tuple[str, ...], told: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert told in result.stderr


def test_a_list_that_cannot_be_written_is_named(roads: Path) -> None:
    result = run("--task", "segment", "--data", roads, "--quarantine", roads / "no" / "list.tsv")

    assert result.exit_code == 3
    assert "cannot write" in result.stderr and "list.tsv" in result.stderr
