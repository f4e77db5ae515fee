"""Cards of finished runs, and their folders for the Hub."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image

from tests.photo_sets import write_classes, write_coco, write_masks
from wszoo.cards import text
from wszoo.cards.finetuned import finetuned_card
from wszoo.cards.finetuned_folder import results_of
from wszoo.cards.licences import NONE_STATED, licence_of, link_of, on_hub, told
from wszoo.cards.pretrained import finished_weights, pretrained_card
from wszoo.cards.run import write_record_card, write_run_card
from wszoo.cards.words import Words
from wszoo.finetune.data import DataSource
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build
from wszoo.finetune.outputs import load_finetuned, read_facts, save_output
from wszoo.finetune.run import Conditions, fine_tune
from wszoo.finetune.settings import TaskName
from wszoo.training.checkpoint import save_checkpoint
from wszoo.weights import WEIGHTS_FILE, find
from wszoo.weights_file import file_metadata, read_metadata, recipe_hash, with_metadata

CARDS = Path(__file__).parents[1] / "model_cards"
SMALL = "test_resnet_gn_ws.e3_tin200"
WRITERS: dict[TaskName, Callable[..., Path]] = {
    "classify": write_classes,
    "detect": write_coco,
    "segment": write_masks,
}
HEADS: dict[TaskName, str] = {"classify": "linear", "detect": "fcos", "segment": "semantic_fpn"}
SAID = Words(name="mine", data_license="CC0-1.0", data_name="Red & blue")
FILES = {"README.md", "config.json", "results.json", WEIGHTS_FILE, "curves.png"}


def front_matter(card: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(card.split("---\n", 2)[1])
    return content


def run_snippets(card: str, folder: Path, scratch: Path) -> int:
    """Run the Python of a card with its folder in the place of FOLDER."""
    Image.new("RGB", (96, 80), (230, 30, 20)).save(scratch / "photo.jpg")
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for code in snippets:
        assert code.startswith("import wszoo")
        code = code.replace("FOLDER", str(folder)).replace("photo.jpg", str(scratch / "photo.jpg"))
        exec(compile(code, "card", "exec"), {})
    return len(snippets)


@pytest.fixture(
    scope="module",
    params=["classify", *(pytest.param(t, marks=pytest.mark.slow) for t in ("detect", "segment"))],
)
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TaskName, Path]:
    """A task, and the folder of a run that is not written to."""
    torch.set_num_threads(1)
    task: TaskName = request.param
    root = tmp_path_factory.mktemp(task)
    settings = replace(
        settings_for(task, model=SMALL, head=HEADS[task], epochs=1, batch_size=2, image_size=64),
        max_size=96,
        scale=(0.8, 1.0),
    )
    source = DataSource(task=task, path=WRITERS[task](root / "data"))
    fine_tune(settings, source, root / "run", conditions=Conditions(workers=0))
    return task, root / "run"


def test_a_fine_tuned_net_gets_a_folder_to_push(
    finished: tuple[TaskName, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, run = finished
    output = tmp_path / "mine"

    written = write_run_card(run, output, words=SAID)

    card = (output / "README.md").read_text(encoding="utf-8")
    assert set(written.files) == {path.name for path in output.iterdir()} >= FILES
    assert "examples.png" not in written.files and written.missing == ()
    shown = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card))
    assert shown == {name for name in written.files if name.endswith(".png")}
    assert run_snippets(card, output, tmp_path) == (3 if task == "classify" else 1)
    assert load_finetuned(output)[1] == read_facts(run)


def test_its_card_says_what_the_run_has_left(
    finished: tuple[TaskName, Path], tmp_path: Path
) -> None:
    task, run = finished
    write_run_card(run, tmp_path / "mine", words=SAID)
    card, facts = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8"), read_facts(run)
    front, text = front_matter(card), " ".join(card.split())

    best = {"classify": "held_out_top1", "detect": "box_ap", "segment": "miou"}[task]
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(facts.metrics[best], 2)
    assert result["dataset"]["name"] == "Red & blue"
    assert front["model-index"][0]["name"] == "mine"
    assert (front["license"], front["license_name"]) == ("other", "imagenet-research")
    assert front["license_link"] == "https://www.image-net.org/download.php"
    assert "top-5" not in card  # of two classes
    assert f"| sha256 | `{facts.sha256}` |" in card
    assert f"| began with | `{SMALL}` (imagenet-research) |" in card
    assert "whose licence, imagenet-research, goes on to hold. Data: CC0-1.0." in text
    assert "fine-tuned with 2 images per step" in text
    declared = json.loads((run / "run.json").read_text())
    assert f"| code | {declared['code']} |" in card
    assert f"| data digest | {declared['data']['digest']} |" in card
    metadata = read_metadata(tmp_path / "mine" / WEIGHTS_FILE)
    assert f"| recipe hash | `{metadata['recipe_hash']}` |" in card
    assert metadata["recipe_hash"] == recipe_hash(declared["settings"])
    assert metadata["code"] == declared["code"]
    results = json.loads((tmp_path / "mine" / "results.json").read_text())
    assert {key: results[key] for key in ("recipe_hash", "code")}.items() <= metadata.items()
    assert f"On {declared['data']['held_out']} held-out photos, by which epoch 1 of 1" in text
    assert all(f"| `{key}` | {value} |" in card for key, value in (("lr", facts.settings.lr),))


def test_what_nobody_said_is_said_to_be_missing(
    finished: tuple[TaskName, Path], tmp_path: Path
) -> None:
    _, run = finished

    written = write_run_card(run, tmp_path / "mine")

    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert len(written.missing) == 2 and "(--data-license)" in str(written)
    assert "Data: not stated." in card and "unnamed" not in card
    assert front_matter(card)["license_name"] == "imagenet-research"  # that of the backbone
    assert "model-index" not in front_matter(card)


def test_photos_are_shown_only_if_asked_for(
    finished: tuple[TaskName, Path], tmp_path: Path
) -> None:
    _, run = finished

    write_run_card(run, tmp_path / "mine", examples=True)
    assert "(examples.png)" in (tmp_path / "mine" / "README.md").read_text()

    written = write_run_card(run, tmp_path / "mine")
    assert "(examples.png)" not in (tmp_path / "mine" / "README.md").read_text()
    assert "examples.png" not in written.files


def test_without_a_folder_the_net_of_the_run_gets_the_card(
    finished: tuple[TaskName, Path], tmp_path: Path
) -> None:
    _, run = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("step-*"))
    before = (copy / "model" / WEIGHTS_FILE).read_bytes()

    assert write_run_card(copy).folder == copy / "model"
    assert write_run_card(copy / "model").folder == copy / "model"

    assert (copy / "model" / WEIGHTS_FILE).read_bytes() == before
    assert (copy / "model" / "curves.png").exists()


def test_a_net_with_batch_norm_is_not_said_to_be_without(
    finished: tuple[TaskName, Path], tmp_path: Path
) -> None:
    _, run = finished
    write_run_card(run, tmp_path / "mine")
    facts = read_facts(run)
    results = results_of(run, facts, tmp_path / "mine")
    assert results["batch_norms"] == 0

    card = finetuned_card(facts, results | {"batch_norms": 53}, Words())

    assert "| BatchNorm layers | 53 |" in card
    assert "no layer looks at other images" not in " ".join(card.split())


@pytest.mark.parametrize(
    ("declared", "code"), [("0123abc", "0123abc"), ("unknown", "not recorded")]
)
def test_a_file_that_says_nothing_of_its_code_gets_a_card_all_the_same(
    declared: str, code: str, finished: tuple[TaskName, Path], tmp_path: Path
) -> None:
    _, run = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("step-*"))
    path = copy / "model" / WEIGHTS_FILE
    path.write_bytes(with_metadata(path.read_bytes(), {"format": "pt"}))
    facts = json.loads((copy / "run.json").read_text()) | {"code": declared}
    (copy / "run.json").write_text(json.dumps(facts))

    write_run_card(copy, words=SAID)

    card = (copy / "model" / "README.md").read_text(encoding="utf-8")
    assert f"| code | {code} |" in card
    assert f"| recipe hash | `{recipe_hash(facts['settings'])}` |" in card


def test_a_net_with_batch_channel_norm_says_so(tmp_path: Path) -> None:
    settings = settings_for("classify", model="resnet50_bcn_ws", image_size=64, pretrained=False)
    save_output(
        tmp_path / "run",
        build(settings, 6),
        settings,
        classes=tuple("abcdef"),
        class_ids=tuple("abcdef"),
        epoch=1,
        metrics={"held_out_top1": 50.0, "held_out_top5": 90.0},
    )

    write_run_card(tmp_path / "run", words=replace(SAID, license="Apache-2.0"))

    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    front = front_matter(card)
    assert {"weight-standardization", "batch-channel-normalization"} <= {*front["tags"]}
    assert "group-normalization" not in front["tags"] and front["license"] == "apache-2.0"
    assert "by statistics of the batch" in " ".join(card.split())
    assert "no layer looks at other images" not in " ".join(card.split())
    assert "| BatchChannelNorm layers | 53 |" in card and "| BatchNorm layers |" not in card
    assert "| top-5 | 90.00 % |" in card  # of six classes


@pytest.mark.parametrize(
    ("said", "identifier"),
    [
        ("CC0-1.0", "cc0-1.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("ODbL-1.0", "odbl"),
        ("imagenet-research", None),
        ("other", None),
    ],
)
def test_licences_have_the_names_of_the_hub(said: str, identifier: str | None) -> None:
    assert on_hub(said) == identifier


def test_weights_begun_with_those_that_nobody_licensed_have_no_licence() -> None:
    base = replace(find(SMALL), license=NONE_STATED)

    assert licence_of(Words(), base) is None and link_of(base) is None
    assert told(Words(), base).endswith("stated none: ask them before you publish copies.")
    with pytest.raises(ValueError, match=f"'mit' cannot be .* {SMALL}, which have no licence; lea"):
        licence_of(Words(license="mit"), base)


def test_a_licence_that_the_hub_does_not_know_is_named_without_a_link() -> None:
    front = front_matter(card_front("My own, 2"))

    assert (front["license"], front["license_name"]) == ("other", "my-own-2")
    assert "license_link" not in front


def card_front(license: str) -> str:
    return text.front_matter("mine", license=license, license_url=None, results=())


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_text("mine")

    with pytest.raises(FileExistsError, match=r"holds 'model\.ckpt', which is not part of a card"):
        write_record_card(find(SMALL), CARDS, tmp_path)
    with pytest.raises(FileExistsError, match="is a file; name a folder with -o"):
        write_record_card(find(SMALL), CARDS, tmp_path / "model.ckpt")

    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no fine-tuned net; name that of a finished"):
        write_run_card(tmp_path)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """What a run of ``train.pretrain`` leaves that a card is made of."""
    run = tmp_path / "run"
    model = timm.create_model("test_resnet_gn_ws", num_classes=3)
    save_checkpoint(run, 4, {"learner": {"model": model.state_dict(), "ema": None}})
    recipe = {"phases": [[2, 32]], "batch_size": 8, "test_size": 32, "test_crop": 1.0, "seed": 0}
    recipe |= {"held_out_per_class": 2, "start_tag": None}
    facts = {"model": "test_resnet_gn_ws", "recipe": "smoke", "settings": recipe}
    facts |= {"data": {"classes": 3, "photos": 120, "digest": "ab"}, "hardware": "1 CPU thread"}
    (run / "run.json").write_text(json.dumps({**facts, "code": "0123abc"}))
    rows = [
        {"epoch": epoch, "step": 2 * epoch, "pixels": 32, "loss": 1.0 / epoch, "seconds": 9.0}
        | {"held_out_top1": 40.0 * epoch, "held_out_top5": 100.0}
        for epoch in (1, 2)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_pretrained_net_gets_a_folder_to_push(pretrained: Path, tmp_path: Path) -> None:
    written = write_run_card(pretrained, words=replace(SAID, license="MIT"))

    folder = pretrained / "model"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert written.folder == folder and set(written.files) == FILES | {"cost.png"}
    assert run_snippets(card, folder, tmp_path) == 3
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    weights = finished_weights(pretrained)
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)
    assert "| top-1 | 80.0 % | held-out photos, last epoch, 32 px, crop 1.0 |" in card
    assert "chosen on 6 photos held out of the training set" in " ".join(card.split())
    assert "python -m train.pretrain test_resnet_gn_ws --recipe smoke --data DIR --out RUN" in card
    assert "Code 0123abc; torch" in card
    metadata = read_metadata(folder / WEIGHTS_FILE)
    settings = json.loads((pretrained / "run.json").read_text())["settings"]
    assert metadata == file_metadata(
        model="test_resnet_gn_ws", tag="smoke", formula="jhu", settings=settings, code="0123abc"
    )
    assert f"| recipe hash | `{metadata['recipe_hash']}` |" in card
    assert "Weights: MIT. Data: CC0-1.0." in card
    front = front_matter(card)
    assert front["license"] == "mit" and not {"license_name", "license_link"} & front.keys()
    (metric,) = front["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == 80.0 and "top-5" not in card  # of three classes
    assert json.loads((folder / "results.json").read_text())["data"]["photos"] == 120


def test_what_nobody_said_of_a_pretrained_net_is_left_out(pretrained: Path) -> None:
    written = write_run_card(pretrained)

    card = (written.folder / "README.md").read_text(encoding="utf-8")
    assert len(written.missing) == 3
    assert not {"license", "license_name", "model-index"} & front_matter(card).keys()
    assert "Weights: not stated. Data: not stated." in card and "unnamed" not in card
    config = json.loads((written.folder / "config.json").read_text())
    assert "not stated" not in str(config)


def test_a_pretrained_net_inherits_the_licence_of_what_it_began_with(pretrained: Path) -> None:
    text = (pretrained / "run.json").read_text()
    tag = SMALL.partition(".")[2]
    declared = text.replace('"start_tag": null', f'"start_tag": "{tag}"')
    (pretrained / "run.json").write_text(declared)

    with pytest.raises(ValueError, match=f"'mit' cannot be .* {SMALL}, whose licence, imagenet-re"):
        write_run_card(pretrained, words=replace(SAID, license="mit"))
    written = write_run_card(pretrained, words=SAID)

    card = (written.folder / "README.md").read_text(encoding="utf-8")
    assert front_matter(card)["license_name"] == "imagenet-research"
    assert f"They began with {SMALL}, whose licence" in " ".join(card.split())


def test_a_pretrained_net_with_batch_channel_norm_says_so(pretrained: Path) -> None:
    write_run_card(pretrained, words=SAID)
    results = json.loads((pretrained / "model" / "results.json").read_text())

    card = pretrained_card(replace(find(SMALL), model="resnet50_bcn_ws"), results, SAID)

    assert "batch-channel-normalization" in front_matter(card)["tags"]
    assert "no layer looks at other images" not in " ".join(card.split())


def test_a_pretraining_run_that_has_not_ended_is_refused(pretrained: Path) -> None:
    rows = (pretrained / "metrics.jsonl").read_text().splitlines(keepends=True)
    (pretrained / "metrics.jsonl").write_text(rows[0])

    with pytest.raises(ValueError, match="has 1 of 2 epochs; repeat its command to go on"):
        write_run_card(pretrained)


def test_a_damaged_or_missing_checkpoint_is_named(pretrained: Path) -> None:
    (pretrained / "step-00000004" / "state.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="step-00000004 is damaged; repeat the run's command"):
        write_run_card(pretrained)
    shutil.rmtree(pretrained / "step-00000004")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint; train it first"):
        write_run_card(pretrained)


def test_a_pretrained_net_of_others_gets_no_card(pretrained: Path) -> None:
    text = (pretrained / "run.json").read_text()
    (pretrained / "run.json").write_text(text.replace("test_resnet_gn_ws", "resnet10t"))

    with pytest.raises(ValueError, match="trained 'resnet10t', which is not of this zoo"):
        write_run_card(pretrained)
