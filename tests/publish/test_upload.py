"""Pushing to a stand-in for the Hub, with the real client and the real timm."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard

from tests.hub_server import Fault, HubServer
from tests.publish.folders import (
    COMMIT,
    NAME,
    REPOSITORY,
    edit_json,
    put_record,
    render,
    taken_from,
)
from wszoo.publish import (
    Publication,
    PushReport,
    publish,
    push,
)
from wszoo.publish.verification import fixed_inputs, logits
from wszoo.weights import ASSETS, WEIGHTS_FILE, find

PACKAGED = ASSETS / NAME / WEIGHTS_FILE


def test_what_was_pushed_is_got_back_bit_for_bit(hub: HubServer, publication: Publication) -> None:
    report = publish(publication, REPOSITORY)

    inputs = fixed_inputs((3, 64, 64))
    here = logits(timm.create_model(NAME, pretrained=True), inputs)
    for name in (REPOSITORY, f"{REPOSITORY}@v1", f"{REPOSITORY}@{report.commit}"):
        there = timm.create_model(f"hf-hub:{name}", pretrained=True)
        assert torch.equal(logits(there, inputs), here)


def test_the_registered_name_gets_it_back_once_its_record_names_the_commit(
    hub: HubServer, publication: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = publish(publication, REPOSITORY)
    here = timm.create_model(NAME, pretrained=True)
    pinned = f"{REPOSITORY}@{report.pin}"
    put_record(replace(publication.weights, hub=pinned, packaged=False), monkeypatch)
    before = len(hub.requests)

    there = timm.create_model(NAME, pretrained=True)

    assert any(request.origin == "cdn" for request in hub.requests[before:])
    inputs = fixed_inputs((3, 64, 64))
    assert torch.equal(logits(there, inputs), logits(here, inputs))


def test_verifying_fetches_every_file_once(hub: HubServer, publication: Publication) -> None:
    report = publish(publication, REPOSITORY)

    for file in publication.files:
        asked = hub.asked(f"/resolve/{report.commit}/{file.name}")
        large = hub.asked(f"GET /lfs/{file.sha256}")
        assert len(asked) + len(large) == 2  # what it is, and its content


def test_a_push_is_one_commit_of_exactly_the_files_and_is_tagged(
    hub: HubServer, publication: Publication
) -> None:
    report = publish(publication, REPOSITORY)

    repo = hub.repos[REPOSITORY]
    assert len(hub.asked(COMMIT)) == 1
    assert [commit.title for commit in repo.commits] == ["initial commit", f"Publish {NAME}"]
    sent = {file.name: file.path.read_bytes() for file in publication.files}
    assert {k: v for k, v in repo.commits[-1].files.items() if k != ".gitattributes"} == sent
    assert set(sent) >= {"README.md", "config.json", "curves.png", WEIGHTS_FILE, "results.json"}
    assert repo.tags == {"v1": repo.commits[-1].sha}
    assert report == PushReport(
        name=NAME,
        repository=REPOSITORY,
        files=publication.files,
        outcome="published",
        commit=repo.commits[-1].sha,
        tag="v1",
        pin=repo.commits[-1].sha,
    )
    assert report.pinned == f'hub="{REPOSITORY}@{repo.commits[-1].sha}",'
    assert not repo.private


def test_the_card_that_is_sent_names_library_and_licence(publication: Publication) -> None:
    (card,) = (file.path for file in publication.files if file.name == "README.md")

    front = ModelCard(card.read_text(encoding="utf-8")).data.to_dict()

    assert (front["library_name"], front["license_name"]) == ("timm", publication.weights.license)


def test_pushing_the_same_again_makes_no_commit_and_says_so(
    hub: HubServer, publication: Publication
) -> None:
    first = publish(publication, REPOSITORY)

    again = publish(publication, REPOSITORY)

    assert again == replace(first, outcome="unchanged")
    assert len(hub.asked(COMMIT)) == 1
    assert list(hub.repos[REPOSITORY].tags) == ["v1"]


def test_other_content_gets_the_next_tag_and_what_is_gone_is_deleted(
    hub: HubServer, folder: Path
) -> None:
    (folder / "old.png").write_bytes((folder / "curves.png").read_bytes())
    first = push(folder, REPOSITORY)
    (folder / "old.png").unlink()
    edit_json(folder / "results.json", "remark", value="Looked at again.")
    render(folder, find(NAME))

    second = push(folder, REPOSITORY)

    repo = hub.repos[REPOSITORY]
    assert repo.tags == {"v1": first.commit, "v2": second.commit}
    assert "old.png" in repo.at("v1").files and "old.png" not in repo.at("v2").files
    assert b"Looked at again." in repo.at("v2").files["README.md"]


def test_a_record_keeps_its_commit_while_weights_and_configuration_are_the_same(
    hub: HubServer, publication: Publication, folder: Path
) -> None:
    first = publish(publication, REPOSITORY)
    pinned = replace(publication.weights, hub=f"{REPOSITORY}@{first.commit}")
    render(folder, pinned)  # names the commit
    files = replace(taken_from(folder, publication), weights=pinned)

    second = publish(files, REPOSITORY)
    edited = folder / "config.json"
    edited.write_text(edited.read_text() + "\n")
    third = publish(replace(taken_from(folder, publication), weights=pinned), REPOSITORY)

    assert second.commit != first.commit and second.pin == first.commit
    assert third.pin == third.commit


def test_a_record_of_a_commit_that_is_gone_gets_the_new_one(
    hub: HubServer, publication: Publication
) -> None:
    gone = replace(publication.weights, hub=f"{REPOSITORY}@{40 * 'a'}")

    report = publish(replace(publication, weights=gone), REPOSITORY)

    assert report.pin == report.commit


def test_a_dry_run_makes_no_request(hub: HubServer, publication: Publication) -> None:
    report = publish(publication, REPOSITORY, dry_run=True)

    assert hub.requests == []
    assert (report.outcome, report.commit, report.pinned) == ("dry run", None, None)
    assert report.files == publication.files
    weights = next(line for line in str(report).splitlines() if WEIGHTS_FILE in line)
    assert f"{PACKAGED.stat().st_size:,} bytes" in weights


def test_the_token_goes_to_the_hub_alone(hub: HubServer, publication: Publication) -> None:
    publish(publication, REPOSITORY)

    sent = {(request.origin, request.headers["Authorization"]) for request in hub.requests}
    assert sent == {("hub", "Bearer hf_test"), ("cdn", None)}
    assert any(line.startswith("PUT /lfs/") for line in hub.asked())


def test_a_private_push_makes_a_private_repository(
    hub: HubServer, publication: Publication
) -> None:
    publish(publication, REPOSITORY, private=True)

    assert hub.repos[REPOSITORY].private


def test_a_public_repository_is_not_taken_for_a_private_one(
    hub: HubServer, publication: Publication
) -> None:
    publish(publication, REPOSITORY)

    with pytest.raises(ValueError, match="is public already; .*leave out --private; nothing was p"):
        publish(publication, REPOSITORY, private=True)


def test_files_of_others_are_neither_kept_nor_deleted(
    hub: HubServer, publication: Publication
) -> None:
    hub.publish(REPOSITORY, {"pytorch_model.bin": b"\x80\x02", "LICENSE": b"mine"})

    with pytest.raises(ValueError, match=r"holds LICENSE, pytorch_model.bin, which no push puts"):
        publish(publication, REPOSITORY)

    assert not hub.asked(COMMIT)


def test_a_tag_that_fails_is_set_by_the_next_push(hub: HubServer, publication: Publication) -> None:
    hub.faults.append(Fault(match="/tag/", status=500))

    with pytest.raises(
        ConnectionError,
        match="published and verified as .*, whether it was tagged is not known: rep",
    ):
        publish(publication, REPOSITORY)
    report = publish(publication, REPOSITORY)

    assert (report.outcome, report.tag) == ("unchanged", "v1")


@pytest.mark.parametrize("repository", ["name", "a/b/c", "a/b c", "", "a/..b"])
def test_a_repository_is_named_as_the_hub_names_them(
    hub: HubServer, publication: Publication, repository: str
) -> None:
    with pytest.raises(ValueError, match=f"'{repository}' is no repository; write NAMESPACE/NAME"):
        publish(publication, repository, dry_run=True)
