import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from wszoo import demo
from wszoo.cli import main
from wszoo.datasets import read_labelled_images
from wszoo.demo import DemoResult
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


@pytest.mark.parametrize(("pretrained", "passed"), [(70.0, True), (55.0, False), (40.0, False)])
def test_only_a_lead_beyond_two_standard_errors_passes(pretrained: float, passed: bool) -> None:
    result = DemoResult(pretrained=pretrained, random=50.0, photos=200, margin=9.9)

    assert result.passed is passed
    assert result.to_json()["passed"] is passed


def test_a_short_demo_draws_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MODEL", "test_resnet_gn_ws")
    monkeypatch.setattr(demo, "EPOCHS", 1)

    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path), "--json"])

    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["passed"] else 1)
    assert report["photos"] == 200
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {
        "classified.png",
        "confusion.png",
        "learning_curves.png",
        "predictions.png",
    }
