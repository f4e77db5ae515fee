"""Cards of the records: what they render, and that what they say is true."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image

from train.recipes import RECIPES
from wszoo.cards import drawing, published, read_results, render_card
from wszoo.cards.data_sets import data_set_of
from wszoo.cards.drawing import draw_cost
from wszoo.cards.results import TOPICS, gather, study_pictures
from wszoo.cards.size import activations
from wszoo.cards.words import NOT_RECORDED
from wszoo.weights import ASSETS, WEIGHTS, WEIGHTS_FILE, Weights, find, read_metadata
from wszoo.weights_file import file_metadata, recipe_hash

CARDS = Path(__file__).parents[1] / "model_cards"
OWN = [weights for weights in WEIGHTS if weights.origin is None]
SMALL = find("test_resnet_gn_ws")
every_weights = pytest.mark.parametrize("weights", OWN, ids=lambda weights: weights.name)


def front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    content: dict[str, Any] = yaml.safe_load(front)
    return content


def words(card: str) -> str:
    return " ".join(card.split())


@pytest.fixture(scope="module")
def card() -> str:
    return render_card(SMALL, read_results(CARDS / SMALL.name))


@every_weights
def test_the_committed_card_is_what_the_record_renders(weights: Weights) -> None:
    committed = (CARDS / weights.name / "README.md").read_text(encoding="utf-8")

    assert committed == render_card(weights, read_results(CARDS / weights.name)), "run make cards"


@every_weights
def test_the_results_have_what_lies_around_them(weights: Weights) -> None:
    folder = CARDS / weights.name

    assert read_results(folder) == gather(folder, read_results(folder)), "run make cards"


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
    card = front_matter((CARDS / weights.name / "README.md").read_text(encoding="utf-8"))

    assert (card["library_name"], card["pipeline_tag"]) == ("timm", "image-classification")
    assert (card["license"], card["license_name"]) == ("other", weights.license)
    assert card["license_link"].startswith("https://")
    assert card["datasets"] == ["zh-plus/tiny-imagenet"]
    (result,) = card["model-index"][0]["results"]
    shown = {metric["name"]: metric["value"] for metric in result["metrics"]}
    found = read_results(CARDS / weights.name)["evaluation"]
    assert shown == {"top-1 (%)": found["top1"], "top-5 (%)": found["top5"]}


@every_weights
def test_a_card_shows_the_pictures_beside_it_and_no_others(weights: Weights) -> None:
    card = (CARDS / weights.name / "README.md").read_text(encoding="utf-8")

    shown = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card))
    assert shown == {path.name for path in (CARDS / weights.name).glob("*.png")}
    assert {"curves.png", "cost.png"} <= shown


@every_weights
def test_a_card_names_the_recipe_and_the_code_that_made_its_weights(weights: Weights) -> None:
    results = read_results(CARDS / weights.name)
    card = (CARDS / weights.name / "README.md").read_text(encoding="utf-8")

    assert f"| recipe hash | `{recipe_hash(results['recipe'])}` |" in card
    assert f"\nCode {results['code']}; torch" in card


@every_weights
def test_the_header_of_a_file_says_what_its_card_says(weights: Weights) -> None:
    results = read_results(CARDS / weights.name)
    folder = ASSETS if weights.packaged else CARDS

    assert read_metadata(folder / weights.name / WEIGHTS_FILE) == file_metadata(
        model=weights.model,
        tag=weights.tag,
        formula=weights.formula,
        settings=results["recipe"],
        code=results["code"],
    )


def test_a_card_tells_of_a_header_that_was_completed_later(card: str) -> None:
    results = read_results(CARDS / SMALL.name)

    told = "until then its sha256 was `ab12`. Every tensor is the same, byte by byte."
    assert told in words(render_card(SMALL, results | {"sha256_before": ["ab12"]}))
    del results["sha256_before"]
    assert "completed later" not in render_card(SMALL, results)


def test_what_no_program_wrote_down_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = {"hardware": NOT_RECORDED, "code": NOT_RECORDED}
    results = read_results(CARDS / SMALL.name) | unknown
    labels: list[str] = []
    monkeypatch.setattr(drawing, "draw_curves", lambda *_, x_label, **__: labels.append(x_label))

    card = render_card(SMALL, results)
    draw_cost(results, SMALL.name, tmp_path)
    draw_cost(results | {"hardware": "1 CPU thread"}, SMALL.name, tmp_path)

    assert "One process on hardware that was not recorded, 22 min of wall time" in card
    assert "\nCode not recorded; torch" in card
    assert labels == ["hours of wall time", "hours on 1 CPU thread"]


def test_a_size_that_held_out_photos_did_not_choose_is_told() -> None:
    results = read_results(CARDS / SMALL.name)
    told = "The size of 64 pixels was not chosen by the photos held out, which do best at 96"

    for by_pixels, is_told in (({"64": 17.0, "96": 18.0}, True), ({"64": 18.0, "96": 17.0}, False)):
        card = render_card(SMALL, results | {"held_out_by_pixels": by_pixels})
        assert (told in words(card)) is is_told


def test_a_card_of_a_net_with_batch_channel_norm_says_so() -> None:
    weights = replace(SMALL, model="resnet50_bcn_ws")

    card = render_card(weights, read_results(CARDS / SMALL.name))

    assert "batch-channel-normalization" in front_matter(card)["tags"]
    assert "group-normalization" not in front_matter(card)["tags"]
    assert "by statistics of the batch" in words(card)
    assert "no layer looks at other images" not in words(card)
    assert "arXiv:1911.09738" in card


@every_weights
def test_a_card_folder_and_its_file_load_as_a_local_dir(weights: Weights, tmp_path: Path) -> None:
    for name in ("config.json", "README.md"):
        (tmp_path / name).write_bytes((CARDS / weights.name / name).read_bytes())
    folder = ASSETS if weights.packaged else CARDS
    (tmp_path / WEIGHTS_FILE).symlink_to(folder / weights.name / WEIGHTS_FILE)

    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)

    assert model.num_classes == weights.num_classes


def test_the_snippets_of_a_card_run_and_begin_with_wszoo(
    card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)

    for code in snippets:
        assert code.startswith("import wszoo")
        exec(compile(code, "card", "exec"), {})

    assert len(snippets) == 3
    assert capsys.readouterr().out.strip() in SMALL.label_names()


def test_a_card_says_where_to_load_from(card: str) -> None:
    assert '`"hf-hub:NAMESPACE/test_resnet_gn_ws.e3_tin200@COMMIT"`' in card
    assert '`"local-dir:FOLDER"`' in card

    pushed = replace(SMALL, hub="me/net@0123")
    card = render_card(pushed, read_results(CARDS / SMALL.name))

    assert '`"hf-hub:me/net@0123"`' in card
    assert "NAMESPACE" not in card


def test_the_first_line_of_weights_from_small_data_says_so(card: str) -> None:
    first = card.split(f"# {SMALL.name}\n\n")[1].split("\n\n")[0]

    assert "a small data set: a backbone for fine-tuning" in words(first)


def test_a_card_names_size_file_and_licences(card: str) -> None:
    for fact in (
        "| parameters | 0.35 M |",
        "| MACs | 16 M at 64 x 64 |",
        "| activations | 0.09 M |",
        "| file | 704,432 bytes, F16 |",
        f"| sha256 | `{SMALL.sha256}` |",
        "| input | RGB, 64 x 64, crop 1.0, bicubic |",
    ):
        assert fact in card
    assert "Weights: imagenet-research, for they inherit" in words(card)
    assert "Data: Tiny ImageNet is a subset of ImageNet" in words(card)
    assert f"| `{SMALL.tag}` (these) | Tiny ImageNet val: 17.42 % |" in card


def test_what_was_not_measured_is_said() -> None:
    results = read_results(CARDS / SMALL.name)
    card = render_card(SMALL, {key: results[key] for key in results if key != "studies"})

    for topic in ("batch_norm_twin", "batch_size", "downstream", "energy"):
        assert f"| {TOPICS[topic]} | not measured |  |" in card
    assert "| spread over seeds | not measured | one run, seed 0 |" in card


def test_hours_of_runs_that_it_goes_back_to_are_counted() -> None:
    results = read_results(CARDS / "resnet18_gn_ws.e20_tin200")

    card = render_card(find("resnet18_gn_ws.e20_tin200"), results)

    (before,) = results["before"]
    seconds = before["seconds"] + results["epochs"][-1]["seconds"]
    assert "The run began with the weights tagged `e14_tin200`." in words(card)
    assert f"20 epochs, {int(seconds // 3600)} h" in words(card)


def test_recognised_classes_are_told_where_they_were_counted() -> None:
    results = read_results(CARDS / SMALL.name) | {
        "classes": {"best": [["bus", 62.0]], "worst": [["nail", 0.0]], "taken": [["cat", "dog", 7]]}
    }

    text = words(render_card(SMALL, results))

    assert "Recognised best: bus 62 %. Worst: nail 0 %." in text
    assert "with how often: cat for dog (7)." in text


def test_a_finding_of_a_study_gets_onto_the_cards_it_is_about(tmp_path: Path) -> None:
    folder, study = tmp_path / SMALL.name, tmp_path / "studies" / "small" / "study.json"
    study.parent.mkdir(parents=True)
    folder.mkdir()
    finding = {"topic": "batch_size", "finding": "1: 17 %, 64: 16 %", "command": "python -m study"}
    about = [
        {**finding, "weights": "test_*.*", "picture": "accuracy.png"},
        {**finding, "weights": "resnet50*", "finding": "other"},
    ]
    study.write_text(json.dumps({"cards": about}))
    (tmp_path / "studies" / "list.json").write_text("[1]")

    results = gather(folder, read_results(CARDS / SMALL.name) | {"findings": ["old"]})

    row = "| accuracy by images per step | 1: 17 %, 64: 16 % "
    row += f"| `python -m study`; {tmp_path.name}/studies/small/study.json |"
    assert row in render_card(SMALL, results)
    assert "other" not in str(results["findings"])
    assert study_pictures(folder) == {"batch_size.png": study.parent / "accuracy.png"}
    assert "pictures" not in results


def test_the_study_of_batch_sizes_is_shown_once_its_page_is_there(tmp_path: Path) -> None:
    folder, study = tmp_path / SMALL.name, tmp_path / "studies" / "batch_size"
    study.mkdir(parents=True)
    folder.mkdir()
    (study / "error.png").touch()
    plot = {"title": "Error against images per step", "note": "ResNet-20 at 32 pixels, 3 seeds."}
    (study / "figures.json").write_text(json.dumps({"error": {**plot, "series": []}}))
    results = read_results(CARDS / SMALL.name) | {"studies": {"old": {}}}

    without = gather(folder, results)
    assert "studies" not in without and study_pictures(folder) == {}
    assert "of another net" not in render_card(SMALL, without)

    (study / "README.md").touch()
    card = render_card(SMALL, gather(folder, results))

    assert study_pictures(folder) == {"batch_size_study.png": study / "error.png"}
    assert "![Error against images per step](batch_size_study.png)" in card
    assert (
        "Accuracy by images per step, of another net than this one. ResNet-20 at 32 pixels, 3 "
        f"seeds. `python -m train.study_batch_size`; {tmp_path.name}/studies/batch_size."
        in words(card)
    )
    assert "| accuracy by images per step | not measured | of another net: see below |" in card


@pytest.mark.parametrize(
    ("finding", "message"),
    [
        ({"topic": "batch_size", "weights": "*", "finding": "x"}, "cards lacks 'command'"),
        (
            {"topic": "taste", "weights": "*", "finding": "x", "command": "y"},
            "no topic 'taste' for cards; there are batch_norm_twin",
        ),
    ],
)
def test_a_finding_that_no_card_can_show_is_refused(
    finding: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "study.json").write_text(json.dumps({"cards": [finding]}))

    with pytest.raises(ValueError, match=message):
        gather(tmp_path / SMALL.name, {})


def test_weights_that_newer_ones_on_the_hub_supersede_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, default = find("resnet18_gn_ws.e14_tin200"), find("resnet18_gn_ws")
    results = read_results(CARDS / old.name)
    assert "new_version" not in front_matter(render_card(old, results))

    monkeypatch.setattr(published, "WEIGHTS", (replace(default, hub="me/new@01"), old))

    assert front_matter(render_card(old, results))["new_version"] == "me/new"


def test_results_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="with --cards"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is not JSON: .*; write it again"):
        read_results(tmp_path)
    with pytest.raises(ValueError, match="lack 'epochs'; publish them with"):
        render_card(SMALL, {"evaluation": {}, "recipe": {}})


def test_a_tag_of_unknown_data_is_refused() -> None:
    with pytest.raises(ValueError, match="no data set 'mars', which the tag of .* ends with"):
        data_set_of(replace(SMALL, tag="e3_mars"))


def test_activations_are_counted_as_timm_counts_them() -> None:
    with torch.device("meta"):
        net = timm.create_model("resnet50")

    assert activations(net, (3, 224, 224)) / 1e6 == pytest.approx(11.1, abs=0.05)
    assert not any(module._forward_hooks for module in net.modules())
