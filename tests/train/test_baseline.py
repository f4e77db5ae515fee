import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image

from train import baseline, publish
from train.recipes import RECIPES
from wszoo.cards import read_results
from wszoo.cards.pretrained import read_pretrained
from wszoo.training.checkpoint import save_checkpoint

MODEL, RECIPE = "test_resnet", "once_tin200"  # of timm, with BatchNorm


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Of two classes, four to learn from and two to be judged by."""
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for name in ("a", "b"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "data"


def make_run(root: Path, model: str) -> Path:
    """A finished run of one epoch."""
    folder = root / "run"
    net = timm.create_model(model, num_classes=2)
    save_checkpoint(folder, 1, {"learner": {"model": net.state_dict(), "ema": None}})
    settings = json.loads(json.dumps(asdict(RECIPES[RECIPE])))
    facts = {"model": model, "recipe": RECIPE, "settings": settings, "code": "0123abc"}
    (folder / "run.json").write_text(json.dumps({**facts, "hardware": "1 CPU thread"}))
    (folder / "plan.json").write_text(json.dumps({"batch": "256 = 64 per pass x 1 rank"}))
    row = {"epoch": 1, "step": 1, "pixels": 64, "loss": 0.7, "held_out_top1": 50.0, "seconds": 60.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders in the place of ``model_cards``."""
    for module in (publish, baseline):
        monkeypatch.setattr(module, "CARDS", tmp_path / "cards")
    recipe = replace(RECIPES["e3_tin200"], phases=((1, 64),), held_out_per_class=1)
    monkeypatch.setitem(RECIPES, RECIPE, recipe)
    return tmp_path / "cards"


def test_a_net_with_batch_norm_is_kept_as_timm_loads_it(
    tmp_path: Path, places: Path, photos: Path
) -> None:
    run = make_run(tmp_path, MODEL)

    result = CliRunner().invoke(baseline.main, [str(run), "--data", str(photos)])

    assert result.exit_code == 0, result.output
    folder = places / f"{MODEL}.{RECIPE}"
    results = read_results(folder)
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    trained = timm.create_model(MODEL, num_classes=2).eval()
    trained.load_state_dict(read_pretrained(run).state_dict)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), trained(images), rtol=1e-2, atol=1e-2)
    cfg = model.pretrained_cfg
    assert list(cfg["input_size"]) == [3, results["pixels"], results["pixels"]]
    assert list(cfg["mean"]) == [0.485, 0.456, 0.406]
    card = (folder / "README.md").read_text()
    assert "256 = 64 per pass x 1 rank; BatchNorm sees those of one pass" in card
    assert f"Top-1 {results['evaluation']['top1']} %" in card
    assert f"{MODEL} --recipe {RECIPE} --micro-batch-size 64 --data DIR" in card
    assert (folder / "curves.png").exists()
    assert "the zoo has no weights by this recipe yet" in result.output


def test_a_net_of_the_zoo_is_no_baseline(tmp_path: Path, places: Path, photos: Path) -> None:
    run = make_run(tmp_path, "test_resnet_gn_ws")

    result = CliRunner().invoke(baseline.main, [str(run), "--data", str(photos)])

    assert result.exit_code == 3
    assert "which is of this zoo; use train.publish" in result.output


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path, places: Path, photos: Path) -> None:
    run = make_run(tmp_path, MODEL)
    (run / "metrics.jsonl").write_text("")

    result = CliRunner().invoke(baseline.main, [str(run), "--data", str(photos)])

    assert result.exit_code == 3
    assert "has 0 of 1 epochs; repeat its command" in result.output


def test_the_committed_baseline_has_the_card_that_its_results_render() -> None:
    folder = publish.CARDS / "resnet18.e14_tin200"

    assert (folder / "README.md").read_text() == baseline.baseline_card(
        folder.name, read_results(folder), 200
    )


def test_the_cards_of_the_zoo_are_told_of_it(tmp_path: Path) -> None:
    path = tmp_path / baseline.FINDING
    other = {"weights": "resnet50_gn_ws.*", "topic": "batch_norm_twin"}
    path.write_text(json.dumps({"cards": [other]}))

    for _ in range(2):
        assert baseline.write_finding(publish.CARDS / "resnet18.e14_tin200", path)

    kept, new = json.loads(path.read_text())["cards"]
    assert kept == other
    assert new["weights"] == "resnet18_gn_ws.*"
    assert (
        "52.24 % top-1 at 80 pixels, where GN+WS by that recipe reached 50.74 %" in new["finding"]
    )
    committed = publish.CARDS / "studies" / baseline.FINDING
    assert json.loads(committed.read_text())["cards"] == [new]
