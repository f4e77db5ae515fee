"""What goes wrong between here and the Hub: one line each, and nothing half-published."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub_server import Fault, HubServer
from tests.publish.folders import (
    COMMIT,
    NAME,
    REPOSITORY,
    commits,
    interrupt_at,
    taken_from,
)
from wszoo.publish import (
    Publication,
    publish,
    verification,
)

CREATE = "/api/repos/create"


def test_a_repository_changed_meanwhile_is_left_as_it_is(
    hub: HubServer, publication: Publication
) -> None:
    def somebody_else(line: str) -> None:
        if line.startswith("sending README.md"):
            hub.publish(REPOSITORY, {"README.md": b"theirs"})

    with pytest.raises(OSError, match="somebody else changed it meanwhile .* nothing was publish"):
        publish(publication, REPOSITORY, echo=somebody_else)

    repo = hub.repos[REPOSITORY]
    assert repo.commits[-1].files["README.md"] == b"theirs" and not repo.tags


@pytest.mark.parametrize("answer", [b"[]", b'"hello"', b"7", b"{}"])
def test_json_of_somebody_else_is_told_in_one_line(
    hub: HubServer, publication: Publication, answer: bytes
) -> None:
    hub.faults.append(Fault(match=CREATE, body=answer, times=-1))

    with pytest.raises(ConnectionError, match="does not answer as the Hub does; see to HF_ENDPO"):
        publish(publication, REPOSITORY)


def test_a_disk_that_is_full_while_verifying_leaves_no_doubt_of_what_is_published(
    hub: HubServer, publication: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/there")

    with monkeypatch.context() as patch:
        patch.setattr(verification, "TemporaryDirectory", full)
        with pytest.raises(OSError, match=r"/tmp/there: No space left on device; see to") as caught:
            publish(publication, REPOSITORY)

    assert "published as " in str(caught.value) and commits(hub) == 1
    assert publish(publication, REPOSITORY).tag == "v1"


@pytest.mark.usefixtures("no_pauses")
def test_a_failed_upload_publishes_nothing(hub: HubServer, publication: Publication) -> None:
    hub.faults.append(Fault(match="PUT /lfs/", status=500, times=-1))

    with pytest.raises(ConnectionError) as caught:
        publish(publication, REPOSITORY)

    assert str(caught.value).startswith(f"cannot push to {REPOSITORY}: Error while uploading '")
    assert str(caught.value).endswith("try again later; nothing was published")
    assert "/lfs/" in str(caught.value) and "sign" not in str(caught.value), "it lets others write"
    assert commits(hub) == 0 and not hub.asked(COMMIT)


def test_an_answer_that_is_lost_is_found_out_by_the_next_push(
    hub: HubServer, publication: Publication
) -> None:
    hub.faults.append(Fault(match=COMMIT, lost=True))

    with pytest.raises(ConnectionError, match="whether it was published is not known: repeat the"):
        publish(publication, REPOSITORY)
    report = publish(publication, REPOSITORY)

    assert (report.outcome, report.tag, commits(hub)) == ("unchanged", "v1", 1)


@pytest.mark.parametrize(
    ("match", "left", "times"),
    [
        ("PUT /lfs/", "nothing was published", 0),
        (COMMIT, "whether it was published is not known: repeat the command, it finds out", 0),
        ("/refs", "published and verified as SHA, but not tagged: repeat the command", 1),
    ],
)
def test_whoever_stops_a_push_is_told_what_is_left(
    hub: HubServer,
    publication: Publication,
    monkeypatch: pytest.MonkeyPatch,
    match: str,
    left: str,
    times: int,
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(hub, match, patch)
        with pytest.raises(KeyboardInterrupt) as caught:
            publish(publication, REPOSITORY)

    sha = hub.repos[REPOSITORY].commits[-1].sha
    assert f"stopped while pushing to {REPOSITORY}; {left}".replace("SHA", sha) in str(caught.value)
    assert commits(hub) == times
    assert publish(publication, REPOSITORY).tag == "v1"


REFUSALS: dict[str, tuple[Fault, type[Exception], str]] = {
    "wrong token": (
        Fault(match=CREATE, status=401),
        PermissionError,
        r"the Hub does not know this token \(status 401\); run `hf auth login`; nothing was pub",
    ),
    "no right": (
        Fault(match="/preupload/", status=403),
        PermissionError,
        r"may not do that \(status 403\); use one with the right to write there, or name another",
    ),
    "no account": (
        Fault(match=CREATE, status=404),
        FileNotFoundError,
        r"no such account or repository \(status 404\); `hf auth whoami` shows the accounts",
    ),
    "too many requests": (
        Fault(match=CREATE, status=429, retry_after=7),
        ConnectionError,
        r"too many requests \(status 429\); wait 7 seconds; nothing was published",
    ),
    "too many, no time": (
        Fault(match=CREATE, status=429),
        ConnectionError,
        r"too many requests \(status 429\); wait some minutes; nothing was published",
    ),
    "server fails": (
        Fault(match=CREATE, status=500),
        ConnectionError,
        r"the Hub fails \(status 500\); try again later; nothing was published",
    ),
    "bad request": (
        Fault(match=CREATE, status=400),
        ValueError,
        r"the Hub does not take this \(status 400\); correct it; nothing was published",
    ),
    "payment": (
        Fault(match="/preupload/", status=402),
        ConnectionError,
        r"the Hub refuses \(status 402\); try again later; nothing was published",
    ),
    "login page": (
        Fault(match=CREATE, body=b"<html>Please log in</html>"),
        ConnectionError,
        r"does not answer as the Hub does; see to HF_ENDPOINT and to login pages; nothing was",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_is_one_line_with_the_way_out(
    hub: HubServer, publication: Publication, what: str
) -> None:
    fault, kind, message = REFUSALS[what]
    hub.faults.append(replace(fault))

    with pytest.raises(kind, match=message) as caught:
        publish(publication, REPOSITORY)

    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"cannot push to {REPOSITORY}: ")
    assert commits(hub) == 0


def test_the_account_of_somebody_else_is_refused_with_the_words_of_the_hub(
    hub: HubServer, publication: Publication
) -> None:
    with pytest.raises(PermissionError, match="status 403: You don't have the rights to create a"):
        publish(publication, f"somebody/{NAME}")


def test_front_matter_that_the_hub_refuses_is_told(
    hub: HubServer, publication: Publication, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: other\nnot yaml\n---\n")

    with pytest.raises(ValueError, match=r"Invalid metadata in README.md. .*not yaml; correct it"):
        publish(taken_from(tmp_path, publication), REPOSITORY)

    assert commits(hub) == 0


def test_without_a_token_no_request_is_made(
    hub: HubServer, publication: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")

    with pytest.raises(PermissionError, match="no token is here; run `hf auth login`; nothing was"):
        publish(publication, REPOSITORY)

    assert hub.requests == []


def test_offline_no_request_is_made(
    hub: HubServer, publication: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(ConnectionError, match="told to stay offline; unset HF_HUB_OFFLINE; nothi"):
        publish(publication, REPOSITORY)

    assert hub.requests == []


def test_a_hub_that_is_not_there_is_told(
    hub: HubServer, publication: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(ConnectionError, match=r"no answer from http://127.0.0.1:9 \(.*refused.*\)"):
        publish(publication, REPOSITORY)


def test_no_message_holds_the_token(
    hub: HubServer,
    publication: Publication,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    told = [str(publish(publication, REPOSITORY, echo=print))]
    for fault in (Fault(match="/preupload/", status=401), Fault(match="/tag/", status=500)):
        hub.repos[REPOSITORY].tags.clear()
        hub.faults.append(fault)
        with pytest.raises((PermissionError, ConnectionError)) as caught:
            publish(publication, REPOSITORY)
        told.append(str(caught.value))

    written = capfd.readouterr()
    assert hub.token not in "".join([*told, caplog.text, written.out, written.err])
