"""Weights over Xet, which the client takes for large files wherever its package is installed."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _xet

import wszoo.hub_transfer
from tests.hub_client import MODEL, turn_to
from tests.hub_server import Fault
from tests.hub_xet import XetHub, takes_folders
from tests.publish.folders import NAME, REPOSITORY, copy_card
from wszoo.files import sha256_of
from wszoo.publish import over_xet, push
from wszoo.publish.verification import fixed_inputs, logits
from wszoo.weights import Weights, locate

pytestmark = pytest.mark.xet


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[XetHub]:
    """A stand-in that knows Xet, for the real client with Xet on."""
    if not takes_folders(tmp_path / "probe"):
        pytest.skip("this version of `hf_xet` takes no folder for a server")
    server = XetHub(tmp_path / "storage")
    with server:
        turn_to(server, tmp_path / "hf-home", monkeypatch)
        use_xet(True, monkeypatch)
        yield server


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def use_xet(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "0" if wanted else "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not wanted)


def test_what_was_pushed_over_xet_is_got_back_bit_for_bit(hub: XetHub, tmp_path: Path) -> None:
    report = push(copy_card(tmp_path / "cards"), REPOSITORY)

    there = timm.create_model(f"hf-hub:{REPOSITORY}@{report.tag}", pretrained=True)

    here = timm.create_model(NAME, pretrained=True)
    inputs = fixed_inputs((3, 64, 64))
    assert torch.equal(logits(there, inputs), logits(here, inputs))
    assert hub.asked("/xet-write-token/") and hub.asked("/xet-read-token/")
    assert not [request for request in hub.requests if request.origin == "cdn"]


def test_a_chunk_that_was_changed_is_refused_and_not_kept(hub_record: Weights, hub: XetHub) -> None:
    (piece,) = hub.pieces
    sound = piece.read_bytes()
    middle = len(sound) // 2
    piece.chmod(0o644)
    piece.write_bytes(sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :])

    with pytest.raises(ValueError, match=r"has sha256 .*, in two attempts; see to what changes"):
        timm.create_model(MODEL, pretrained=True)

    piece.write_bytes(sound)
    assert sha256_of(locate(hub_record)) == hub_record.sha256
    assert not [request for request in hub.requests if request.origin == "cdn"]


def test_a_chunk_that_is_missing_is_no_obstacle_without_xet(
    hub_record: Weights, hub: XetHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (piece,) = hub.pieces
    piece.unlink()

    with pytest.raises(ConnectionError, match="set HF_HUB_DISABLE_XET=1") as caught:
        locate(hub_record)
    assert "\n" not in str(caught.value)

    use_xet(False, monkeypatch)
    assert sha256_of(locate(hub_record)) == hub_record.sha256


def test_silence_is_given_up(
    hub_record: Weights, hub: XetHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wszoo.hub_transfer, "_STALL", 0.2)
    monkeypatch.setattr(wszoo.hub_transfer, "_XET_START", 0.5)
    hub.faults = [Fault("/xet-read-token/", hang=30, times=-1)]

    message = "no byte for 0.5 seconds; set HF_HUB_DISABLE_XET=1 and try again"
    with pytest.raises(ConnectionError, match=message):
        locate(hub_record)


def test_storage_that_never_answers_is_given_up(
    hub_record: Weights, hub: XetHub, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wszoo.hub_transfer, "_STALL", 0.2)
    monkeypatch.setattr(wszoo.hub_transfer, "_XET_START", 0.5)
    hub.led_to = silent

    with pytest.raises(ConnectionError, match="no byte for 0.5 seconds; set HF_HUB_DISABLE_XET=1"):
        locate(hub_record)
    assert not [*Path(constants.HF_HUB_CACHE).rglob("*.incomplete")]

    hub.led_to = ""
    _xet.XET_CONNECTION_INFO_CACHE.clear()  # which leads there for an hour
    assert sha256_of(locate(hub_record)) == hub_record.sha256, "what hung is not in the way"


@pytest.mark.parametrize("way", ["storage", "token"])
def test_a_push_that_meets_silence_ends_in_one_line_and_repeating_it_works(
    way: str, hub: XetHub, silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_card(tmp_path / "cards")
    monkeypatch.setattr(over_xet, "START", 0.5)
    if way == "storage":
        hub.led_to = silent
    else:
        hub.faults = [Fault("/xet-write-token/", hang=60, times=-1)]

    began = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        push(folder, REPOSITORY)

    assert time.monotonic() - began < 8
    assert str(caught.value) == (
        f"cannot push to {REPOSITORY}: nothing sent over Xet for 0.5 seconds; set "
        f"HF_HUB_DISABLE_XET=1 and repeat the command; nothing was published"
    )
    monkeypatch.setattr(over_xet, "START", 20)
    hub.led_to, hub.faults = "", []
    assert push(folder, REPOSITORY).tag == "v1"


def test_a_push_that_xet_refuses_names_the_way_without(hub: XetHub, tmp_path: Path) -> None:
    folder = copy_card(tmp_path / "cards")
    (tmp_path / "file").touch()
    hub.led_to = f"local://{tmp_path / 'file' / 'storage'}"  # where no folder can be made

    message = r"\Acannot push to .*Not a directory.*; set HF_HUB_DISABLE_XET=1 and repeat the comm"
    with pytest.raises(ConnectionError, match=message):
        push(folder, REPOSITORY)


def test_ctrl_c_ends_a_push_over_xet_at_once(hub: XetHub, silent: str, tmp_path: Path) -> None:
    folder = copy_card(tmp_path / "cards")
    hub.led_to = silent

    def stop() -> None:
        while not hub.asked("/xet-write-token/"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="stopped while pushing .*; nothing was published"):
        push(folder, REPOSITORY)
    assert time.monotonic() - began < 8
