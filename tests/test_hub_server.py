"""The stand-in for the Hub, held against the real client."""

import json
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from safetensors.torch import save

from tests.hub_repos import sha256
from tests.hub_server import Fault, HubServer

NAME = "tester/toy"
CARD = b"---\nlicense: mit\ntags:\n- timm\n---\n# Toy\n"
WEIGHTS = save({"fc.weight": torch.arange(6.0).reshape(2, 3)}, {"formula": "jhu"})


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, BytesIO(content))


def push(api: HfApi, *operations: CommitOperationAdd, parent: str | None = None) -> str:
    commit = api.create_commit(
        NAME, operations, commit_message="Publish", num_threads=1, parent_commit=parent
    )
    return commit.oid


def test_what_the_client_pushes_it_gets_back(hub: HubServer, tmp_path: Path) -> None:
    api = HfApi()
    assert api.whoami()["name"] == "tester"
    assert str(api.create_repo(NAME)) == f"{hub.endpoint}/{NAME}"
    api.create_repo(NAME, exist_ok=True)

    sha = push(api, add("README.md", CARD), add("model.safetensors", WEIGHTS))
    api.create_tag(NAME, tag="v1", revision=sha)

    assert [commit.title for commit in hub.repos[NAME].commits] == ["initial commit", "Publish"]
    for revision in ("main", "v1", sha):
        path = hf_hub_download(NAME, "model.safetensors", revision=revision)
        assert Path(path).read_bytes() == WEIGHTS
    assert Path(hf_hub_download(NAME, "README.md")).read_bytes() == CARD
    info = api.model_info(NAME, files_metadata=True)
    assert info.sha == sha and info.siblings is not None
    sizes = {file.rfilename: file.size for file in info.siblings}
    assert sizes["model.safetensors"] == len(WEIGHTS)
    assert {entry.path for entry in api.list_repo_tree(NAME)} == {*sizes}
    (entry,) = api.get_paths_info(NAME, ["model.safetensors"])
    assert isinstance(entry, RepoFile) and entry.size == len(WEIGHTS)
    (tag,) = api.list_repo_refs(NAME).tags
    assert (tag.name, tag.target_commit) == ("v1", sha)
    assert next(commit.commit_id for commit in api.list_repo_commits(NAME)) == sha
    assert api.get_safetensors_metadata(NAME).parameter_count == {"F32": 6}
    api.delete_tag(NAME, tag="v1")
    assert hub.repos[NAME].tags == {}


def test_an_unchanged_push_is_no_commit_and_a_changed_one_follows_the_last(hub: HubServer) -> None:
    api = HfApi()
    api.create_repo(NAME)
    first = push(api, add("config.json", b"{}"), add("model.safetensors", WEIGHTS))

    assert push(api, add("config.json", b"{}"), add("model.safetensors", WEIGHTS)) == first
    second = push(api, add("config.json", b"[]"), parent=first)
    with pytest.raises(HfHubHTTPError, match="412"):
        push(api, add("config.json", b"1"), parent=first)

    commits = hub.repos[NAME].commits
    assert [commit.sha for commit in commits[1:]] == [first, second]
    assert commits[-1].parent == first and commits[-1].files["config.json"] == b"[]"
    assert len(hub.asked("PUT")) == 1
    api.create_commit(NAME, [CommitOperationDelete("config.json")], commit_message="Less")
    assert "config.json" not in hub.repos[NAME].commits[-1].files


def test_the_token_goes_to_the_hub_alone(hub: HubServer) -> None:
    api = HfApi()
    api.create_repo(NAME)
    push(api, add("model.safetensors", WEIGHTS))
    hf_hub_download(NAME, "model.safetensors")

    tokens = {(r.origin, r.headers["Authorization"]) for r in hub.requests if r.method != "HEAD"}
    assert tokens == {("hub", "Bearer hf_test"), ("cdn", None)}


def test_a_large_file_lies_on_another_origin_and_comes_in_parts(hub: HubServer) -> None:
    hub.publish(NAME, {"model.safetensors": WEIGHTS})
    request = Request(f"{hub.endpoint}/{NAME}/resolve/main/model.safetensors")
    request.add_header("Range", "bytes=8-15")

    with urlopen(request) as response:
        assert response.url.startswith(hub.cdn) and hub.cdn != hub.endpoint
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes 8-15/{len(WEIGHTS)}"
        assert response.read() == WEIGHTS[8:16]


def test_the_client_sees_each_refusal_as_what_it_is(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(NAME, {"README.md": CARD})

    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(NAME, "nothing")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(NAME, "README.md", revision="v9")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("tester/nothing", "README.md")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi().create_repo("stranger/toy")
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        push(HfApi(), add("README.md", b"---\nlicense mit\n---\n"))
    with pytest.raises(HfHubHTTPError, match="409"):
        HfApi().create_repo(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi().whoami()


@pytest.mark.parametrize("right", ["private", "gated"])
def test_a_closed_repository_is_closed_to_strangers(right: str, hub: HubServer) -> None:
    hub.publish(NAME, {"README.md": CARD})
    setattr(hub.repos[NAME], right, True)

    error = GatedRepoError if right == "gated" else RepositoryNotFoundError
    with pytest.raises(error):
        hf_hub_download(NAME, "README.md", token=False)
    assert HfApi().model_info(NAME).private is (right == "private")


def test_a_file_above_the_size_of_a_part_is_uploaded_in_parts(hub: HubServer) -> None:
    api, size = HfApi(), 40
    api.create_repo(NAME)
    hub.part_size = size
    push(api, add("model.safetensors", WEIGHTS), add("small.bin", b"\0" * size))

    sent = hub.asked("PUT /lfs/")
    in_parts = [line for line in sent if sha256(WEIGHTS) in line]
    count = -(-len(WEIGHTS) // size)
    assert count > 2 and in_parts == [
        f"PUT /lfs/{sha256(WEIGHTS)}/{number}?sign=1" for number in range(1, count + 1)
    ]
    assert len(sent) == count + 1 and len(hub.asked("/lfs/verify")) == 2
    assert hub.asked("POST /lfs/") == [f"POST /lfs/{sha256(WEIGHTS)}?sign=1"]
    assert Path(hf_hub_download(NAME, "model.safetensors")).read_bytes() == WEIGHTS
    assert {r.headers["Authorization"] for r in hub.requests if r.origin == "cdn"} == {None}


def test_a_part_that_nobody_confirms_publishes_nothing(hub: HubServer) -> None:
    HfApi().create_repo(NAME)
    hub.part_size = 40
    hub.faults = [Fault("PUT /lfs/", body=b"")]

    with pytest.raises(RuntimeError, match="Error while uploading") as caught:
        push(HfApi(), add("model.safetensors", WEIGHTS))

    assert "Invalid etag" in str(caught.value.__cause__)
    assert len(hub.repos[NAME].commits) == 1 and hub.objects == {}


def test_what_is_uploaded_must_have_its_digest(hub: HubServer) -> None:
    url = f"{hub.cdn}/lfs/{sha256(WEIGHTS)}"
    whole = Request(url, WEIGHTS[1:], method="PUT")
    part = {"partNumber": 1, "etag": sha256(WEIGHTS[1:])}
    joined = Request(url, json.dumps({"parts": [part]}).encode(), method="POST")
    other = json.dumps({"parts": [part | {"partNumber": 2, "etag": "00"}]}).encode()
    for number in (1, 2):
        with urlopen(Request(f"{url}/{number}", WEIGHTS[1:], method="PUT")) as answer:
            assert answer.headers["ETag"] == f'"{part["etag"]}"'

    for request, told in (
        (whole, b"the content has another sha256"),
        (joined, b"the content has another sha256"),
        (Request(url, other, method="POST"), b"a part has another ETag"),
    ):
        with pytest.raises(HTTPError, match="400") as caught:
            urlopen(request)
        assert told in caught.value.read()
    assert hub.objects == {}


def test_a_repository_can_be_closed_and_deleted(hub: HubServer) -> None:
    api = HfApi()
    hub.publish(NAME, {"README.md": CARD})

    api.update_repo_settings(NAME, private=True)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download(NAME, "README.md", token=False)
    api.update_repo_settings(NAME, private=False, gated="manual")
    assert api.model_info(NAME).gated == "manual" and api.model_info(NAME).private is False
    with pytest.raises(GatedRepoError):
        hf_hub_download(NAME, "README.md", token=False)
    api.update_repo_settings(NAME, gated=False)
    hf_hub_download(NAME, "README.md", token=False)

    api.delete_repo(NAME)
    assert hub.repos == {}
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(NAME)
    api.delete_repo(NAME, missing_ok=True)


def test_a_collection_holds_each_model_once(hub: HubServer) -> None:
    api = HfApi()
    collection = api.create_collection("WS zoo", exists_ok=True)
    for _ in range(2):
        api.add_collection_item(collection.slug, NAME, "model", note="toy", exists_ok=True)

    again = api.create_collection("WS zoo", exists_ok=True)
    assert [(item.item_id, item.note) for item in again.items] == [(NAME, "toy")]
    assert [*hub.collections] == [collection.slug]


def test_a_fault_strikes_as_often_as_it_says(hub: HubServer) -> None:
    hub.publish(NAME, {"README.md": CARD, "model.safetensors": WEIGHTS})

    def get(path: str) -> bytes:
        with urlopen(f"{hub.endpoint}/{path}") as response:
            content: bytes = response.read()
        return content

    hub.faults = [
        Fault("/README.md", body=b"<html>"),
        Fault("/README.md", flip=0),
        Fault("/lfs/", cut_after=5),
    ]
    page = f"{NAME}/resolve/main/README.md"
    assert [get(page), get(page), get(page)] == [b"<html>", b"," + CARD[1:], CARD]
    with pytest.raises(Exception, match="IncompleteRead"):
        get(f"{NAME}/resolve/main/model.safetensors")
    assert get(f"{NAME}/resolve/main/model.safetensors") == WEIGHTS
    assert hub.faults == []


def test_a_lost_answer_was_acted_on(hub: HubServer) -> None:
    api = HfApi()
    api.create_repo(NAME)
    hub.faults = [Fault("/commit/", lost=True)]

    with pytest.raises(Exception, match="disconnected"):
        push(api, add("config.json", b"{}"))
    assert json.loads(hub.repos[NAME].commits[-1].files["config.json"]) == {}
