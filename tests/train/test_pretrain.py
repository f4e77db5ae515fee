import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from PIL import Image

from train.pretrain import build, main, make_model
from train.recipes import RECIPES
from wszoo.datasets import read_labelled_images
from wszoo.datasets.shard_writing import write_shards
from wszoo.training.checkpoint import load_checkpoint
from wszoo.training.distributed import Ranks
from wszoo.training.recipe import make_optimizer

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


def command(data: Path, output: Path, *more: str, recipe: str = "smoke") -> list[str]:
    words = ["test_resnet_gn_ws", "--recipe", recipe, "--data", str(data), "--out", str(output)]
    return [*words, "--channels-last", "off", *more]


def call(data: Path, output: Path, *more: str) -> Result:
    return CliRunner().invoke(main, command(data, output, *more))


def state_of(run: Path) -> dict[str, Any]:
    loaded = load_checkpoint(run)
    assert loaded is not None
    return loaded[0]


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (state_of(run)["learner"] for run in (one, other))
    for part in ("model", "ema"):
        for key in first[part] or ():
            assert torch.equal(first[part][key], second[part][key]), (part, key)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    result = call(data, run)
    assert result.exit_code == 0, result.output
    return run


def test_a_run_resumed_at_an_epoch_ends_with_the_same_bits(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "halves"

    assert call(data, run, "--epochs", "1").exit_code == 0
    result = call(data, run)

    assert result.exit_code == 0
    assert "resumed at   step 5" in result.output
    assert_same_weights(whole, run)
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in logged] == [1, 2]


def test_accumulated_passes_end_where_whole_batches_end(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    result = call(data, run, "--micro-batch-size", "2")

    assert "8 = 2 per pass x 1 rank x 4 accumulated" in result.output
    rows = [json.loads((r / "metrics.jsonl").read_text().splitlines()[0]) for r in (whole, run)]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=0.01)  # in bf16


def test_the_plan_and_the_report_tell_what_is_trained(whole: Path) -> None:
    plan = json.loads((whole / "plan.json").read_text())
    facts = json.loads((whole / "run.json").read_text())

    assert plan["photos"] == "45 of 3 classes; 75 kept to choose by"
    assert plan["steps"].startswith("10 = 2 epochs x 5")
    assert facts["settings"]["batch_size"] == 8
    assert facts["channels_last"] is False
    for name in ("report.md", "curves.png", "metrics.csv", "starts.jsonl", "gauges.jsonl"):
        assert (whole / name).stat().st_size, name


def test_a_folder_of_another_run_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call(data, run, "--epochs", "1").exit_code == 0

    other = CliRunner().invoke(main, command(data, run, recipe="faults"))
    changed = data.parent / "changed" / "train"
    for name in "abc":
        (changed / name).mkdir(parents=True)
        for photo in (data / "train" / name).iterdir():
            (changed / name / f"new-{photo.name}").write_bytes(photo.read_bytes())
    moved = call(changed.parent, run)

    assert other.exit_code == moved.exit_code == 3
    assert "holds a run with recipe 'smoke', not 'faults'; settings.phases [[1, 32]" in other.stderr
    assert "data.digest" in moved.stderr
    assert state_of(run), "what was there stays"


def test_a_run_that_is_to_start_anew_never_goes_on(data: Path, whole: Path) -> None:
    result = call(data, whole, "--resume", "never")

    assert result.exit_code == 3
    assert "holds checkpoints, the newest step-00000010; name another folder" in result.stderr


def test_a_recipe_that_names_a_tag_starts_from_its_weights() -> None:
    recipe = replace(RECIPES["smoke"], start_tag="e3_tin200")

    model = make_model("test_resnet_gn_ws", recipe, num_classes=200)

    published = timm.create_model("test_resnet_gn_ws.e3_tin200", pretrained=True)
    for given, wanted in zip(model.parameters(), published.parameters(), strict=True):
        assert torch.equal(given, wanted)


def test_a_linear_probe_trains_the_classifier_alone() -> None:
    recipe = replace(RECIPES["smoke"], linear_probe=True)

    model = make_model("test_resnet_gn_ws", recipe, 3)

    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["fc.weight", "fc.bias"]
    groups = make_optimizer(model, recipe).param_groups
    assert [p.ndim for group in groups for p in group["params"]] == [2, 1]


@pytest.mark.slow
def test_shards_behind_a_url_are_gone_on_with_bit_by_bit(data: Path, tmp_path: Path) -> None:
    write_shards(read_labelled_images(data), tmp_path / "web" / "train", bytes_per_shard=100_000)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for run, parts in (("alone", ["10"]), ("parts", ["1", "10"])):
            for epochs in parts:
                words = command(data, tmp_path / run, "--epochs", epochs, recipe="faults")
                words[words.index(str(data))] = url
                result = CliRunner().invoke(main, [*words, "--workers", "0"])
                assert result.exit_code == 0, result.output
        server.shutdown()

    assert_same_weights(tmp_path / "alone", tmp_path / "parts")


def test_batch_norm_is_refused_on_several_ranks(data: Path, tmp_path: Path) -> None:
    options = {"micro_batch_size": None, "log_every": 50, "tensorboard": False, "workers": 0}

    with pytest.raises(ValueError, match="resnet10t has BatchNorm, .*; train it with one rank"):
        build("resnet10t", "faults", str(data), tmp_path, Ranks(rank=0, size=2), options)


def test_shards_are_refused_by_a_recipe_that_stores_photos(data: Path, tmp_path: Path) -> None:
    write_shards(read_labelled_images(data), tmp_path / "shards")

    for place in (str(tmp_path / "shards"), "http://localhost/shards"):
        words = command(data, tmp_path / "run")
        words[words.index(str(data))] = place
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 3
        assert "takes folders" in result.stderr


def test_a_batch_that_does_not_fit_is_told_before_the_start(data: Path, tmp_path: Path) -> None:
    result = call(data, tmp_path / "run", "--micro-batch-size", "3")

    assert result.exit_code == 3
    assert "a batch of 8 is not a multiple of 3 images per pass" in result.stderr


def test_too_few_photos_are_told_before_the_start(tmp_path: Path) -> None:
    for name in "ab":
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for index in range(27):
            Image.new("RGB", (64, 64)).save(folder / f"{index}.png")

    result = call(tmp_path / "data", tmp_path / "run")

    assert result.exit_code == 3
    assert "4 images do not fill one batch of 8" in result.stderr


def test_an_unknown_model_is_a_usage_error(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["resnet19_gn_ws", *command(data, tmp_path)[1:]])

    assert result.exit_code == 2
    assert "resnet19_gn_ws" in result.output


def test_a_folder_that_cannot_be_made_is_told(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file, not a folder")

    result = call(data, tmp_path / "run")

    assert result.exit_code == 3
    assert str(tmp_path / "run") in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_broken_photo_is_quarantined_and_another_takes_its_place(
    data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data" / "train"
    for name in "abc":
        (copy / name).mkdir(parents=True)
        for photo in (data / "train" / name).iterdir():
            (copy / name / photo.name).write_bytes(photo.read_bytes())
    for index in range(5):
        (copy / "a" / f"{index:02}.png").write_bytes(b"no photo")
    run = tmp_path / "run"

    words = command(tmp_path / "data", run, "--workers", "0", "--epochs", "1", recipe="faults")
    result = CliRunner().invoke(main, words)

    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert 1 <= len(events) <= 5, "each is told once"
    for event in events:
        assert "no image of a known format" in json.dumps(event)
        assert event["quarantined"] in (run / "quarantine.tsv").read_text(encoding="utf-8")
    assert "another photo takes its place" in result.stderr


def processes(words: list[str], ranks: int) -> list[str]:
    if ranks == 1:
        return [sys.executable, "-m", "train.pretrain", *words]
    # Connections within this machine fail now and then in some sandboxes.
    runner = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--max-restarts=3"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return [
        sys.executable,
        *runner,
        *rendezvous,
        "-m",
        "train.pretrain",
        *words,
        "--wait-minutes=1",
    ]


def start(words: list[str], ranks: int = 1) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        processes(words, ranks),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_stopped_by_a_signal_saves_and_ends_with_the_same_bits(
    ranks: int, data: Path, tmp_path: Path
) -> None:
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    undisturbed = start(command(data, alone, recipe="faults"), ranks)
    _, errors = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, errors

    run = start(command(data, stopped, "--save-every-steps", "1", recipe="faults"), ranks)
    while not list(stopped.glob("step-*")) and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=120)

    assert run.returncode == 4 if ranks == 1 else run.returncode != 0
    assert "repeat the command to go on" in errors
    assert 0 < state_of(stopped)["learner"]["step"] < 12
    rest = start(command(data, stopped, recipe="faults"), ranks)
    _, errors = rest.communicate(timeout=300)
    assert rest.returncode == 0, errors
    assert_same_weights(alone, stopped)


@pytest.mark.slow
def test_ranks_and_workers_do_not_change_what_is_seen(data: Path, tmp_path: Path) -> None:
    runs = {}
    for ranks, workers in ((1, 0), (2, 0), (1, 2)):
        run = tmp_path / f"{ranks}-{workers}"
        more = ["--workers", str(workers), "--log-every", "1", "--epochs", "2"]
        words = command(data, run, *more, recipe="faults")
        process = start(words, ranks)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        lines = (run / "steps.jsonl").read_text().splitlines()
        runs[ranks, workers] = [json.loads(line)["loss"] for line in lines]

    assert runs[1, 2] == runs[1, 0], "workers change no bit"
    # Ranks change the rounding alone, which orthogonalized steps make more of from step to step;
    # two batches of the same untrained net differ by a percent.
    assert runs[2, 0][0] == pytest.approx(runs[1, 0][0], rel=1e-5)


@pytest.mark.parametrize("page", ["README.md", "train/README.md"])
def test_the_commands_of_the_pages_are_understood(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    commands = [line.partition("-m train.pretrain ")[2] for line in lines]
    told = [shlex.split(words) for words in commands if words and "..." not in words]

    assert len(told) == 2
    for words in told:
        context = main.make_context("pretrain", words)
        assert context.params["recipe"] in RECIPES


def test_the_page_names_every_recipe() -> None:
    page = (ROOT / "train" / "README.md").read_text(encoding="utf-8")

    assert [name for name in RECIPES if f"`{name}`" not in page] == []
