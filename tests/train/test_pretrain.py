import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from train.pretrain import Photos, main
from train.recipes import RECIPES
from wszoo.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 40 noisy photos that differ in colour."""
    root = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for channel, name in enumerate("abc"):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for index in range(40):
            pixels = noise.integers(0, 120, (64, 64, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return root


def command(data: Path, output: Path, *more: str) -> list[str]:
    model = ["--model", "test_resnet_gn_ws", "--recipe", "smoke"]
    return [*model, "--data", str(data), "--output-dir", str(output), *more]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    loaded = load_checkpoint(run)
    assert loaded is not None
    weights: dict[str, torch.Tensor] = loaded[0]["model"]
    return weights


def test_a_run_resumed_at_an_epoch_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"

    assert CliRunner().invoke(main, command(data, whole)).exit_code == 0
    assert CliRunner().invoke(main, command(data, halves, "--epochs", "1")).exit_code == 0
    assert CliRunner().invoke(main, command(data, halves)).exit_code == 0

    resumed = weights_of(halves)
    for key, value in weights_of(whole).items():
        assert torch.equal(value, resumed[key]), key
    logged = [json.loads(line) for line in (halves / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in logged] == [1, 2]


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_saves_and_ends_with_the_same_bits(
    data: Path, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert CliRunner().invoke(main, command(data, whole)).exit_code == 0

    words = [sys.executable, "-m", "train.pretrain", *command(data, stopped, "--save-minutes", "0")]
    run = subprocess.Popen(
        words,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(stopped.glob("step-*")) and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=120)
    loaded = load_checkpoint(stopped)

    assert run.returncode == 4
    assert "repeat the command to go on" in errors
    assert loaded is not None
    assert 0 < loaded[0]["step"] < 10
    assert CliRunner().invoke(main, command(data, stopped)).exit_code == 0
    resumed = weights_of(stopped)
    for key, value in weights_of(whole).items():
        assert torch.equal(value, resumed[key]), key


def test_a_folder_of_another_run_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert CliRunner().invoke(main, command(data, run, "--epochs", "1")).exit_code == 0

    other = [*command(data, run)[:3], "e3_tin200", *command(data, run)[4:]]
    result = CliRunner().invoke(main, other)

    assert result.exit_code == 3
    assert "holds a run with recipe 'smoke', not 'e3_tin200'" in result.stderr
    assert weights_of(run)  # what was there stays


def test_an_unknown_model_is_a_usage_error(data: Path, tmp_path: Path) -> None:
    words = ["--model", "resnet19_gn_ws", *command(data, tmp_path)[2:]]

    result = CliRunner().invoke(main, words)

    assert result.exit_code == 2
    assert "resnet19_gn_ws" in result.output


def test_every_epoch_is_logged_once_even_if_the_log_ran_ahead(data: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(main, command(data, tmp_path / "run", "--epochs", "1")).exit_code == 0
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(log.read_text() * 2)

    assert CliRunner().invoke(main, command(data, tmp_path / "run")).exit_code == 0

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_another_data_set_beside_a_run_is_not_taken_for_the_first(
    data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "data" / "train"
    for name in ("x", "y"):
        (other / name).mkdir(parents=True)
        for index in range(30):
            Image.new("RGB", (64, 64)).save(other / name / f"{index}.png")

    first = Photos(data, "train", tmp_path / "cache")
    second = Photos(tmp_path / "data", "train", tmp_path / "cache")

    assert first.classes == ["a", "b", "c"]
    assert second.classes == ["x", "y"]


def test_the_photos_chosen_by_are_never_trained_on(data: Path, tmp_path: Path) -> None:
    photos = Photos(data, "train", tmp_path)

    train, held = photos.hold_out()

    assert len(held) == 3 * 25
    assert not set(train) & set(held)
    assert len(train) + len(held) == len(photos.targets)


@pytest.mark.parametrize("name", RECIPES)
def test_the_rate_of_every_recipe_rises_then_falls_to_almost_nothing(name: str) -> None:
    recipe, steps = RECIPES[name], 10_000

    rates = [recipe.rate_at(step, steps) for step in range(steps)]

    assert max(rates) == 1
    assert 0 < rates[-1] < 1e-3
    assert rates.index(1) == recipe.warmup_steps - 1
    with pytest.raises(ValueError, match=f"there is no epoch {recipe.epochs}"):
        recipe.size_at(recipe.epochs)
