"""A Hub that accepts what it is sent, and never answers."""

import time
from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    _http,
    close_session,
    get_session,
)

from tests.hub_server import Fault, HubServer
from tests.publish.folders import COMMIT, NAME, REPOSITORY, commits
from wszoo.publish import Publication, collect, publish, silence
from wszoo.publish.silence import limited

UNKNOWN = "whether it was published is not known: repeat the command, it finds out"
SILENT = {
    "create": ("POST /api/repos/create", "nothing was published", 0),
    "look": (f"GET /api/models/{REPOSITORY}", "nothing was published", 0),
    "preupload": ("/preupload/", "nothing was published", 0),
    "batch": ("/objects/batch", "nothing was published", 0),
    "send": ("PUT /lfs/", "nothing was published", 0),
    "confirm": ("/lfs/verify", "nothing was published", 0),
    "check the card": ("/validate-yaml", UNKNOWN, 0),
    "commit": (COMMIT, UNKNOWN, 0),
    "fetch back": ("GET /lfs/", "but not tagged, since not verified: repeat the command", 1),
    "look for tags": ("/refs", "but not tagged: repeat the command, it goes on from there", 1),
    "tag": ("/tag/", "whether it was tagged is not known: repeat the command, it finds out", 1),
}
FAST = ("preupload", "send", "commit")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "SILENCE", 0.3)
    monkeypatch.setattr(silence, "COMMITTING", 0.3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "what",
    [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in SILENT],
)
def test_silence_ends_a_push_in_one_line_and_repeating_it_works(
    hub: HubServer, publication: Publication, what: str
) -> None:
    match, left, published = SILENT[what]
    hub.faults = [Fault(match, hang=60, times=-1)]
    began = time.monotonic()

    with pytest.raises(ConnectionError) as caught:
        publish(publication, REPOSITORY)

    assert time.monotonic() - began < 8
    told = str(caught.value)
    assert told.startswith(f"cannot push to {REPOSITORY}: ") and "\n" not in told
    assert left in told and ("timed out" in told or "no answer within" in told)
    assert commits(hub) == published
    hub.faults.clear()
    assert publish(publication, REPOSITORY).tag == "v1"
    assert commits(hub) == 1


def test_a_commit_may_take_longer_than_all_else(
    hub: HubServer, publication: Publication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "COMMITTING", 5)
    hub.faults = [Fault(COMMIT, hang=1)]

    assert publish(publication, REPOSITORY).outcome == "published"


@pytest.mark.parametrize("match", [COMMIT, "/tag/"])
def test_what_was_done_but_never_answered_is_found_out_by_the_next_push(
    hub: HubServer, publication: Publication, match: str
) -> None:
    hub.faults = [Fault(match, lost=True, hang=60)]

    with pytest.raises(ConnectionError, match="timed out.*repeat the command, it"):
        publish(publication, REPOSITORY)
    report = publish(publication, REPOSITORY)

    assert (report.outcome, report.tag, commits(hub)) == ("unchanged", "v1", 1)


def test_a_collection_that_is_never_answered_is_told(hub: HubServer) -> None:
    hub.faults = [Fault("/api/collections", hang=60)]

    with pytest.raises(ConnectionError, match="timed out.*the weights are published, the collecti"):
        collect([(NAME, REPOSITORY)])


def test_what_fails_at_once_is_tried_again_and_what_is_silent_is_not(hub: HubServer) -> None:
    hub.publish(REPOSITORY, {"config.json": b"{}"})
    ask = f"{hub.endpoint}/api/models/{REPOSITORY}"
    hub.faults = [Fault("/api/models", lost=True), Fault("/api/models", hang=60)]

    with limited():
        for message in ("disconnected", "timed out", "no answer within 0.3 seconds"):
            with pytest.raises(HTTPError, match=message):
                get_session().get(ask)

    assert len(hub.asked(REPOSITORY)) == 2


def test_the_limit_outlives_the_session_that_another_thread_closes(hub: HubServer) -> None:
    hub.publish(REPOSITORY, {"config.json": b"{}"})
    hub.faults = [Fault("/api/models", hang=60)]
    before = _http._GLOBAL_CLIENT_FACTORY

    with limited():
        close_session()
        with pytest.raises(HTTPError, match="timed out"):
            get_session().get(f"{hub.endpoint}/api/models/{REPOSITORY}")

    assert before is _http._GLOBAL_CLIENT_FACTORY
    hub.faults = [Fault("/api/models", hang=0.6)]
    assert HfApi().model_info(REPOSITORY).id == REPOSITORY


def test_what_was_answered_may_be_asked_for_again_any_time_later(hub: HubServer) -> None:
    hub.publish(REPOSITORY, {"config.json": b"{}"})

    with limited():
        for _ in range(2):
            assert HfApi().model_info(REPOSITORY).id == REPOSITORY
            time.sleep(0.4)


def test_what_broke_while_bytes_flowed_may_be_sent_again(hub: HubServer) -> None:
    def torn() -> Iterator[bytes]:
        yield b"half"
        time.sleep(0.4)  # longer than the limit
        raise OSError("the line broke")

    with limited():
        with pytest.raises(OSError, match="the line broke"):
            get_session().put(f"{hub.endpoint}/lfs/file", content=torn())
        assert get_session().put(f"{hub.endpoint}/lfs/file", content=b"whole").status_code


@pytest.mark.parametrize(("wanted", "is_off"), [(None, True), ("0", False)])
def test_files_go_by_http_unless_xet_is_asked_for(
    wanted: str | None, is_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_XET", raising=False)
    if wanted is not None:
        monkeypatch.setenv("HF_HUB_DISABLE_XET", wanted)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)

    with limited():
        assert is_off == constants.HF_HUB_DISABLE_XET

    assert not constants.HF_HUB_DISABLE_XET


def test_afterwards_the_client_is_as_before(hub: HubServer) -> None:
    hub.publish(REPOSITORY, {"config.json": b"{}"})
    before = get_session().event_hooks
    with pytest.raises(RuntimeError), limited():
        raise RuntimeError

    assert get_session().event_hooks == before
    hub.faults = [Fault("/api/models", hang=0.6)]
    assert HfApi().model_info(REPOSITORY).id == REPOSITORY
