"""Transfers from the Hub: caches and processes in the way, silence, interruption, whole nets."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest
import timm
import torch
from huggingface_hub import CommitOperationAdd, HfApi, constants

import wszoo.hub
import wszoo.hub_transfer
from tests.hub_client import MODEL, NAME, published
from tests.hub_server import Fault, HubServer
from wszoo import hub_turn
from wszoo.fetch import Patience
from wszoo.weights import WEIGHTS_FILE, Weights, locate

QUICK = Patience(attempts=2, pause=0.05, timeout=0.3, limit=2)


def test_a_cache_that_cannot_be_written_is_named(
    hub_record: Weights, hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    message = r"cannot write to the Hub's cache .*file/hub: Not a directory; set HF_HOME, or pass"
    with pytest.raises(OSError, match=message):
        locate(hub_record, cache_dir=tmp_path / "file" / "hub")


def test_a_copy_is_used_where_what_is_newer_cannot_be_written(
    hub_files: dict[str, bytes],
    hub: HubServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = f"hf-hub:{NAME}"
    before = timm.create_model(name, pretrained=True).eval()
    hub.publish(NAME, published(timm.create_model(MODEL, num_classes=3), tmp_path / "newer"))
    locks = Path(constants.HF_HUB_CACHE) / ".locks"
    shutil.rmtree(locks)
    locks.touch()  # no folder can be made there, not even by root

    after = timm.create_model(name, pretrained=True).eval()

    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(after(images), before(images))
    (warning,) = warnings_of(caplog)
    assert warning.startswith("cannot write to the Hub's cache ")
    assert warning.endswith("; the copy in the cache is used")
    newest = hub.repos[NAME].commits[-1].sha
    with pytest.raises(OSError, match=r"\Acannot write to the Hub's cache .*; set HF_HOME, or.*\Z"):
        timm.create_model(f"{name}@{newest}", pretrained=True)


def lock_of(hub_record: Weights) -> Path:
    folder = f"models--{NAME.replace('/', '--')}"
    return Path(constants.HF_HUB_CACHE) / ".locks" / folder / f"{hub_record.sha256}.lock"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("wszoo")]


def test_a_lock_that_somebody_sits_on_is_set_aside(
    hub_record: Weights,
    hub_files: dict[str, bytes],
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(hub_turn, "HOLDER_STALL", 0.4)
    lock_of(hub_record).parent.mkdir(parents=True)

    with filelock.FileLock(lock_of(hub_record)):
        assert locate(hub_record).read_bytes() == hub_files[WEIGHTS_FILE]

    assert warnings_of(caplog) == [
        f"another process holds {lock_of(hub_record)} and fetches nothing; "
        f"{WEIGHTS_FILE} is fetched beside it after 0.4 seconds"
    ]


def test_a_lock_that_cannot_be_set_aside_is_named(
    hub_record: Weights, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_turn, "HOLDER_STALL", 0.4)
    lock_of(hub_record).parent.mkdir(parents=True)

    def not_ours(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    message = r"\Aanother process holds .*\.lock and fetches nothing; end it, or name another cache"
    with filelock.FileLock(lock_of(hub_record)), monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", not_ours)  # as for a user of a shared cache; root may
        with pytest.raises(TimeoutError, match=message):
            locate(hub_record)
    assert locate(hub_record).exists(), "once it is free"


def test_a_lock_whose_holder_fetches_is_waited_for(
    hub_record: Weights, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_turn, "HOLDER_STALL", 0.4)
    hub.faults = [Fault("GET /lfs/", hang=1.5)]
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(locate(hub_record))) for _ in range(3)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({*paths}) == 1 and len(paths) == 3
    whole = [r for r in hub.requests if r.method == "GET" and r.headers["Range"] is None]
    assert len(whole) == 1


def test_a_server_that_goes_silent_is_given_up(
    hub_record: Weights, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wszoo.hub_transfer, "_STALL", 0.2)
    monkeypatch.setattr(wszoo.hub, "PATIENCE", QUICK)
    hub.faults = [Fault("GET /lfs/", hang=30, times=-1)]

    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"does not answer \(timeout\); see to the network"):
        locate(hub_record)
    assert time.monotonic() - started < 3


def test_a_bar_that_is_told_of_no_bytes_is_no_sign_of_life(
    hub_record: Weights, hub: HubServer, tmp_path: Path
) -> None:
    place = wszoo.hub.place_of(str(hub_record.hub))
    found = wszoo.hub_client.look_up(place, WEIGHTS_FILE, QUICK)
    running = wszoo.hub_transfer._Transfer(place, WEIGHTS_FILE, found)
    bar = running._bar()(total=2, disable=True)
    running.last = 0

    bar.update(0)
    assert (running.last, running.has_bytes) == (0, False)
    bar.update(1)
    assert running.last > 0 and running.has_bytes


def test_ctrl_c_ends_the_wait_and_the_next_use_takes_up_what_goes_on(
    hub_record: Weights, hub_files: dict[str, bytes], hub: HubServer
) -> None:
    hub.faults = [Fault("GET /lfs/", cut_after=5000), Fault("GET /lfs/", hang=3)]

    def stop() -> None:
        while len(hub.asked("GET /lfs/")) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        locate(hub_record)
    assert time.monotonic() - started < 3

    assert locate(hub_record).read_bytes() == hub_files[WEIGHTS_FILE]
    assert len(hub.asked("GET /lfs/")) == 2, "not fetched a second time"


# Other processes; whole nets


FETCH = """
import os, sys
from pathlib import Path
from wszoo.hub import fetch_config, fetch_weights, place_of

def fetch(number):
    place, config = fetch_config(place_of(sys.argv[1]))
    path = fetch_weights(place, sha256=config["wszoo"]["sha256"], dtype="F32")
    Path(sys.argv[3], f"path-{number}").write_text(str(path))

if sys.argv[2] == "1":
    fetch(0)
    sys.exit()
processes = []
for number in range(int(sys.argv[2])):
    process = os.fork()
    if process == 0:
        try:
            fetch(number)
        finally:
            os._exit(0)
    processes.append(process)
for process in processes:
    os.waitpid(process, 0)
"""


@contextmanager
def fetching(processes: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, or many from one, that leave the paths of what they fetched in ``folder``."""
    command = [sys.executable, "-c", FETCH, NAME, str(processes), str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_eight_processes_at_once_fetch_a_large_file_once(hub: HubServer, tmp_path: Path) -> None:
    made = published(timm.create_model("resnet18_gn_ws"), tmp_path / "net")
    hub.publish(NAME, made)
    hub.faults = [Fault("GET /lfs/", hang=2)]  # so that each of them finds it under way

    with fetching(8, tmp_path) as process:
        process.wait(timeout=300)

    paths = [path.read_text() for path in tmp_path.glob("path-*")]
    assert len(paths) == 8 and len({*paths}) == 1
    assert Path(paths[0]).read_bytes() == made[WEIGHTS_FILE]
    fetched = [r for r in hub.requests if r.origin == "cdn" and r.headers["Range"] is None]
    assert len(fetched) == 1


@pytest.mark.slow
def test_a_stopped_process_delays_others_for_seconds_and_spoils_nothing(
    hub_record: Weights,
    hub_files: dict[str, bytes],
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(hub_turn, "HOLDER_STALL", 0.5)
    hub.faults = [Fault("GET /lfs/", cut_after=5000), Fault("GET /lfs/", hang=1)]

    with fetching(1, tmp_path) as process:
        wait_until(lambda: len(hub.asked("GET /lfs/")) == 2, process)
        process.send_signal(signal.SIGSTOP)
        (theirs,) = Path(constants.HF_HUB_CACHE).rglob("*.incomplete")
        started = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            paths = {*pool.map(locate, [hub_record] * 3)}
        assert time.monotonic() - started < 8
        (path,) = paths
        inode = path.stat().st_ino
        assert path.read_bytes() == hub_files[WEIGHTS_FILE] and theirs.exists()
        whole = [r for r in hub.requests if r.origin == "cdn" and r.headers["Range"] is None]
        assert len(whole) == 2 + 1, "once more, for all who wait"
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=60) == 0

    assert Path((tmp_path / "path-0").read_text()) == path
    assert path.read_bytes() == hub_files[WEIGHTS_FILE] and path.stat().st_ino != inode
    assert not [*Path(constants.HF_HUB_CACHE).rglob("*.incomplete")]
    assert sum("is fetched beside it" in line for line in warnings_of(caplog)) == 1


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.slow
def test_a_process_stopped_by_ctrl_c_leaves_nothing_behind(
    hub_files: dict[str, bytes], hub: HubServer, tmp_path: Path
) -> None:
    hub.faults = [Fault("GET /lfs/", cut_after=5000), Fault("GET /lfs/", hang=30)]

    with fetching(1, tmp_path) as process:
        wait_until(lambda: len(hub.asked("GET /lfs/")) == 2, process)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)

    assert time.monotonic() - started < 20
    assert not [*tmp_path.glob("path-*")]
    assert not [*Path(constants.HF_HUB_CACHE).rglob("*.incomplete")]


@pytest.mark.slow
def test_a_large_net_goes_to_the_hub_and_back_to_the_bit(hub: HubServer, tmp_path: Path) -> None:
    net = timm.create_model("resnet18_gn_ws").eval()
    made = published(net, tmp_path / "net")
    assert len(made[WEIGHTS_FILE]) > 45_000_000
    api = HfApi()
    api.create_repo(NAME)
    operations = [CommitOperationAdd(name, tmp_path / "net" / name) for name in made]
    api.create_commit(NAME, operations, commit_message="Publish", num_threads=1)

    loaded = timm.create_model(f"hf-hub:{NAME}", pretrained=True).eval()

    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), net(images))
    assert len(hub.asked("PUT /lfs/")) == len(hub.asked("GET /lfs/")) == 1
