import json
from pathlib import Path

import pytest
import timm
import torch
import yaml

from train.recipes import RECIPES
from wszoo.cards import read_results, render_card
from wszoo.weights import ASSETS, WEIGHTS, WEIGHTS_FILE, Weights

CARDS = Path(__file__).parents[1] / "model_cards"
OWN = [weights for weights in WEIGHTS if weights.origin is None]
every_weights = pytest.mark.parametrize("weights", OWN, ids=lambda weights: weights.name)


@every_weights
def test_the_committed_card_is_what_the_record_renders(weights: Weights) -> None:
    committed = (CARDS / weights.name / "README.md").read_text(encoding="utf-8")

    assert committed == render_card(weights, read_results(CARDS / weights.name)), "run make cards"


@every_weights
def test_the_record_the_results_and_the_config_agree(weights: Weights) -> None:
    results = read_results(CARDS / weights.name)
    config = json.loads((CARDS / weights.name / "config.json").read_text())

    (metrics,) = weights.metrics.values()
    assert {key: results["evaluation"][key] for key in metrics} == metrics
    assert config["architecture"] == weights.model
    assert config["wszoo"] == {
        "formula": weights.formula,
        "sha256": weights.sha256,
        "dtype": weights.dtype,
    }
    assert config["num_classes"] == weights.num_classes
    assert config["pretrained_cfg"]["input_size"] == list(weights.input_size)


@every_weights
def test_weights_give_the_logits_they_were_published_with(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSZOO_WEIGHTS", str(CARDS))
    size = weights.input_size[-1]
    ramp = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)

    with torch.inference_mode():
        logits = timm.create_model(weights.name, pretrained=True).eval()(ramp)[0, :8]

    published = torch.tensor(read_results(CARDS / weights.name)["logits_of_ramp"])
    torch.testing.assert_close(logits, published, rtol=1e-3, atol=1e-3)


@every_weights
def test_published_weights_name_a_recipe_that_exists(weights: Weights) -> None:
    assert weights.recipe is None or weights.recipe in RECIPES
    results = read_results(CARDS / weights.name)
    assert len(results["epochs"]) == RECIPES[results["recipe_name"]].epochs


@every_weights
def test_the_front_matter_is_what_the_hub_reads(weights: Weights) -> None:
    _, front, _ = (CARDS / weights.name / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front)

    assert card["library_name"] == "timm"
    assert card["license_name"] == weights.license
    value = card["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert value == read_results(CARDS / weights.name)["evaluation"]["top1"]


@every_weights
def test_a_card_folder_and_its_file_load_as_a_local_dir(weights: Weights, tmp_path: Path) -> None:
    for name in ("config.json", "README.md"):
        (tmp_path / name).write_bytes((CARDS / weights.name / name).read_bytes())
    folder = ASSETS if weights.packaged else CARDS
    (tmp_path / WEIGHTS_FILE).symlink_to(folder / weights.name / WEIGHTS_FILE)

    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)

    assert model.num_classes == weights.num_classes


def test_converted_weights_have_no_card_but_the_page_of_their_authors() -> None:
    foreign = [weights for weights in WEIGHTS if weights.origin is not None]

    assert foreign
    for weights in foreign:
        assert not (CARDS / weights.name).exists()
        assert weights.origin_url and weights.origin_url.startswith("https://")
        assert weights.recipe is None
