"""The commands, as a user types them."""

import json
import logging
from pathlib import Path

import pytest
import timm
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

import wszoo
from wszoo.cli import main
from wszoo.weights import ASSETS, WEIGHTS, WEIGHTS_FILE, read_metadata

SMALL = "test_resnet_gn_ws"
TRAINED = {weights.model for weights in WEIGHTS}
BARE = next(name for name in timm.list_models(module="ws_resnet") if name not in TRAINED)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (90, 60), (200, 30, 30)).save(path)
    return path


@pytest.fixture
def data(photo: Path, tmp_path: Path) -> Path:
    """Two class folders of the small net, one red photo in each."""
    for identifier in wszoo.weights.find(SMALL).label_ids()[:2]:
        (tmp_path / "data" / identifier).mkdir(parents=True)
        Image.open(photo).save(tmp_path / "data" / identifier / "red.png")
    return tmp_path / "data"


CARD = str(Path(__file__).parents[1] / "model_cards" / "test_resnet_gn_ws.e3_tin200")
# Every command with arguments that it accepts; PHOTO, DATA, FILE and NEW are replaced by paths.
COMMANDS = {
    "list": ["list", "test*"],
    "show": ["show", SMALL],
    "predict": ["predict", SMALL, "PHOTO"],
    "eval": ["eval", SMALL, "--data", "DATA"],
    "verify": ["verify", "FILE"],
    "export": ["export", SMALL, "-o", "NEW.pt2"],
    "fold": ["fold", SMALL, "-o", "NEW"],
    "shards": ["shards", "make", "DATA", "-o", "FOLDER"],
    "check-data": ["check-data", "--task", "classify", "--data", "DATA"],
    "download": ["download", SMALL, "--to", "FOLDER"],
    "convert": ["convert", "FILE", "-o", "FOLDER"],
    "confirm": ["confirm", SMALL, "--data", "DATA"],
    "finetune": ["finetune", "classify", "--data", "DATA", "--out", "FOLDER"],
    "lint": ["lint", SMALL],
    "invariance": ["invariance", SMALL, "--batch", "2", "--pixels", "40"],
    "card": ["card", SMALL],
    "gallery": ["gallery", "test*", "-o", "FOLDER"],
    "push": ["push", CARD, "--repo", "tester/small", "--dry-run"],
    "demo": ["demo", "--out", "NEW"],
    "doctor": ["doctor"],
    "bench": ["bench", "--model", SMALL, "--only", "operator", "--rounds", "1", "--threads", "1"],
}
SLOW = ("demo",)
OWN_TESTS = (
    "demo",
    "convert",
    "confirm",
    "finetune",
    "export",
)  # with files made there


def test_every_command_is_tried() -> None:
    assert set(COMMANDS) == set(main.commands)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in COMMANDS
        if name not in OWN_TESTS
    ],
)
def test_a_command_does_its_work_and_reports_as_json(
    command: str, photo: Path, data: Path, tmp_path: Path
) -> None:
    paths = {"PHOTO": photo, "DATA": data, "NEW": tmp_path / "new.safetensors"}
    paths["FOLDER"] = tmp_path / "folder"
    paths["FILE"] = ASSETS / wszoo.weights.find(SMALL).name / WEIGHTS_FILE
    arguments = [paths.get(argument, argument) for argument in COMMANDS[command]]
    has_json = any("--json" in option.opts for option in main.commands[command].params)

    result = run(*arguments, *(["--json"] if has_json else []))

    assert result.exit_code == 0, result.output
    assert has_json or command in ("fold", "shards")
    assert json.loads(result.stdout) if has_json else result.stdout


def test_list_shows_every_variant_once_or_once_per_set_of_weights() -> None:
    rows = json.loads(run("list", "--json").output)

    assert {row["model"] for row in rows} == set(timm.list_models(module="ws_resnet"))
    assert sorted(row["name"] for row in rows if row["tag"]) == sorted(w.name for w in WEIGHTS)
    assert len(run("list").output.splitlines()) == len(rows) + 1


def test_list_filters_by_glob_and_by_weights() -> None:
    rows = json.loads(run("list", "test_*", "--pretrained", "--json").output)

    assert [row["name"] for row in rows] == [w.name for w in WEIGHTS if w.model == SMALL]


def test_list_says_what_matched_nothing() -> None:
    for arguments, output in (((), ""), (("--json",), "[]\n")):
        result = run("list", "nothing*", *arguments)

        assert result.exit_code == 1
        assert result.stderr == "wszoo: nothing matches 'nothing*'; `wszoo list` shows all\n"
        assert result.stdout == output


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "resnet51_gn_ws", "x.jpg"], "no model 'resnet51_gn_ws'; did you mean "),
        (["lint", "resnet5_gn_wz"], "resnet50_gn_ws"),
        (["lint", "zzz"], "no model 'zzz'; `wszoo list` shows every variant"),
        (["verify", "nosuch.bin"], "there is no file 'nosuch.bin', and no model 'nosuch';"),
        (["verify", "resnet18"], "'resnet18' is not of this zoo; see `wszoo list`"),
        (["verify", "x.safetensors", "--model", "resnet18"], "'resnet18' is not of this zoo"),
        (["show", "resnet18"], "'resnet18' is not of this zoo; see `wszoo list`"),
        (["show", "local-dir:x"], "'local-dir:x' is not of this zoo; see `wszoo list`"),
        (["bench", "--model", "resnet18"], "'resnet18' is not of this zoo"),
        (["fold", "resnet18", "-o", "x.safetensors"], "'resnet18' is not of this zoo"),
        (["fold", BARE, "-o", "x.safetensors"], f"{BARE!r} has no weights; `wszoo list --pretr"),
        (["predict", BARE, "x.jpg"], f"{BARE!r} has no weights; `wszoo list --pretrained` shows"),
        (["eval", BARE, "--data", "x"], f"{BARE!r} has no weights; `wszoo list --pretrained`"),
        (["verify", BARE], f"{BARE!r} has no weights; `wszoo list --pretrained`"),
        (["show", f"{BARE}.a1"], "`wszoo list --pretrained` shows those with weights"),
        (["predict", SMALL, "x.jpg", "--top", "0"], "x>=1"),
        (["eval", SMALL, "--data", "x", "--batch-size", "0"], "x>=1"),
        (["bench", "--rounds", "0"], "x>=1"),
        (["bench", "--threads", "0"], "x>=1"),
    ],
    ids=" ".join,
)
def test_a_typing_mistake_is_a_usage_error(arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert message in result.stderr


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


def test_eval_counts_photos_in_class_folders(data: Path, tmp_path: Path) -> None:
    result = run("eval", SMALL, "--data", data, "--json", "--save", tmp_path / "out")

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


@pytest.mark.parametrize(
    "weights", [w for w in WEIGHTS if w.packaged], ids=lambda weights: weights.name
)
def test_every_packaged_file_verifies(weights: wszoo.Weights) -> None:
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


def test_fold_names_a_folder_that_cannot_be_made(photo: Path) -> None:
    result = run("fold", SMALL, "-o", photo / "folded.safetensors")

    assert result.exit_code == 3
    assert result.stderr.startswith(f"wszoo: cannot make the folder {photo}: ")
    assert len(result.stderr.splitlines()) == 1


def test_fine_tuned_weights_verify_as_their_variant_and_not_as_published(tmp_path: Path) -> None:
    model = timm.create_model(SMALL, num_classes=3)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")

    as_variant = run("verify", tmp_path / "mine.safetensors", "--model", SMALL)
    published = wszoo.weights.find(SMALL).name
    as_published = run("verify", tmp_path / "mine.safetensors", "--model", published)

    assert as_variant.exit_code == 0, as_variant.output
    assert as_published.exit_code == 1
    assert "its record says" in as_published.stderr


def test_predict_names_the_classes_that_a_folder_states(photo: Path, tmp_path: Path) -> None:
    model = timm.create_model(SMALL, num_classes=2)
    folder = tmp_path / "net"
    folder.mkdir()
    save_file(model.state_dict(), folder / WEIGHTS_FILE)
    config = {"architecture": SMALL, "num_classes": 2, "label_names": ["hat", "dress"]}
    config |= {"pretrained_cfg": {"num_classes": 2}, "wszoo": {"formula": "jhu"}}
    (folder / "config.json").write_text(json.dumps(config))

    result = run("predict", f"local-dir:{folder}", photo, "--json")

    assert result.exit_code == 0, result.output
    names = [row["name"] for row in json.loads(result.stdout)[0]["classes"]]
    assert sorted(names) == ["dress", "hat"]


def test_what_cannot_be_loaded_is_said_in_one_line(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "none", "pretrained_cfg": {}})
    )

    for name in (f"local-dir:{tmp_path}", f"local-dir:{tmp_path}/gone"):
        result = run("predict", name, photo)

        assert result.exit_code == 3
        assert result.stderr.startswith("wszoo: ") and len(result.stderr.splitlines()) == 1


def test_a_bug_shows_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def diagnose() -> None:
        raise RuntimeError("expected scalar type Float but found Half")

    monkeypatch.setattr("wszoo.doctor.diagnose", diagnose)

    assert isinstance(run("doctor").exception, RuntimeError)


def test_the_hubs_client_keeps_its_tries_to_itself() -> None:
    run("list", "nothing")

    assert not logging.getLogger("huggingface_hub.utils").isEnabledFor(logging.WARNING)


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


@pytest.mark.slow
def test_bench_prints_ratios_of_one_part_after_another() -> None:
    parts = ("operator", "inference", "training", "loader")
    only = [word for part in parts for word in ("--only", part)]

    result = run("bench", "--model", SMALL, "--quick", "--rounds", "1", *only, "--json")

    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert all(row["ratio"] > 0 for row in rows)
    assert tuple(dict.fromkeys(row["group"] for row in rows)) == parts
