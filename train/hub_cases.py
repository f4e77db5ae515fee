"""What goes wrong between a user and the Hub, each done to the real client and a stand-in."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import filelock

from tests.hub_client import NAME
from tests.hub_server import LOGIN_PAGE, Fault
from train.hub_scene import Scene
from wszoo.weights import WEIGHTS_FILE

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 45\n"
ALWAYS = -1


Case = Callable[[Scene], object]
READS: dict[str, Case] = {}


def reads(fault: str) -> Callable[[Case], Case]:
    return lambda case: READS.setdefault(fault, case)


def close(scene: Scene) -> None:
    """Let nobody in who was not let in before."""
    scene.hub.repos[NAME].gated = True
    scene.after.append(lambda: setattr(scene.hub.repos[NAME], "gated", False))


def struck(*faults: Fault) -> Case:
    """Use the weights while the Hub does this."""

    def case(scene: Scene) -> object:
        scene.hub.faults = [replace(fault) for fault in faults]
        return scene.use()

    return case


for _fault, _case in {
    "503": struck(Fault("HEAD", status=503, times=ALWAYS)),
    "the Hub accepts and never answers": struck(Fault("HEAD", hang=60, times=ALWAYS)),
    "captive portal": struck(Fault(body=LOGIN_PAGE, times=ALWAYS)),
    "429, Retry-After: 2": struck(Fault("HEAD", status=429, retry_after=2)),
    "429, Retry-After: 60": struck(Fault("HEAD", status=429, retry_after=60, times=ALWAYS)),
    "503 of the CDN": struck(Fault("/lfs/", status=503, times=ALWAYS)),
    "the CDN accepts and never answers": struck(Fault("/lfs/", hang=60, times=ALWAYS)),
    "the CDN falls silent within the file": struck(
        Fault("/lfs/", cut_after=500_000), Fault("/lfs/", hang=60, times=ALWAYS)
    ),
    "connection cut three times": struck(*[Fault("/lfs/", cut_after=200_000)] * 3),
    "fewer bytes than announced": struck(Fault("/lfs/", body=b"few", times=ALWAYS)),
    "right size, one byte flipped, once": struck(Fault("/lfs/", flip=99_999)),
    "right size, one byte flipped, always": struck(Fault("/lfs/", flip=99_999, times=ALWAYS)),
}.items():
    READS[_fault] = _case


@reads("no server")
def _(scene: Scene) -> object:
    scene.nobody_there()
    return scene.use()


@reads("no server, cached")
def _(scene: Scene) -> object:
    scene.use()
    scene.nobody_there()
    return scene.use()


@reads("offline")
def _(scene: Scene) -> object:
    scene.offline()
    return scene.use()


@reads("offline, cached")
def _(scene: Scene) -> object:
    scene.use()
    scene.offline()
    return scene.use()


@reads("offline, cached by another tag than asked for")
def _(scene: Scene) -> object:
    scene.hub.repos[NAME].tags["v1"] = scene.hub.repos[NAME].commits[-1].sha
    scene.use_by_name("@v1")
    scene.offline()
    return scene.use_by_name()


def struck_by_name(fault: Fault) -> Case:
    """Have ``timm.create_model`` make the net by its name on the Hub while that does this."""

    def case(scene: Scene) -> object:
        scene.hub.faults = [replace(fault)]
        return scene.use_by_name()

    return case


for _fault, _strike in {
    "503": Fault("HEAD", status=503, times=ALWAYS),
    "the Hub accepts and never answers": Fault("HEAD", hang=60, times=ALWAYS),
    "captive portal": Fault(body=LOGIN_PAGE, times=ALWAYS),
    "429, Retry-After: 60": Fault("HEAD", status=429, retry_after=60, times=ALWAYS),
}.items():
    READS[f"hf-hub: name, {_fault}"] = struck_by_name(_strike)


@reads("hf-hub: name, gated")
def _(scene: Scene) -> object:
    close(scene)
    return scene.use_by_name()


@reads("hf-hub: name, offline")
def _(scene: Scene) -> object:
    scene.offline()
    return scene.use_by_name()


@reads("hf-hub: name, 503, cached")
def _(scene: Scene) -> object:
    scene.use_by_name()
    scene.hub.faults = [Fault("HEAD", status=503, times=ALWAYS)]
    return scene.use_by_name()


@reads("hf-hub: name, cached, the Hub has moved on, cache that cannot be written")
def _(scene: Scene) -> object:
    scene.use_by_name()
    content = scene.files["config.json"].replace(b"{", b"{ ", 1)
    scene.hub.publish(NAME, {**scene.files, "config.json": content})
    locks, aside = scene.cache / ".locks", scene.cache / ".locks.aside"
    locks.rename(aside)
    locks.touch()  # where no folder can be made then, not even by root
    scene.after += [locks.unlink, lambda: aside.rename(locks)]
    return scene.use_by_name()


@reads("kill -9 while fetching")
def _(scene: Scene) -> object:
    scene.hub.faults = [Fault("/lfs/", hang=60)]
    code = (
        "import wszoo, sys; from wszoo.hub import fetch, place_of; "
        f"fetch(place_of({NAME!r}), 'model.safetensors')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as child:
        while not scene.hub.asked("GET /lfs/"):
            time.sleep(0.05)
        child.kill()
    return scene.use()


@reads("Ctrl-C while fetching")
def _(scene: Scene) -> object:
    scene.hub.faults = [Fault("/lfs/", cut_after=500_000), Fault("/lfs/", hang=60)]
    interrupt_when(lambda: len(scene.hub.asked("GET /lfs/")) == 2)
    return scene.use()


def interrupt_when(condition: Callable[[], bool]) -> None:
    """Ctrl-C, as soon as this holds."""

    def stop() -> None:
        while not condition():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()


def damaged(content: Callable[[bytes], bytes], *, offline: bool = False) -> Case:
    def case(scene: Scene) -> object:
        scene.use()
        scene.damage(content(scene.files[WEIGHTS_FILE]))
        if offline:
            scene.offline()
        return scene.use()

    return case


for _what, _content in {
    "truncated": lambda whole: whole[:-1000],
    "empty": lambda whole: b"",
    "a web page": lambda whole: LOGIN_PAGE,
    "an LFS pointer": lambda whole: POINTER,
    "one byte flipped": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
}.items():
    READS[f"in the cache: {_what}"] = damaged(_content)
READS["in the cache: a web page, offline"] = damaged(lambda whole: LOGIN_PAGE, offline=True)


@reads("in the cache: config.json broken")
def _(scene: Scene) -> object:
    scene.use_by_name()
    scene.damage(b'{"architecture', "config.json")
    return scene.use_by_name()


@reads("published as such: an LFS pointer")
def _(scene: Scene) -> object:
    commit = scene.hub.publish(NAME, {WEIGHTS_FILE: POINTER})
    good = scene.record
    scene.record = replace(good, hub=f"{NAME}@{commit.sha}")
    scene.after.append(lambda: setattr(scene, "record", good))
    return scene.use()


@reads("a process that holds the lock and does nothing")
def _(scene: Scene) -> object:
    folder = scene.cache / ".locks" / f"models--{NAME.replace('/', '--')}"
    folder.mkdir(parents=True)
    lock = filelock.FileLock(folder / f"{scene.record.sha256}.lock")
    lock.acquire()
    scene.after.append(lock.release)
    return scene.use()


@reads("cache that cannot be written")
def _(scene: Scene) -> object:
    scene.cache.parent.mkdir(parents=True, exist_ok=True)
    scene.cache.touch()
    scene.after.append(scene.cache.unlink)
    return scene.use()


@reads("gated")
def _(scene: Scene) -> object:
    close(scene)
    return scene.use()


@reads("wrong token")
def _(scene: Scene) -> object:
    scene.patch.setenv("HF_TOKEN", "hf_wrong")
    scene.after.append(lambda: scene.patch.setenv("HF_TOKEN", scene.hub.token))
    return scene.use()


@reads("no such repository, or private")
def _(scene: Scene) -> object:
    held = dict(scene.hub.repos)
    scene.hub.repos.clear()
    scene.after.append(lambda: scene.hub.repos.update(held))
    return scene.use()


@reads("no such revision")
def _(scene: Scene) -> object:
    return scene.use_by_name("@v9")


@reads("no such file")
def _(scene: Scene) -> object:
    files = scene.hub.repos[NAME].commits[-1].files
    held = files.pop(WEIGHTS_FILE)
    scene.after.append(lambda: files.update({WEIGHTS_FILE: held}))
    return scene.use()
