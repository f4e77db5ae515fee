"""The net of a run, pushed with its card, and got back."""

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
from click.testing import CliRunner, Result
from huggingface_hub import HfApi, snapshot_download
from safetensors.torch import load_file
from torch import Tensor

import wszoo
from tests.hub_server import Fault, HubServer
from tests.publish.folders import edit_json
from tests.publish.runs import RUN_REPOSITORY, SAID, finetuned, pretrained
from wszoo.files import sha256_of
from wszoo.finetune.settings import TaskName
from wszoo.publish import VerificationError, check, check_run_folder, publish, push
from wszoo.publish.verification import fixed_inputs, verify_published
from wszoo.push_cli import push as command
from wszoo.weights import WEIGHTS_FILE
from wszoo.weights_file import read_metadata, weights_bytes


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card folder of a fine-tuned classifier, which no test changes."""
    return finetuned(tmp_path_factory.mktemp("classifier"), "classify")


@pytest.fixture
def folder(classifier: Path, tmp_path: Path) -> Path:
    """A copy of that."""
    shutil.copytree(classifier, tmp_path / "mine")
    return tmp_path / "mine"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@torch.inference_mode()
def answers(net: Any, *, as_list: bool = False) -> Any:
    photos = (fixed_inputs((3, 64, 64)) + 1) / 2
    return net([*photos] if as_list else photos)


def test_a_classifier_is_got_back_bit_for_bit_by_timm_and_by_load_finetuned(
    hub: HubServer, classifier: Path
) -> None:
    report = push(classifier, RUN_REPOSITORY)

    here = answers(timm.create_model(f"local-dir:{classifier}", pretrained=True).eval())
    for revision in ("", "@v1", f"@{report.commit}"):
        there = timm.create_model(f"hf-hub:{RUN_REPOSITORY}{revision}", pretrained=True)
        assert torch.equal(answers(there.eval()), here)
    copy = snapshot_download(RUN_REPOSITORY, revision="v1")
    net, facts = wszoo.load_finetuned(copy)
    assert torch.equal(answers(net), here) and facts.classes == ("red", "blue")


def test_a_run_is_one_verified_and_tagged_commit_of_its_folder(
    hub: HubServer, classifier: Path
) -> None:
    report = push(classifier, RUN_REPOSITORY)
    again = push(classifier, RUN_REPOSITORY)

    repo = hub.repos[RUN_REPOSITORY]
    assert [commit.title for commit in repo.commits] == ["initial commit", "Publish Red, blue"]
    sent = {path.name: path.read_bytes() for path in classifier.iterdir()}
    assert {k: v for k, v in repo.commits[-1].files.items() if k != ".gitattributes"} == sent
    assert repo.tags == {"v1": report.commit} and again == replace(report, outcome="unchanged")
    assert report.pinned is None
    assert report.loading == (
        f'import wszoo, timm; timm.create_model("hf-hub:{RUN_REPOSITORY}@{report.commit}", '
        f"pretrained=True)"
    )
    exec(report.loading, {})
    assert str(report).endswith(f"verified, tagged v1\n  to load it: {report.loading}")
    assert report.to_json()["record"] is None
    assert report.to_json()["loading"] == report.loading


def test_a_pretrained_net_is_got_back_bit_for_bit(hub: HubServer, tmp_path: Path) -> None:
    folder = pretrained(tmp_path)

    push(folder, RUN_REPOSITORY)

    there = timm.create_model(f"hf-hub:{RUN_REPOSITORY}", pretrained=True).state_dict()
    here = load_file(folder / WEIGHTS_FILE)
    assert there.keys() == here.keys()
    assert all(torch.equal(there[key], here[key]) for key in here)


@pytest.mark.parametrize("task", ["segment", pytest.param("detect", marks=pytest.mark.slow)])
def test_a_net_for_photos_is_got_back_as_its_card_says(
    task: TaskName, hub: HubServer, tmp_path: Path
) -> None:
    folder = finetuned(tmp_path, task)

    report = push(folder, RUN_REPOSITORY)

    assert report.loading == (
        f"hf download {RUN_REPOSITORY} --revision {report.commit} --local-dir FOLDER, then "
        f'wszoo.load_finetuned("FOLDER")'
    )
    assert "--revision COMMIT --local-dir FOLDER" in (folder / "README.md").read_text()
    copy = snapshot_download(RUN_REPOSITORY, revision=report.commit, local_dir=tmp_path / "FOLDER")
    there, here = wszoo.load_finetuned(copy)[0], wszoo.load_finetuned(folder)[0]
    found, kept = (answers(net, as_list=task == "detect") for net in (there, here))
    if task == "segment":
        assert torch.equal(found, kept)
    else:
        assert all(
            torch.equal(a[key], b[key]) for a, b in zip(found, kept, strict=True) for key in b
        )


@pytest.mark.parametrize(
    "task",
    ["classify", *(pytest.param(task, marks=pytest.mark.slow) for task in ("segment", "detect"))],
)
def test_other_answers_are_told_even_where_the_digests_agree(
    task: TaskName, hub: HubServer, tmp_path: Path
) -> None:
    folder = finetuned(tmp_path / "one", task)
    publication = check_run_folder(folder)
    other = finetuned(tmp_path / "two", task)
    replace_weights(other, lambda key, value: value + 0.5 if key.endswith("bias") else value)
    files = tuple(
        replace(file, path=other / file.name) if file.name == WEIGHTS_FILE else file
        for file in publication.files
    )
    push(folder, RUN_REPOSITORY)
    hub.repos[RUN_REPOSITORY].tags.clear()

    commit = hub.repos[RUN_REPOSITORY].commits[-1].sha
    with pytest.raises(VerificationError, match=f"hf-hub:.*{commit} gives other logits than"):
        verify_published(HfApi(), RUN_REPOSITORY, commit, replace(publication, files=files))


def replace_weights(folder: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    """Put others in their place, with all files naming them."""
    path = folder / WEIGHTS_FILE
    old, metadata = sha256_of(path), read_metadata(path)
    tensors = {key: change(key, value) for key, value in load_file(path).items()}
    path.write_bytes(weights_bytes(tensors, metadata))
    for name in ("config.json", "results.json", "README.md"):
        rewrite(folder / name, old, sha256_of(path))


def test_a_run_that_comes_back_changed_is_not_tagged(hub: HubServer, classifier: Path) -> None:
    hub.faults = [Fault("GET /lfs/", flip=200)]

    with pytest.raises(VerificationError, match="model.safetensors of .* not tagged: repeat the"):
        push(classifier, RUN_REPOSITORY)

    assert hub.repos[RUN_REPOSITORY].tags == {}


Change = Callable[[Path], object]
CHANGES: dict[str, tuple[Change, type[Exception], str]] = {
    "a pickle": (
        lambda folder: (folder / "last.pth").write_bytes(b"\x80\x02"),
        ValueError,
        r"holds last.pth; only README.md, .* are published, never a pickle: move it elsewhere",
    ),
    "no card": (
        lambda folder: (folder / "README.md").unlink(),
        FileNotFoundError,
        r"lacks README\.md; write the folder again with `wszoo card RUN`",
    ),
    "no results": (
        lambda folder: (folder / "results.json").unlink(),
        FileNotFoundError,
        r"lacks results\.json; write the folder again with `wszoo card RUN`",
    ),
    "no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        ValueError,
        r"config\.json is not JSON as published: Expecting .*; write the folder again",
    ),
    "a net of others": (
        lambda folder: edit_json(folder / "config.json", "wszoo", value=None),
        ValueError,
        r"config\.json has no key 'wszoo' that names sha256 and dtype, so .* `hf upload NAMESP",
    ),
    "a flipped bit": (
        lambda folder: flip(folder / WEIGHTS_FILE),
        ValueError,
        r"model\.safetensors has sha256 .*, its record says",
    ),
    "tensors of another net": (
        lambda folder: replace_weights(folder, lambda key, value: value[:1]),
        ValueError,
        r"the weights have .* of shape \(1,.*test_resnet_gn_ws.* has",
    ),
    "values that are none": (
        lambda folder: replace_weights(folder, lambda key, value: value / 0),
        ValueError,
        r"mine holds conv1\.weight that is not finite; train it again",
    ),
    "results of another net": (
        lambda folder: edit_json(folder / "results.json", "sha256", value="00"),
        ValueError,
        r"results\.json says sha256 '00', config\.json beside it '[0-9a-f]{64}'; write the folder",
    ),
    "a card of another net": (
        lambda folder: rewrite(folder / "README.md", r"`[0-9a-f]{64}`", "`00`"),
        ValueError,
        r"README\.md is no card of the model\.safetensors beside it; write the folder again",
    ),
    "no front matter": (
        lambda folder: rewrite(folder / "README.md", r"^---\n", ""),
        ValueError,
        r"README\.md is no card of the model\.safetensors",
    ),
    "no licence": (
        lambda folder: rewrite(folder / "README.md", r"(?m)^license: .*\n", ""),
        ValueError,
        "states no licence of the weights, and .* again with `wszoo card RUN --license SPDX`",
    ),
    "a picture that is missing": (
        lambda folder: rewrite(folder / "README.md", r"\Z", "\n![a](b.png)\n"),
        FileNotFoundError,
        r"README\.md shows b\.png, which is not beside it; write the folder again with `wszoo card",
    ),
    "a pickle named as a picture": (
        lambda folder: (folder / "b.png").write_bytes(b"\x80\x02"),
        ValueError,
        r"b\.png is no PNG picture",
    ),
}


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


def rewrite(path: Path, pattern: str, text: str) -> None:
    path.write_text(re.sub(pattern, text, path.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize("what", CHANGES)
def test_the_folder_of_a_run_is_refused_with(what: str, folder: Path) -> None:
    change, kind, message = CHANGES[what]
    check(folder)
    change(folder)

    with pytest.raises(kind, match=message) as caught:
        check(folder)

    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_segmenter_whose_tensors_do_not_fit_is_refused(tmp_path: Path) -> None:
    folder = finetuned(tmp_path, "segment")
    replace_weights(folder, lambda key, value: value[:1])

    with pytest.raises(ValueError, match="do not fit its configuration: size mismatch") as told:
        check(folder)

    assert "\n" not in str(told.value)


def test_a_run_itself_is_not_pushed_but_the_folder_of_its_card(classifier: Path) -> None:
    run = classifier.parent

    with pytest.raises(ValueError, match=f"{run} is a run; write .*, then push {run}/model"):
        check(run)


def test_the_command_takes_a_run_and_says_how_to_load_it(hub: HubServer, classifier: Path) -> None:
    result = run(classifier, "--repo", RUN_REPOSITORY, "--private", "--json")

    assert result.exit_code == 0, result.output
    (pushed,) = json.loads(result.stdout)["pushed"]
    assert (pushed["name"], pushed["repository"], pushed["outcome"], pushed["tag"]) == (
        *("Red, blue", RUN_REPOSITORY),
        *("published", "v1"),
    )
    assert pushed["commit"] in pushed["loading"] and hub.repos[RUN_REPOSITORY].private


def test_the_net_of_a_run_may_go_into_a_collection(hub: HubServer, classifier: Path) -> None:
    slug = HfApi().create_collection("Mine", namespace="tester").slug

    result = run(classifier, "--repo", RUN_REPOSITORY, "--collection", slug)

    assert result.exit_code == 0, result.output
    (item,) = hub.collections[slug]["items"]
    assert (item["id"], item["note"]) == (RUN_REPOSITORY, {"text": None})


def test_the_repository_of_a_run_has_to_be_named(
    hub: HubServer, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSZOO_HUB_NAMESPACE", "tester")

    result = run(classifier)

    assert result.exit_code == 2 and hub.requests == []
    said = " ".join(result.stderr.split())
    assert "no record is named 'model'; name the repository with --repo NAMESPACE/NAME" in said


def test_a_dry_run_of_a_run_asks_the_hub_nothing(hub: HubServer, classifier: Path) -> None:
    report = publish(check_run_folder(classifier), RUN_REPOSITORY, dry_run=True)

    assert hub.requests == [] and (report.outcome, report.loading) == ("dry run", None)
    assert {file.name for file in report.files} == {path.name for path in classifier.iterdir()}


def test_a_licence_that_nobody_stated_is_asked_for(tmp_path: Path) -> None:
    folder = finetuned(tmp_path, "classify", words=replace(SAID, license="not stated"))

    with pytest.raises(ValueError, match="states no licence of the weights"):
        check(folder)
