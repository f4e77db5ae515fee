"""What comes back changed is never tagged."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from tests.hub_server import Fault, HubServer
from tests.publish.folders import (
    NAME,
    REPOSITORY,
    commits,
)
from wszoo.publish import (
    Publication,
    VerificationError,
    publish,
)
from wszoo.publish.verification import verify_published
from wszoo.weights import ASSETS, WEIGHTS_FILE

PACKAGED = ASSETS / NAME / WEIGHTS_FILE


@pytest.mark.parametrize("flip", [0, 100, 700_000])
def test_weights_that_come_back_changed_are_not_tagged(
    hub: HubServer, publication: Publication, flip: int
) -> None:
    hub.faults.append(Fault(match=f"GET /lfs/{publication.weights.sha256}", flip=flip))

    with pytest.raises(VerificationError) as caught:
        publish(publication, REPOSITORY)

    sha = hub.repos[REPOSITORY].commits[-1].sha
    message = str(caught.value)
    assert message.startswith(f"{WEIGHTS_FILE} of {REPOSITORY}@{sha} has sha256 ")
    sent = str(publication.weights.sha256)[:12]
    assert f"{sent}… was sent; published as {sha}, but not tagged: repeat" in message
    assert hub.repos[REPOSITORY].tags == {}


def test_weights_of_another_size_are_not_tagged(hub: HubServer, publication: Publication) -> None:
    hub.faults.append(Fault(match=f"GET /lfs/{publication.weights.sha256}", body=b"short"))

    with pytest.raises(VerificationError, match="does not come whole: .*; published as .* not tag"):
        publish(publication, REPOSITORY)

    assert hub.repos[REPOSITORY].tags == {}


@pytest.mark.usefixtures("no_pauses")
def test_a_connection_that_always_ends_early_is_no_fault_of_the_file(
    hub: HubServer, publication: Publication
) -> None:
    hub.faults.append(Fault(match="GET /lfs/", cut_after=100, times=-1))

    with pytest.raises(ConnectionError, match="no answer from .* see to the network; published as"):
        publish(publication, REPOSITORY)

    assert hub.repos[REPOSITORY].tags == {}


def test_a_cached_copy_does_not_stand_in_for_what_lies_on_the_hub(
    hub: HubServer, publication: Publication
) -> None:
    publish(publication, REPOSITORY)
    timm.create_model(f"hf-hub:{REPOSITORY}", pretrained=True)  # fills the cache
    hub.repos[REPOSITORY].tags.clear()
    hub.faults.append(Fault(match="/resolve/", flip=5, times=-1))

    with pytest.raises(VerificationError, match=r"README\.md of .* has sha256"):
        publish(publication, REPOSITORY)

    assert hub.repos[REPOSITORY].tags == {}


def test_other_logits_are_told_even_where_the_digests_agree(
    hub: HubServer, publication: Publication, tmp_path: Path
) -> None:
    tensors = load_file(PACKAGED)
    tensors["fc.bias"][7] += 0.5
    save_file(tensors, tmp_path / WEIGHTS_FILE, {"formula": "jhu"})
    publish(publication, REPOSITORY)
    other = tuple(
        replace(file, path=tmp_path / WEIGHTS_FILE) if file.name == WEIGHTS_FILE else file
        for file in publication.files
    )

    commit = hub.repos[REPOSITORY].commits[-1].sha
    with pytest.raises(VerificationError, match=f"hf-hub:.*{commit} gives other logits than"):
        verify_published(HfApi(), REPOSITORY, commit, replace(publication, files=other))


def test_a_file_that_is_missing_there_is_told(hub: HubServer, publication: Publication) -> None:
    made = hub.publish(REPOSITORY, {"config.json": b"{}"})

    with pytest.raises(VerificationError, match=rf"README\.md of {REPOSITORY}@.* is not there"):
        verify_published(HfApi(), REPOSITORY, made.sha, publication)


@pytest.mark.usefixtures("no_pauses")
def test_a_network_that_fails_during_verification_leaves_a_commit_to_go_on_from(
    hub: HubServer, publication: Publication
) -> None:
    hub.faults.append(Fault(match="/resolve/", status=503, times=-1))

    with pytest.raises(ConnectionError, match="published as .*, but not tagged, since not verif"):
        publish(publication, REPOSITORY)
    hub.faults.clear()
    report = publish(publication, REPOSITORY)

    assert (report.outcome, report.tag, commits(hub)) == ("unchanged", "v1", 1)
