"""The commands, as a user types them."""

import json
from pathlib import Path

import pytest
import timm
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

import wszoo
from wszoo.cli import main
from wszoo.weights import ASSETS, WEIGHTS, read_metadata

SMALL = "test_resnet_gn_ws"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (90, 60), (200, 30, 30)).save(path)
    return path


def test_list_shows_every_variant_once_or_once_per_set_of_weights() -> None:
    rows = json.loads(run("list", "--json").output)

    assert {row["model"] for row in rows} == set(timm.list_models(module="ws_resnet"))
    assert [row["name"] for row in rows if row["tag"]] == sorted(w.name for w in WEIGHTS)
    assert len(run("list").output.splitlines()) == len(rows) + 1


def test_list_filters_by_glob_and_by_weights() -> None:
    rows = json.loads(run("list", "resnet18*", "--pretrained", "--json").output)

    assert [row["model"] for row in rows] == ["resnet18_gn_ws"]
    assert run("list", "nothing*").exit_code == 1


def test_show_tells_what_is_needed_to_load_a_net() -> None:
    facts = json.loads(run("show", SMALL, "--json").output)

    weights = wszoo.weights.find(SMALL)
    assert facts["weights"] == weights.name
    assert facts["strides"] == [2, 4, 8, 16, 32]
    assert facts["sha256"] == weights.sha256
    assert weights.name in facts["load"]
    assert "none yet" in run("show", "resnet152_gn_ws").output


def test_an_unknown_tag_is_a_usage_error_that_lists_the_known_ones() -> None:
    result = run("show", f"{SMALL}.a1")

    assert result.exit_code == 2
    assert "no weights tagged 'a1'; its tags: " in result.output


def test_an_unknown_model_is_a_usage_error() -> None:
    result = run("predict", "resnet51_gn_ws", "x.jpg")

    assert result.exit_code == 2
    assert "no weights for model 'resnet51_gn_ws'; models with weights: " in result.output


def test_predict_prints_and_draws_the_best_classes(photo: Path, tmp_path: Path) -> None:
    rows = json.loads(run("predict", SMALL, photo, "--top", "3", "--json").stdout)
    drawn = run("predict", SMALL, photo, "--save", tmp_path / "out")

    assert len(rows[0]["classes"]) == 3
    assert rows[0]["classes"][0]["name"] in wszoo.weights.find(SMALL).label_names()
    assert drawn.exit_code == 0
    assert (tmp_path / "out" / "predictions.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jpg", None, "no such image or folder"),
        ("text.jpg", b"hello", "cannot decode"),
        ("empty.jpg", b"", "cannot decode"),
    ],
)
def test_a_bad_photo_is_named_in_one_line(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    result = run("predict", SMALL, tmp_path / name)

    assert result.exit_code == 3
    assert message in result.stderr
    assert name in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_eval_counts_photos_in_class_folders(photo: Path, tmp_path: Path) -> None:
    weights = wszoo.weights.find(SMALL)
    for identifier in weights.label_ids()[:2]:
        (tmp_path / "data" / identifier).mkdir(parents=True)
        Image.open(photo).save(tmp_path / "data" / identifier / "red.png")

    result = run("eval", SMALL, "--data", tmp_path / "data", "--json", "--save", tmp_path / "out")

    assert json.loads(result.stdout)["photos"] == 2
    assert json.loads(result.stdout)["top1"] in (0, 50)  # the same photo under two names
    assert (tmp_path / "out" / "confusion.png").exists()


def test_eval_refuses_folders_that_are_no_classes_of_the_weights() -> None:
    result = run("eval", SMALL, "--data", ASSETS / "clothing", "--split", "val")

    assert result.exit_code == 3
    assert "10 of 10 class folders are not classes of" in result.stderr


def test_eval_names_a_path_that_does_not_exist() -> None:
    result = run("eval", SMALL, "--data", "nowhere/at/all")

    assert result.exit_code == 3
    assert "no such folder or archive: nowhere/at/all" in result.stderr


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: weights.name)
def test_every_published_file_verifies(weights: wszoo.Weights) -> None:
    result = run("verify", weights.name)

    assert result.exit_code == 0, result.output
    assert result.output.rstrip().endswith("ok")


def test_fold_writes_a_marked_file_that_is_not_taken_for_weights(tmp_path: Path) -> None:
    output = tmp_path / "folded.safetensors"

    result = run("fold", SMALL, "-o", output)
    verdict = run("verify", output, "--model", SMALL)

    assert result.exit_code == 0
    assert read_metadata(output)["folded"] == "true"
    assert set(load_file(output)) == set(timm.create_model(SMALL).state_dict())
    assert verdict.exit_code == 1
    assert "folded" in verdict.stderr


def test_fold_asks_for_a_safetensors_name(tmp_path: Path) -> None:
    result = run("fold", SMALL, "-o", tmp_path / "folded.pth")

    assert result.exit_code == 2
    assert "must end in .safetensors" in result.output


def test_lint_is_content_with_ours_and_not_with_batch_norm() -> None:
    assert run("lint", SMALL).exit_code == 0

    result = run("lint", "resnet18")

    assert result.exit_code == 1
    assert "BatchNorm" in result.output


def test_doctor_reports_as_json() -> None:
    findings = json.loads(run("doctor", "--json").output)

    assert {"subject", "value", "ok", "advice"} <= set(findings[0])


def test_bench_prints_ratios() -> None:
    result = run("bench", "--model", SMALL, "--rounds", "1", "--json")

    assert result.exit_code == 0, result.output
    assert all(row["ratio"] > 0 for row in json.loads(result.output)["rows"])
