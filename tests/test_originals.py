"""Fetching originals from a server that misbehaves, and taking those that were copied by hand."""

import hashlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.origin_server import LOGIN_PAGE, OriginServer, name_of, publish, serving
from wszoo.fetch import Patience
from wszoo.originals import Original, obtain
from wszoo.weights_record import OriginFile, Weights

QUICK = Patience(attempts=3, pause=0.01, timeout=0.3, limit=20)
CONTENT = bytes(range(256)) * 800  # what is in it does not matter here


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("WSZOO_ACCEPT_UNVERIFIED", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with serving() as server:
        yield server


@pytest.fixture
def weights(server: OriginServer) -> Weights:
    return publish(server, CONTENT)


def fetched(weights: Weights, folder: Path, **kwargs: Any) -> Original:
    return obtain(weights, folder, QUICK, **{"pinned": {}, **kwargs})


def test_an_original_is_fetched_checked_and_kept(
    weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    first = fetched(weights, tmp_path)
    second = fetched(weights, tmp_path)

    assert first == second
    assert first.path.read_bytes() == CONTENT
    assert first.path == tmp_path / name_of(weights)
    assert first.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert first.file == weights.origin
    assert len(server.asked) == 1
    assert [*tmp_path.iterdir()] == [first.path]


def test_what_is_cut_short_is_gone_on_with(
    weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    name = name_of(weights)
    server.faults[name] = ["503", "cut"]

    assert fetched(weights, tmp_path).path.read_bytes() == CONTENT

    assert server.asked == [(name, None), (name, None), (name, f"bytes={len(CONTENT) // 2}-")]


def test_what_a_killed_process_has_left_is_gone_on_with(
    weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    (tmp_path / f".{name_of(weights)}.partial").write_bytes(CONTENT[:1000])

    assert fetched(weights, tmp_path).path.read_bytes() == CONTENT

    assert server.asked == [(name_of(weights), "bytes=1000-")]


def test_what_a_killed_process_has_left_whole_is_not_fetched_again(
    weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    (tmp_path / f".{name_of(weights)}.partial").write_bytes(CONTENT)

    assert fetched(weights, tmp_path).path.read_bytes() == CONTENT

    assert server.asked == []


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * (len(CONTENT) + 1)], ids=["less", "more"])
def test_what_is_left_of_another_file_is_given_up(
    left: bytes, weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    (tmp_path / f".{name_of(weights)}.partial").write_bytes(left)

    assert fetched(weights, tmp_path).path.read_bytes() == CONTENT

    assert server.asked[-1] == (name_of(weights), None)


def test_a_file_without_a_hash_is_never_pieced_together(
    server: OriginServer, tmp_path: Path
) -> None:
    weights = publish(server, CONTENT, has_hash=False)
    (tmp_path / ".net.pth.partial").write_bytes(b"of another file")
    server.faults["net.pth"] = ["cut"]

    assert fetched(weights, tmp_path, accept_unverified=True).path.read_bytes() == CONTENT

    assert server.asked == [("net.pth", None), ("net.pth", None)]


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        ("404", "status 404 Not Found; see whether the address is right and complete", 1),
        ("503", r"status 503 Service Unavailable \(3 attempts\); try again later", 3),
        ("page", "what the server sent is a web page .a proxy or a login page answered.;", 1),
        ("flipped", "the server sent has sha256 .*, its name says .*: it is damaged or another", 1),
        ("huge", "what the server sent would have 1099511627776 bytes, at most 1073741824 are", 1),
        ("hang", r"timeout: no byte for 0.3 seconds \(3 attempts\)", 3),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line_with_where_to_put_it(
    fault: str,
    message: str,
    requests: int,
    weights: Weights,
    server: OriginServer,
    tmp_path: Path,
) -> None:
    server.faults[name_of(weights)] = [fault] * 99
    assert weights.origin is not None

    with pytest.raises(ConnectionError, match=message) as raised:
        fetched(weights, tmp_path)

    text = str(raised.value)
    assert text.startswith(f"cannot fetch {weights.origin.url}: ") and "\n" not in text
    assert text.endswith(
        f", or put the file, fetched elsewhere, at {tmp_path / name_of(weights)}, "
        f"or set WSZOO_WEIGHTS=DIR to what `wszoo download {weights.name} --to DIR` made on a "
        f"machine with a network"
    )
    assert len(server.asked) == requests
    assert not (tmp_path / name_of(weights)).exists()


def test_a_server_that_always_breaks_off_is_named_with_its_bytes(
    server: OriginServer, tmp_path: Path
) -> None:
    weights = publish(server, CONTENT, has_hash=False)
    server.faults["net.pth"] = ["cut"] * 99

    with pytest.raises(ConnectionError, match=r"short read: 102400 of 204800 bytes \(3 attempts"):
        fetched(weights, tmp_path, accept_unverified=True)


def test_without_a_network_it_is_given_up_within_seconds(tmp_path: Path) -> None:
    with serving() as gone:
        weights = publish(gone, CONTENT)
    started = time.monotonic()

    with pytest.raises(ConnectionError, match=r"Connection refused \(3 attempts\).* or put the"):
        fetched(weights, tmp_path)

    assert time.monotonic() - started < 5


def test_offline_nothing_is_asked_and_the_place_for_the_file_is_named(
    weights: Weights, server: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / name_of(weights)

    with pytest.raises(ConnectionError, match=f"HF_HUB_OFFLINE is set; unset it, or .* at {place}"):
        fetched(weights, tmp_path)
    assert server.asked == []

    place.write_bytes(CONTENT)
    assert fetched(weights, tmp_path).path == place


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], "has sha256 .*, its name says .*: it is damaged or another file; delete it"),
        (LOGIN_PAGE, "is a web page .*; delete it to have it fetched again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer .*; delete it"),
    ],
    ids=["cut", "page", "pointer"],
)
def test_a_file_that_was_put_there_is_checked(
    content: bytes, message: str, weights: Weights, tmp_path: Path
) -> None:
    place = tmp_path / name_of(weights)
    place.write_bytes(content)

    with pytest.raises(ValueError, match=f"{place} {message}"):
        fetched(weights, tmp_path)


def mirror_of(server: OriginServer, name: str, content: bytes, **facts: Any) -> OriginFile:
    server.files[name] = content
    return OriginFile(url=server.url(name), **{"source": "jhu", **facts})


def test_a_mirror_is_asked_where_the_origin_fails(server: OriginServer, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    mirror = mirror_of(server, "other.pth", CONTENT, sha256_prefix=digest[:8])
    weights = publish(server, CONTENT, mirrors=(mirror,))
    server.faults[name_of(weights)] = ["404"]

    original = fetched(weights, tmp_path)

    assert original.file == mirror
    assert original.path == tmp_path / "other.pth"


def test_a_mirror_without_a_hash_is_left_out_unless_the_user_says_so(
    server: OriginServer, tmp_path: Path
) -> None:
    mirror = mirror_of(server, "R-50-GN-WS.pth.tar", b"the authors' own file")
    weights = publish(server, CONTENT, mirrors=(mirror,))
    server.faults[name_of(weights)] = ["404", "404"]

    with pytest.raises(ConnectionError, match="status 404"):
        fetched(weights, tmp_path)
    assert len(server.asked) == 1

    assert fetched(weights, tmp_path, accept_unverified=True).file == mirror


def test_every_name_under_which_the_file_may_be_put_there_is_told_once(
    server: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    other = OriginFile(url="http://host/R-50.pth.tar", source="jhu")
    same_name = OriginFile(url="http://host/net.pth", source="jhu")
    weights = publish(server, CONTENT, has_hash=False, mirrors=(same_name, other))
    places = f"{tmp_path / 'net.pth'} or {tmp_path / 'R-50.pth.tar'}, or set WSZOO_WEIGHTS=DIR"

    with pytest.raises(ConnectionError, match=f"elsewhere, at {places}"):
        fetched(weights, tmp_path, accept_unverified=True)


@pytest.mark.parametrize("offline", [False, True])
def test_a_folder_in_place_of_the_file_is_named(
    offline: bool, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    place = tmp_path / name_of(weights)
    place.mkdir()

    with pytest.raises(ValueError, match=f"{place} is a folder, where the file of this name belo"):
        fetched(weights, tmp_path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("drip header", "timeout: no answer after 0.6 seconds"),
        ("drip chunk", "timeout: not complete after 0.6 seconds"),
    ],
)
def test_a_server_that_sends_a_line_byte_by_byte_is_waited_for_no_longer_than_the_limit(
    fault: str, message: str, weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    server.faults[name_of(weights)] = [fault] * 99
    started = time.monotonic()

    with pytest.raises(ConnectionError, match=message):
        obtain(weights, tmp_path, Patience(attempts=9, timeout=0.3, limit=0.6), pinned={})

    assert time.monotonic() - started < 3


def test_where_every_mirror_fails_the_first_is_told(server: OriginServer, tmp_path: Path) -> None:
    mirror = OriginFile(url=server.url("gone.pth"), source="jhu", sha256_prefix="01234567")
    weights = publish(server, CONTENT, mirrors=(mirror,))
    server.faults[name_of(weights)] = ["403"]

    with pytest.raises(ConnectionError, match=r"403 Forbidden; .* \(1 more failed\), or put"):
        fetched(weights, tmp_path)


@pytest.mark.parametrize("is_there", [False, True], ids=["to be fetched", "put there"])
def test_a_file_without_a_hash_needs_the_users_word(
    is_there: bool, server: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = publish(server, CONTENT, has_hash=False)
    if is_there:
        (tmp_path / "net.pth").write_bytes(CONTENT)

    with pytest.raises(ValueError, match=r"no hash was published for .*net\.pth: ") as raised:
        fetched(weights, tmp_path)
    assert "set WSZOO_ACCEPT_UNVERIFIED=1 or run `wszoo download " in str(raised.value)
    assert f"`wszoo download {weights.name} --accept-unverified`" in str(raised.value)
    assert server.asked == []

    monkeypatch.setenv("WSZOO_ACCEPT_UNVERIFIED", "0")
    with pytest.raises(ValueError, match="no hash was published"):
        fetched(weights, tmp_path)
    monkeypatch.setenv("WSZOO_ACCEPT_UNVERIFIED", "1")
    assert fetched(weights, tmp_path).path.read_bytes() == CONTENT


def test_a_pinned_file_needs_no_word_and_no_other_is_taken_for_it(
    server: OriginServer, tmp_path: Path
) -> None:
    weights = publish(server, CONTENT, has_hash=False)
    pinned = {"net.pth": hashlib.sha256(CONTENT).hexdigest()}

    assert fetched(weights, tmp_path, pinned=pinned).path.read_bytes() == CONTENT

    (tmp_path / "net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"net\.pth has sha256 .*, at its first use it had .*…; f"):
        fetched(weights, tmp_path, pinned=pinned, accept_unverified=True)


def test_a_record_that_pins_the_converted_file_needs_no_word(
    server: OriginServer, tmp_path: Path
) -> None:
    weights = publish(server, CONTENT, has_hash=False, sha256="0" * 64)

    assert fetched(weights, tmp_path).path.read_bytes() == CONTENT


def test_a_disk_that_takes_no_more_is_named_and_what_is_there_is_gone_on_with(
    weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*partial: File too large; free some spa"):
            fetched(weights, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert fetched(weights, tmp_path).path.read_bytes() == CONTENT
    assert server.asked[-1] == (name_of(weights), f"bytes={len(CONTENT) // 2}-")


def test_weights_of_this_zoo_have_no_original(tmp_path: Path) -> None:
    ours = Weights(model="toy", tag="e1", sha256="0" * 64, license="mit")

    with pytest.raises(ValueError, match=r"'toy\.e1' has no origin outside of this zoo"):
        fetched(ours, tmp_path)
