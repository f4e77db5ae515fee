"""What is told when the Hub does not give what it is asked for: one line, within seconds."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.hub_client import NAME
from tests.hub_server import LOGIN_PAGE, Fault, HubServer
from wszoo.fetch import Patience
from wszoo.hub import fetch, fetch_weights, place_of, prefetch
from wszoo.weights import WEIGHTS_FILE, Weights, locate

QUICK = Patience(attempts=2, pause=0.05, timeout=0.3, limit=2)


def failure(*faults: Fault, hub: HubServer, place: str = NAME) -> str:
    """The one line that comes of it, as "kind: message", within seconds."""
    hub.faults = [*faults]
    started = time.monotonic()
    with pytest.raises((OSError, ValueError)) as caught:
        fetch_weights(place_of(place, name="m.tag"), sha256=None, dtype="F32", patience=QUICK)
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value) and hub.token not in str(caught.value)
    left = [*Path(constants.HF_HUB_CACHE).rglob("*.incomplete")]
    assert not left and not [*Path(constants.HF_HUB_CACHE).rglob(WEIGHTS_FILE)]
    return f"{type(caught.value).__name__}: {caught.value}"


ELSEWHERE = "run `wszoo download m.tag --to DIR` on a machine that can and set WSZOO_WEIGHTS=DIR"
FAULTS = {
    "503": (
        Fault("HEAD", status=503, times=-1),
        "ConnectionError: cannot fetch model.safetensors of tester/test_resnet_gn_ws: "
        f"status 503 Service Unavailable (2 attempts); try again later, or {ELSEWHERE} here",
    ),
    "503 of the CDN": (
        Fault("GET /lfs/", status=503, times=-1),
        f"status 503 Service Unavailable; try again later, or {ELSEWHERE}",
    ),
    "404 of the CDN": (
        Fault("GET /lfs/", status=404, times=-1),
        "status 404 Not Found; try again later",
    ),
    "429": (
        Fault("HEAD", status=429, retry_after=60, times=-1),
        "status 429 Too Many Requests, for 60 seconds more; wait, or run `hf auth login`",
    ),
    "429 without a time": (
        Fault("HEAD", status=429, times=-1),
        "status 429 Too Many Requests (2 attempts); wait, or run `hf auth login`",
    ),
    "hang": (
        Fault("HEAD", hang=9, times=-1),
        "does not answer (timeout) (2 attempts); see to the network and try again, or run",
    ),
    "captive portal": (
        Fault("", body=LOGIN_PAGE, times=-1),
        "answers, but not as the Hub does; log in to the network with a browser, or see to the",
    ),
    "fewer bytes": (
        Fault("GET /lfs/", body=b"few", times=-1),
        "ConnectionError: cannot fetch model.safetensors of tester/test_resnet_gn_ws: Consistency "
        "check failed: file should be of size",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_of_the_hub_is_one_line_with_a_way_out(
    fault: str, hub_files: dict[str, bytes], hub: HubServer
) -> None:
    strikes, told = FAULTS[fault]

    assert told in failure(strikes, hub=hub)


CLOSED: dict[str, tuple[Callable[[HubServer], Any], str]] = {
    "gated": (
        lambda hub: setattr(hub.repos[NAME], "gated", True),
        "PermissionError: cannot fetch model.safetensors of tester/test_resnet_gn_ws: one has to "
        "be let into the repository; ask for it on",
    ),
    "disabled": (
        lambda hub: setattr(hub.repos[NAME], "disabled", True),
        "has disabled it; see",
    ),
    "another token": (
        lambda hub: setattr(hub, "token", "another"),
        "does not accept the token (status 401); run `hf auth login`, and unset HF_TOKEN",
    ),
    "no repository": (
        lambda hub: hub.repos.clear(),
        "FileNotFoundError: there is no repository tester/test_resnet_gn_ws at",
    ),
    "no file": (
        lambda hub: hub.repos[NAME].commits[-1].files.pop(WEIGHTS_FILE),
        "FileNotFoundError: tester/test_resnet_gn_ws holds no model.safetensors; http",
    ),
}


@pytest.mark.parametrize("case", CLOSED)
def test_a_refusal_is_one_line_with_a_way_out(
    case: str, hub_files: dict[str, bytes], hub: HubServer
) -> None:
    close, told = CLOSED[case]
    close(hub)

    assert told in failure(hub=hub)


def test_an_unknown_revision_is_named(hub_files: dict[str, bytes], hub: HubServer) -> None:
    told = failure(hub=hub, place=f"{NAME}@v9")

    assert told.startswith(f"FileNotFoundError: {NAME} has no revision 'v9'; {hub.endpoint}/{NAME}")


def test_a_hub_that_is_not_there_is_named(
    hub_files: dict[str, bytes], hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/{revision}/{filename}"
    )

    assert f"{nobody} does not answer ([Errno 111] Connection refused)" in failure(hub=hub)


def test_offline_and_not_cached_tells_how_to_come_by_the_weights(
    hub_record: Weights, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    message = r"is not in the cache .*, and HF_HUB_OFFLINE forbids to fetch it; unset it once, or "
    with pytest.raises(
        FileNotFoundError, match=message + f"run `wszoo download {hub_record.name} "
    ):
        locate(hub_record)
    with pytest.raises(FileNotFoundError, match=r"run `hf download tester/.* and load local-dir"):
        prefetch(f"hf-hub:{NAME}")
    assert hub.requests == []


def test_a_short_wait_is_waited_for(hub_files: dict[str, bytes], hub: HubServer) -> None:
    hub.faults = [Fault("HEAD", status=429, retry_after=1)]

    started = time.monotonic()
    assert fetch(place_of(NAME), WEIGHTS_FILE, QUICK).exists()
    assert time.monotonic() - started > 1
