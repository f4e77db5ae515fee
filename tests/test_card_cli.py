"""``wszoo card``, as a user types it."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner, Result

from wszoo.card_cli import card
from wszoo.files import sha256_of
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build
from wszoo.finetune.outputs import save_output
from wszoo.publish import check_folder
from wszoo.weights import WEIGHTS_FILE, find

SMALL = "test_resnet_gn_ws.e3_tin200"
CARDS = Path(__file__).parents[1] / "model_cards"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(card, [str(argument) for argument in arguments])


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What is needed of the folder of a finished run."""
    settings = settings_for("classify", model=SMALL, image_size=64)
    save_output(
        tmp_path / "run",
        build(settings, 2),
        settings,
        classes=("cat", "dog"),
        class_ids=("cat", "dog"),
        epoch=1,
        metrics={"held_out_top1": 50.0},
    )
    return tmp_path / "run"


def test_the_card_of_a_record_is_printed_as_it_is_committed() -> None:
    committed = (CARDS / SMALL / "README.md").read_text(encoding="utf-8")

    assert run(SMALL).stdout == committed
    assert run("test_resnet_gn_ws").stdout == committed
    printed = json.loads(run(SMALL, "--json").stdout)
    assert printed == {"name": SMALL, "card": committed}


def test_converted_weights_have_a_card_without_any_network() -> None:
    result = run("resnet50_gn_ws.jhu_in1k", "--cards", "nowhere")

    assert result.exit_code == 0
    assert "not checked against the original" in result.stdout


def test_a_record_is_written_to_a_folder_that_timm_loads(tmp_path: Path) -> None:
    output = tmp_path / "out"

    result = run(SMALL, "-o", output)

    assert result.exit_code == 0, result.output
    for name in ("README.md", "config.json", "results.json", "curves.png"):
        assert (output / name).read_bytes() == (CARDS / SMALL / name).read_bytes()
    loaded = timm.create_model(f"local-dir:{output}", pretrained=True).state_dict()
    ours = timm.create_model(SMALL, pretrained=True).state_dict()
    assert all(torch.equal(loaded[key], ours[key]) for key in ours)
    assert run(SMALL, "-o", output, "--json").exit_code == 0  # again, over it


def test_a_record_that_is_written_to_a_folder_is_one_to_push(tmp_path: Path) -> None:
    run(SMALL, "-o", tmp_path / SMALL)

    publication = check_folder(tmp_path / SMALL)

    assert publication.weights == find(SMALL)
    assert (tmp_path / SMALL / WEIGHTS_FILE).exists()


def test_the_help_says_how_either_folder_gets_to_the_hub() -> None:
    text = " ".join(run("--help").stdout.split())

    assert "of RUN (RUN/model by default) goes to the Hub with `wszoo push FOLDER --repo" in text
    assert "ready to be pushed" not in text


def test_the_folder_of_published_weights_is_told_to_be_no_run() -> None:
    result = run(CARDS / SMALL)

    assert result.exit_code == 3
    assert result.stderr == (
        f"wszoo: {CARDS / SMALL} holds no run, but published weights; their card is that of the "
        f"name: `wszoo card {SMALL}`\n"
    )


def test_a_licence_that_promises_more_than_that_of_the_base_is_refused(
    finished: Path, tmp_path: Path
) -> None:
    result = run(finished, "--license", "cc0-1.0", "-o", tmp_path / "out")

    assert result.exit_code == 3
    assert result.stderr == (
        f"wszoo: 'cc0-1.0' cannot be the licence of weights that began with {SMALL}, whose "
        f"licence, imagenet-research, goes on to hold; leave --license out\n"
    )
    assert not [*(tmp_path / "out").iterdir()]


def test_a_run_is_written_into_its_own_folder(finished: Path) -> None:
    result = run(finished, "--json")

    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert written["folder"] == str(finished / "model")
    assert {"README.md", "config.json", "results.json", WEIGHTS_FILE} == {*written["files"]}
    assert [each.rpartition("(")[2] for each in written["missing"]] == [
        "--data-license)",
        "--data-name)",
    ]
    assert (
        "Weights: imagenet-research. They began with"
        in (finished / "model" / "README.md").read_text()
    )
    assert str(finished / "model") in run(finished).stdout


def test_without_results_the_way_out_is_named(tmp_path: Path) -> None:
    result = run(SMALL, "--cards", tmp_path)

    assert result.exit_code == 3
    assert result.stderr == (
        f"wszoo: no {tmp_path / SMALL / 'results.json'}; name the folder that holds {SMALL}, as "
        f"model_cards of a checkout does, with --cards\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet50"], "there is no folder 'resnet50', and 'resnet50' is not of this zoo"),
        (["resnet34_gn_ws"], "there is no folder 'resnet34_gn_ws', and 'resnet34_gn_ws' has no"),
        ([SMALL, "--license", "mit"], "--examples are for runs; the card of published weights"),
    ],
)
def test_wrong_words_are_usage_errors(arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_file_that_is_not_at_hand_is_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path))
    name = find("resnet18_gn_ws.e14_tin200").name
    kept = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(CARDS / name, tmp_path / "cards" / name, ignore=kept)

    result = run(name, "-o", tmp_path / "out", "--cards", tmp_path / "cards")

    assert result.exit_code == 3
    assert "are in the repository only" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_file_beside_the_card_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path))
    weights = find("resnet18_gn_ws.e14_tin200")

    result = run(weights.name, "-o", tmp_path / "out", "--cards", CARDS)

    assert result.exit_code == 0, result.stderr
    assert sha256_of(tmp_path / "out" / "model.safetensors") == weights.sha256
