"""Fetching files, and the cache that processes share, from a server that misbehaves on demand."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from wszoo.datasets.fetching import (
    Patience,
    RemoteFile,
    fetch_bytes,
    fetch_file,
    remote_folder,
)
from wszoo.datasets.file_cache import Cache, try_lock

QUICK = Patience(attempts=4, pause=0.01, timeout=0.3, limit=20)
CONTENT = np.random.default_rng(0).bytes(300_000)


class FaultyServer(ThreadingHTTPServer):
    """Serves ``files``; each request for a name takes one of its ``faults``, until none is left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"a": CONTENT}
        self.faults: dict[str, list[str]] = {}
        self.ranges = True
        self.asked: list[str] = []  # path with query
        self.parts: list[str | None] = []  # the Range of each request
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def file(self, name: str = "a", content: bytes | None = None) -> RemoteFile:
        content = self.files[name] if content is None else content
        digest = hashlib.sha256(content).hexdigest()
        return RemoteFile(url=f"{self.url}/{name}", bytes=len(content), sha256=digest)


class Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on standard error."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.parts.append(self.headers["Range"])
        name = self.path.partition("?")[0][1:]
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif name not in self.server.files:
            self.send_error(404)
        else:
            self.send_file(self.server.files[name], fault)

    def send_file(self, data: bytes, fault: str) -> None:
        start = 0
        if self.headers["Range"] and self.server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            told = start + 1 if fault == "other part" else start
            self.send_header("Content-Range", f"bytes {told}-{len(data) - 1}/{len(data)}")
        if fault == "flipped":
            data = data[:-1] + bytes([data[-1] ^ 1])
        body = data[start:]
        size = len(body) + (10**9 if fault == "longer" else 0)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.send_body(body, fault)

    def send_body(self, body: bytes, fault: str) -> None:
        if fault == "cut":
            body = body[: len(body) // 2]
        if fault == "hang":
            self.wfile.write(body[:1000])
            self.server.ended.wait(20)
        elif fault == "longer":
            self.wfile.write(body + b"more")
            self.server.ended.wait(20)
        elif fault == "trickle":
            for byte in body:
                if self.server.ended.wait(0.02):
                    return
                self.wfile.write(bytes([byte]))
        else:
            if fault == "slow":
                self.server.ended.wait(0.2)
            self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


def test_a_server_that_is_busy_twice_is_asked_a_third_time(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["a"] = ["503", "503"]

    fetch_file(server.file(), tmp_path / "a", QUICK)

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_pauses_grow_and_end(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults["a"] = ["503"] * 99
    pauses: list[float] = []
    monkeypatch.setattr("wszoo.fetch.time.sleep", pauses.append)

    with pytest.raises(ConnectionError) as raised:
        fetch_file(server.file(), tmp_path / "a", Patience(attempts=9, timeout=5))

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    reason = "status 503 Service Unavailable (9 attempts); try again later, or see to the server"
    assert str(raised.value) == f"cannot fetch {server.url}/a: {reason}"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("404", "status 404 Not Found; see whether the address is right and complete"),
        ("403", "status 403 Forbidden; see to the rights of access"),
        ("302", "status 302 Found; see whether"),  # to a file of this machine
        ("499", "status 499; see whether"),
    ],
)
def test_what_no_patience_mends_is_asked_for_once(
    status: str, message: str, server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["a"] = [status]

    with pytest.raises(ConnectionError) as raised:
        fetch_file(server.file(), tmp_path / "a", QUICK)

    assert f"cannot fetch {server.url}/a: {message}" in str(raised.value)
    assert len(server.asked) == 1


def test_a_body_that_is_cut_short_is_gone_on_with(server: FaultyServer, tmp_path: Path) -> None:
    server.faults["a"] = ["cut"]

    fetch_file(server.file(), tmp_path / "a", QUICK)

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.parts == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_server_without_parts_is_asked_for_the_whole_again(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.ranges = False
    server.faults["a"] = ["cut", "cut"]

    fetch_file(server.file(), tmp_path / "a", QUICK)

    assert (tmp_path / "a").read_bytes() == CONTENT


def test_another_part_than_the_one_asked_for_is_not_taken(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["a"] = ["cut", "other part"]

    fetch_file(server.file(), tmp_path / "a", QUICK)

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.parts[2] is None


def test_a_body_that_is_always_cut_short_is_named_with_its_bytes(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.ranges = False
    server.faults["a"] = ["cut"] * 99

    with pytest.raises(ConnectionError) as raised:
        fetch_file(server.file(), tmp_path / "a", QUICK)

    reason = "short read: 150000 of 300000 bytes (4 attempts); try again later"
    assert f"cannot fetch {server.url}/a: {reason}" in str(raised.value)


def test_a_file_that_is_smaller_on_the_server_is_named(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.files["a"] = CONTENT[:100]

    with pytest.raises(ConnectionError, match="/a: short read: the server has only 100 of 300000"):
        fetch_file(server.file(content=CONTENT), tmp_path / "a", QUICK)


def test_a_flipped_byte_is_noticed_and_the_file_fetched_anew(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["a"] = ["flipped"]

    fetch_file(server.file(), tmp_path / "a", QUICK)

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.parts == [None, None]


def test_a_byte_that_stays_flipped_is_named_with_both_digests_and_not_kept(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["a"] = ["flipped"] * 99
    flipped = hashlib.sha256(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])).hexdigest()

    with pytest.raises(ConnectionError) as raised:
        fetch_file(server.file(), tmp_path / "a", QUICK)

    wanted = hashlib.sha256(CONTENT).hexdigest()
    reason = f"its sha256 is {flipped}, the manifest says {wanted} (4 attempts); upload it again"
    assert f"cannot fetch {server.url}/a: {reason}" in str(raised.value)
    assert not (tmp_path / "a").exists()


def test_a_file_that_is_larger_than_the_manifest_says_is_not_read_to_its_end(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["a"] = ["longer"] * 99

    with pytest.raises(ConnectionError, match="/a: it is larger than the 300000 bytes of the man"):
        fetch_file(server.file(), tmp_path / "a", QUICK)

    assert len(server.asked) == QUICK.attempts, "none was waited for"


def test_a_hang_is_ended_and_the_file_gone_on_with(server: FaultyServer, tmp_path: Path) -> None:
    server.faults["a"] = ["hang"]

    fetch_file(server.file(), tmp_path / "a", QUICK)

    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.parts == [None, "bytes=1000-"]


def test_a_server_that_always_hangs_is_named(server: FaultyServer, tmp_path: Path) -> None:
    server.faults["a"] = ["hang"] * 99
    started = time.monotonic()

    with pytest.raises(ConnectionError, match=r"/a: timeout: no byte for 0.1 seconds \(2 attem"):
        fetch_file(server.file(), tmp_path / "a", Patience(attempts=2, pause=0.01, timeout=0.1))

    assert time.monotonic() - started < 4


def test_a_server_that_never_ends_is_ended(server: FaultyServer, tmp_path: Path) -> None:
    server.faults["a"] = ["trickle"] * 99

    with pytest.raises(ConnectionError, match=r"/a: timeout: not complete after 0.2 seconds;"):
        fetch_file(server.file(), tmp_path / "a", Patience(pause=0.01, limit=0.2))


def test_a_server_that_is_not_there_is_named_in_one_line(tmp_path: Path) -> None:
    with FaultyServer() as gone:
        file = gone.file()

    with pytest.raises(ConnectionError, match=rf"{file}: Connection refused \(4 at") as raised:
        fetch_file(file, tmp_path / "a", QUICK)

    assert "\n" not in str(raised.value)


def test_a_full_disk_is_named(server: FaultyServer) -> None:
    with pytest.raises(OSError, match="cannot write /dev/full: No space left on device; free"):
        fetch_file(server.file(), Path("/dev/full"), QUICK)


def test_small_files_are_fetched_with_the_same_patience(server: FaultyServer) -> None:
    server.faults["a"] = ["503", "cut", "hang"]

    assert fetch_bytes(f"{server.url}/a", len(CONTENT), QUICK) == CONTENT
    with pytest.raises(ConnectionError, match="/a: it is larger than 299999 bytes; see what"):
        fetch_bytes(f"{server.url}/a", len(CONTENT) - 1, QUICK)


def test_a_key_in_the_query_goes_with_every_request_and_into_no_message(
    server: FaultyServer, tmp_path: Path
) -> None:
    folder = remote_folder(f"{server.url}/some/manifest.json?key=secret", "manifest.json")

    with pytest.raises(ConnectionError) as raised:
        fetch_bytes(folder.url_of("b.tar"), 9, QUICK)

    assert server.asked == ["/some/b.tar?key=secret"]
    assert f"{server.url}/some/b.tar: status 404" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("http://host/data", "http://host/data/"),
        ("http://host/data/", "http://host/data/"),
        ("https://host:8080/a/manifest.json", "https://host:8080/a/"),
        ("http://host", "http://host/"),
        ("http://host/manifest.json", "http://host/"),
        ("http://host/a b/ü%20", "http://host/a%20b/%C3%BC%20/"),
    ],
)
def test_a_folder_is_named_by_itself_or_by_its_manifest(address: str, base: str) -> None:
    assert str(remote_folder(address, "manifest.json")) == base


@pytest.mark.parametrize("address", ["ftp://host/a", "file:///etc", "http:///a", "s3://bucket/a"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match=f"'{address}' is no http:// or https:// address"):
        remote_folder(address, "manifest.json")


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="at host holds a user name") as raised:
        remote_folder("https://me:secret@host/a", "manifest.json")

    assert "secret" not in str(raised.value)


def content_of(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def cache_in(folder: Path, max_bytes: int = 2**30, patience: Patience = QUICK) -> Cache:
    return Cache(folder=folder, max_bytes=max_bytes, patience=patience)


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_file_is_fetched_on_its_first_use_only(server: FaultyServer, tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "new" / "cache")

    first, second = (content_of(cache.open(server.file())) for _ in range(2))

    assert first == second == CONTENT
    assert len(server.asked) == 1
    assert kept(cache.folder) == {server.file().sha256}


def test_threads_that_want_a_file_at_once_fetch_it_once(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["a"] = ["slow"]
    file = server.file()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: content_of(cache_in(tmp_path).open(file)), range(4)))

    assert found == [CONTENT] * 4
    assert len(server.asked) == 1


PROCESS = """
import os, sys, time
from pathlib import Path
from wszoo.datasets.fetching import Patience, RemoteFile
from wszoo.datasets.file_cache import Cache

folder, ready, go, url, size, sha256 = sys.argv[1:]
cache = Cache(folder=Path(folder), max_bytes=2**30, patience=Patience())
Path(ready).touch()
while not Path(go).exists():
    time.sleep(0.005)
descriptor = cache.open(RemoteFile(url=url, bytes=int(size), sha256=sha256))
sys.stdout.buffer.write(os.read(descriptor, int(size)))
"""


@pytest.mark.slow
def test_two_processes_that_want_a_file_at_once_fetch_it_once(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["a"] = ["slow"]
    file, go = server.file(), tmp_path / "go"
    ready = [tmp_path / "ready 1", tmp_path / "ready 2"]
    words = [go, file.url, file.bytes, file.sha256]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, (tmp_path / "cache", path, *words))],
            stdout=subprocess.PIPE,
        )
        for path in ready
    ]
    while not all(path.exists() for path in ready) and all(run.poll() is None for run in runs):
        time.sleep(0.01)

    go.touch()

    assert [run.communicate(timeout=60)[0] for run in runs] == [CONTENT] * 2
    assert len(server.asked) == 1


def test_a_process_that_fetches_for_too_long_is_not_waited_for(
    server: FaultyServer, tmp_path: Path
) -> None:
    file = server.file()
    cache = cache_in(tmp_path, patience=Patience(limit=0.1))

    with (tmp_path / f"{file.sha256}.lock").open("ab") as other:
        assert try_lock(other.fileno())
        with pytest.raises(TimeoutError, match=rf"fetching {file} for 0.1 seconds; end it, or n"):
            cache.open(file)

    assert content_of(cache.open(file)) == CONTENT, "the lock falls with the one who held it"


def test_what_a_killed_process_has_fetched_is_gone_on_with(
    server: FaultyServer, tmp_path: Path
) -> None:
    file = server.file()
    (tmp_path / f"{file.sha256}-{file.bytes}.partial").write_bytes(CONTENT[:1234])

    assert content_of(cache_in(tmp_path).open(file)) == CONTENT

    assert server.parts == ["bytes=1234-"]


def test_a_kept_file_of_another_size_is_fetched_anew(server: FaultyServer, tmp_path: Path) -> None:
    file = server.file()
    (tmp_path / file.sha256).write_bytes(CONTENT[:1234])

    assert content_of(cache_in(tmp_path).open(file)) == CONTENT


def test_the_file_that_was_opened_longest_ago_goes_first(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.files = {name: name.encode() * 1000 for name in "abc"}
    files = {name: server.file(name) for name in "abc"}
    cache = cache_in(tmp_path, max_bytes=2500)
    (tmp_path / "notes.txt").write_text("of the user" * 1000)
    opened = cache.open(files["a"])
    os.close(cache.open(files["b"]))
    for age, name in enumerate("ab"):
        os.utime(tmp_path / files[name].sha256, (age, age))

    os.close(cache.open(files["a"]))
    os.close(cache.open(files["c"]))

    assert kept(tmp_path) == {files["a"].sha256, files["c"].sha256, "notes.txt"}
    os.utime(tmp_path / files["a"].sha256, (0, 0))
    os.close(cache.open(files["b"]))
    assert kept(tmp_path) == {files["b"].sha256, files["c"].sha256, "notes.txt"}
    assert content_of(opened) == b"a" * 1000, "what is open can be read on"


def test_what_is_under_way_counts_and_stays_and_what_was_given_up_goes(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.files = {name: name.encode() * 1000 for name in "abcd"}
    files = {name: server.file(name) for name in "abcd"}
    under_way = tmp_path / f"{files['c'].sha256}-1000.partial"
    given_up = tmp_path / f"{files['d'].sha256}-1000.partial"
    cache = cache_in(tmp_path, max_bytes=2500)
    os.close(cache.open(files["a"]))
    for path, age in ((under_way, 10), (given_up, 10 * QUICK.limit)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)

    os.close(cache.open(files["b"]))

    assert kept(tmp_path) == {files["b"].sha256, under_way.name}


def test_a_cache_that_cannot_be_made_is_named(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match=r"cannot make the cache .*file/cache: Not a directory; name"):
        cache_in(tmp_path / "file" / "cache").open(server.file())
