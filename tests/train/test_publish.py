import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from train import header, publish
from train.header import complete_header
from train.measure import classes_told, cpu_time, gallery_speeds
from train.recipes import RECIPES
from wszoo import weights_record
from wszoo.cards import read_results, render_card
from wszoo.cards.folder import write_config
from wszoo.evaluate import Evaluation
from wszoo.files import sha256_of
from wszoo.gallery.speed import read_speeds
from wszoo.training.checkpoint import save_checkpoint
from wszoo.weights import ASSETS, WEIGHTS_FILE, Weights, find, read_metadata
from wszoo.weights_file import file_metadata, recipe_hash, with_metadata

SMALL = find("test_resnet_gn_ws")
RECIPE = "once_tin200"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders in the place of ``wszoo/assets`` and ``model_cards``."""
    shutil.copytree(ASSETS / "labels", tmp_path / "assets" / "labels")
    monkeypatch.setattr(publish, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr(weights_record, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr(publish, "CARDS", tmp_path / "cards")
    recipe = replace(RECIPES["e3_tin200"], phases=((1, 64),), held_out_per_class=1)
    monkeypatch.setitem(RECIPES, RECIPE, recipe)
    return tmp_path


def write_photos(root: Path, classes: int) -> Path:
    """Two photos of each class to learn from, and one to be judged by."""
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for identifier in SMALL.label_ids()[:classes]:
            folder = root / split / identifier
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((64, 64)).save(folder / f"{index}.png")
    return root


@pytest.fixture
def run(tmp_path: Path, places: Path) -> Path:
    """A finished run of one epoch."""
    folder = tmp_path / "runs" / "run"
    model = timm.create_model(SMALL.model, num_classes=200)
    save_checkpoint(folder, 1, {"learner": {"model": model.state_dict(), "ema": None}})
    settings = json.loads(json.dumps(asdict(RECIPES[RECIPE])))
    facts = {"model": SMALL.model, "recipe": RECIPE, "settings": settings, "code": "0123abc"}
    (folder / "run.json").write_text(json.dumps({**facts, "hardware": "1 CPU thread"}))
    row = {"epoch": 1, "step": 1, "pixels": 64, "loss": 5.3, "held_out_top1": 0.5, "seconds": 60.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(publish.main, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_finished_run_becomes_a_file_a_record_and_a_card(
    run: Path, places: Path, tmp_path: Path
) -> None:
    data = write_photos(tmp_path / "data", 200)

    result = call(run, "--data", data)

    assert result.exit_code == 0, result.output
    name = f"{SMALL.model}.{RECIPE}"
    path, folder = places / "assets" / name / WEIGHTS_FILE, places / "cards" / name
    results = read_results(folder)
    assert f"sha256='{sha256_of(path)}'" in result.output
    wanted = file_metadata(
        model=SMALL.model, tag=RECIPE, formula="jhu", settings=results["recipe"], code="0123abc"
    )
    assert read_metadata(path) == wanted
    assert results["recipe_hash"] == recipe_hash(results["recipe"]) == wanted["recipe_hash"]
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "results.json"),
        *("confusion.png", "cost.png", "curves.png"),
    }
    card = (folder / "README.md").read_text()
    assert f"| recipe hash | `{wanted['recipe_hash']}` |" in card
    assert "Recognised best: " in card and "(confusion.png)" in card
    assert "| speed | not measured |" not in card
    config = json.loads((folder / "config.json").read_text())
    assert config["wszoo"] == {"formula": "jhu", "sha256": sha256_of(path), "dtype": "F16"}
    assert results["evaluation"]["photos"] == 200
    assert [*results["held_out_by_pixels"]] == ["64", "80", "96", "112"]


def test_a_run_that_has_not_ended_is_not_published(run: Path, places: Path) -> None:
    (run / "metrics.jsonl").write_text("")

    result = call(run, "--data", ".")

    assert result.exit_code == 3
    assert "has 0 of 1 epochs; repeat its command to go on" in result.stderr
    assert not (places / "cards").exists()


def published(places: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Weights, Path]:
    """The small net's committed card in the place of ``model_cards``."""
    folder = places / "cards" / SMALL.name
    shutil.copytree(Path(__file__).parents[2] / "model_cards" / SMALL.name, folder)
    monkeypatch.setattr(publish, "WEIGHTS", (SMALL,))
    monkeypatch.setattr(weights_record, "ASSETS", ASSETS)
    (places / "README.md").write_text("<!-- weights -->\nold\n<!-- /weights -->\n")
    return SMALL, folder


def test_cards_are_rendered_again_with_what_studies_tell(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, folder = published(places, monkeypatch)
    (folder / "cost.png").unlink()
    study = places / "cards" / "studies" / "study.json"
    study.parent.mkdir()
    (study.parent / "shown.png").write_bytes((folder / "curves.png").read_bytes())
    finding = {"topic": "batch_size", "weights": "*", "finding": "as 64", "command": "python x"}
    study.write_text(json.dumps({"cards": [{**finding, "picture": "shown.png"}]}))

    result = call("--cards")

    assert result.exit_code == 0, result.output
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "as 64 | `python x`; cards/studies/study.json |" in card
    assert "![accuracy by images per step](batch_size.png)" in card
    assert {"batch_size.png", "cost.png"} <= {*read_results(folder)["pictures"]}
    assert card == render_card(weights, read_results(folder))
    assert f"`{weights.name}`" in (places / "README.md").read_text()


@pytest.mark.slow
def test_published_weights_are_measured_again_only_if_they_are_the_same(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_photos(tmp_path / "data", 8)
    weights, folder = published(places, monkeypatch)
    before = (folder / "results.json").read_text()

    result = call("--measure", weights.name, "--data", data)

    assert result.exit_code == 3
    assert "its results.json says {'top1': 17.42" in result.stderr
    assert (folder / "results.json").read_text() == before

    model = timm.create_model(weights.name, pretrained=True)
    results = json.loads(before)
    results["evaluation"] = publish.measure(model, weights, data).summary()
    (folder / "results.json").write_text(json.dumps(results))

    assert call("--measure", weights.name, "--data", data).exit_code == 0
    assert (folder / "confusion.png").exists()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Recognised best: " in card and "(confusion.png)" in card


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["."],
        ["--cards", "--measure", SMALL.name],
        ["--cards", "--speeds"],
        [".", "--header", SMALL.name],
    ],
)
def test_what_is_to_be_done_must_be_clear(words: list[str]) -> None:
    result = call(*words)

    assert result.exit_code == 2
    assert "give RUN and --data, --measure NAME and --data, --header NAME, or one" in result.stderr


def unfinished(places: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Weights, Path, Path]:
    """The small net with a header that lacks what it should have, its file and table."""
    weights, folder = published(places, monkeypatch)
    path, table = places / "assets" / SMALL.name / WEIGHTS_FILE, places / "table.py"
    path.parent.mkdir()
    content = (ASSETS / SMALL.name / WEIGHTS_FILE).read_bytes()
    lacking = {key: read_metadata(ASSETS / SMALL.name / WEIGHTS_FILE)[key] for key in ("model",)}
    path.write_bytes(with_metadata(content, lacking))
    weights = replace(weights, sha256=sha256_of(path))
    table.write_text(f'sha256="{weights.sha256}", metrics=...\n')
    write_config(folder, weights)
    return weights, path, table


def test_a_header_is_completed_and_every_tensor_stays(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, path, table = unfinished(places, monkeypatch)
    where: Any = {"assets": places / "assets", "table": table}
    before = load_file(path)

    completed = complete_header(weights, places / "cards", **where)

    assert completed is not None and completed.sha256 == sha256_of(path) != weights.sha256
    results = read_results(places / "cards" / SMALL.name)
    metadata = read_metadata(path)
    assert metadata["recipe_hash"] == results["recipe_hash"] == recipe_hash(results["recipe"])
    assert metadata["code"] == results["code"]
    assert results["sha256_before"][-1] == weights.sha256
    assert results["file_bytes"] == path.stat().st_size
    config = json.loads((places / "cards" / SMALL.name / "config.json").read_text())
    assert config["wszoo"]["sha256"] == completed.sha256
    assert table.read_text() == f'sha256="{completed.sha256}", metrics=...\n'
    after = load_file(path)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)

    assert complete_header(completed, places / "cards", **where) is None
    assert read_results(places / "cards" / SMALL.name) == results


def test_a_header_is_left_alone_where_the_record_is_another(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, path, table = unfinished(places, monkeypatch)
    where: Any = {"assets": places / "assets", "table": table}
    content = path.read_bytes()

    with pytest.raises(ValueError, match="its record says 000000000000"):
        complete_header(replace(weights, sha256="0" * 64), places / "cards", **where)
    table.write_text("")
    with pytest.raises(ValueError, match=r"table\.py does not name .*… once; see to its records"):
        complete_header(weights, places / "cards", **where)

    with pytest.raises(ValueError, match=r"is pinned as a/b@c, whose file has .* take the pin out"):
        complete_header(replace(weights, hub="a/b@c"), places / "cards", **where)

    assert path.read_bytes() == content


@pytest.mark.parametrize("step", ["write_config", "write_whole"])
def test_a_header_that_was_begun_is_ended(
    places: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    weights, path, table = unfinished(places, monkeypatch)
    where: Any = {"assets": places / "assets", "table": table}
    content, real = path.read_bytes(), getattr(header, step)

    def stopping(target: Path, *args: Any) -> None:
        if step == "write_config" or target == path:
            raise KeyboardInterrupt
        real(target, *args)

    with monkeypatch.context() as patch:
        patch.setattr(header, step, stopping)
        with pytest.raises(KeyboardInterrupt):
            complete_header(weights, places / "cards", **where)
    assert path.read_bytes() == content

    digest = table.read_text().split('"')[1]
    completed = complete_header(replace(weights, sha256=digest), places / "cards", **where)

    assert completed is not None and f'"{completed.sha256}"' in table.read_text()
    assert sha256_of(path) == completed.sha256
    assert read_results(places / "cards" / SMALL.name)["sha256_before"].count(weights.sha256) == 1


def test_published_weights_say_all_in_their_headers() -> None:
    result = call("--header", SMALL.name)

    assert result.output == f"{SMALL.name}: complete\n"


def test_a_figure_whose_study_is_gone_leaves_the_card(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = published(places, monkeypatch)
    (folder / "batch_size_study.png").write_bytes((folder / "curves.png").read_bytes())

    assert call("--cards").exit_code == 0

    assert not (folder / "batch_size_study.png").exists()
    assert "batch_size_study.png" not in (folder / "README.md").read_text()


def test_nets_are_timed_for_the_gallery_by_one_thread(tmp_path: Path) -> None:
    path = gallery_speeds(pattern="test*", rounds=1, path=tmp_path / "speed.json")

    speeds = read_speeds(path)
    assert [(row.model, row.pixels) for row in speeds.rows] == [(SMALL.model, 64)]
    assert speeds.hardware.startswith("1 thread (") and speeds.what.endswith("of one thread")


def test_classes_are_ranked_by_the_share_of_their_photos() -> None:
    confusion = torch.tensor([[8, 2, 0], [0, 10, 0], [3, 1, 1]])

    told = classes_told(confusion, ["cat", "dog", "owl"], 2)

    assert told == {
        "best": [["dog", 100.0], ["cat", 80.0]],
        "worst": [["owl", 20.0], ["cat", 80.0]],
        "taken": [["owl", "cat", 3], ["cat", "dog", 2]],
    }
    assert confusion[0, 0] == 8  # as it was
    assert Evaluation(top1=0, top5=0, count=1, confusion=confusion).confusion is confusion


def test_cpu_time_is_told_with_what_it_was_measured_on() -> None:
    model = timm.create_model(SMALL.name, pretrained=True)

    finding = cpu_time(model, SMALL)

    assert finding["topic"] == "throughput"
    for words in (" ms as it is, ", " ms folded: CPU time of one 64-pixel image, fp32, 1 CPU thr"):
        assert words in finding["finding"]
    assert finding["command"].startswith("python -m train.publish --measure")
    model.train()  # it was not folded itself
