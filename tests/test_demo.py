import io
import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from wszoo import demo, demo_detection
from wszoo.cli import main
from wszoo.datasets import read_labelled_images
from wszoo.demo import DemoResult, caption_of
from wszoo.demo_detection import BOUND, CellsFound
from wszoo.weights import ASSETS


def test_the_packaged_sample_has_enough_photos_and_its_licence() -> None:
    train = read_labelled_images(ASSETS / "clothing", "train")
    held_out = read_labelled_images(ASSETS / "clothing", "val")

    assert len(train.classes) == 10
    assert held_out.classes == train.classes
    assert len(held_out) >= 150
    assert not set(train.sources) & set(held_out.sources)
    assert "CC0 1.0 Universal" in (ASSETS / "clothing" / "LICENSE").read_text()
    size = sum(path.stat().st_size for path in (ASSETS / "clothing").iterdir())
    assert size < 2_000_000


def result_of(*, pretrained: float, ap50: float) -> DemoResult:
    cells = CellsFound(untrained=0.1, ap50=ap50, per_class={"RBC": ap50}, photos=36, objects=503)
    return DemoResult(pretrained=pretrained, random=50.0, photos=200, margin=9.9, cells=cells)


@pytest.mark.parametrize(("pretrained", "passed"), [(70.0, True), (55.0, False), (40.0, False)])
def test_only_a_lead_beyond_two_standard_errors_passes(pretrained: float, passed: bool) -> None:
    result = result_of(pretrained=pretrained, ap50=BOUND + 1)

    assert result.passed is passed
    assert result.to_json()["passed"] is passed


def test_a_demo_that_finds_no_cells_fails() -> None:
    result = result_of(pretrained=70.0, ap50=BOUND)

    assert not result.passed
    assert [line.split(":")[0] for line in str(result).splitlines()] == [
        "pretraining helps",
        f"the detector misses cells, AP50 is not above {BOUND:g} %",
    ]
    assert result.to_json()["cells"]["ap50"] == BOUND
    assert result.to_json()["passed"] is False


def few_cells(path: Path) -> Path:
    """The packaged cells with lists of two photos each."""
    with (
        tarfile.open(ASSETS / "bccd" / "bccd.tar.xz") as packaged,
        tarfile.open(path, "w") as small,
    ):
        for member in packaged:
            file = packaged.extractfile(member)
            assert file is not None
            content = file.read()
            if member.name.endswith(".txt"):
                content = b"\n".join(content.split()[:2])
            member.size = len(content)
            small.addfile(member, io.BytesIO(content))
    return path


def test_a_short_demo_draws_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MODEL", "test_resnet_gn_ws")
    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(demo_detection, "EPOCHS", 1)
    monkeypatch.setattr(demo_detection, "CELLS", few_cells(tmp_path / "cells.tar"))

    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path), "--json"])

    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["passed"] else 1)
    assert report["photos"] == 200
    cells = report["cells"]
    assert cells["photos"] == 2 and cells["objects"] > 2
    assert 0 <= cells["ap50"] <= 100 and set(cells["per_class"]) <= {"Platelets", "RBC", "WBC"}
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {
        "cells.png",
        "classified.png",
        "confusion.png",
        "learning_curves.png",
        "predictions.png",
    }


def test_a_wrong_prediction_names_the_true_class() -> None:
    classes = ["dress", "hat"]

    assert caption_of(classes, 1, 0.876, 1) == "hat 88 %"
    assert caption_of(classes, 0, 0.5, 1) == "dress 50 %\ntruth: hat"


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "file" / "demo")])

    assert result.exit_code == 3 and not result.stdout
    assert result.stderr == (
        f"wszoo: cannot make the folder {tmp_path / 'file' / 'demo'}: Not a directory; name "
        f"another one\n"
    )
