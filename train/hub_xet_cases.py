"""What goes wrong where the Hub keeps large files by Xet, and its client takes them from there."""

import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub.utils import _xet

from tests.hub_server import Fault
from tests.hub_xet import XetHub, takes_folders
from train.hub_cases import ALWAYS, Case, interrupt_when
from train.hub_push_cases import push
from train.hub_scene import Scene


@cache
def can_run() -> bool:
    """Whether `hf_xet` is there and takes a folder for a server, as it does for its own tests."""
    with TemporaryDirectory(prefix="wszoo-xet-") as folder:
        return takes_folders(Path(folder) / "probe")


def hub_of(scene: Scene) -> XetHub:
    if not isinstance(scene.hub, XetHub):
        raise TypeError("the scene of this fault has a Hub without Xet")
    return scene.hub


def use(scene: Scene) -> object:
    return scene.use()


def led_astray(act: Case) -> Case:
    """Have the Hub name a storage server that accepts and never answers."""

    def case(scene: Scene) -> object:
        server = socket.create_server(("127.0.0.1", 0), backlog=64)
        hub_of(scene).led_to = f"http://127.0.0.1:{server.getsockname()[1]}"
        scene.after += [server.close, lambda: setattr(scene.hub, "led_to", "")]
        # It remembers for an hour where it was led; by then the real one leads it elsewhere.
        scene.after.append(_xet.XET_CONNECTION_INFO_CACHE.clear)
        return act(scene)

    return case


def struck(act: Case, fault: Fault) -> Case:
    def case(scene: Scene) -> object:
        scene.hub.faults = [fault]
        return act(scene)

    return case


def harmed(harm: Callable[[Path], object]) -> Case:
    """Do this to the storage while the weights are fetched."""

    def case(scene: Scene) -> object:
        (piece,) = hub_of(scene).pieces
        sound = piece.read_bytes()
        piece.chmod(0o644)
        harm(piece)
        scene.after.append(lambda: piece.write_bytes(sound))
        return scene.use()

    return case


def flip(piece: Path) -> None:
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 1
    piece.write_bytes(content)


def interrupted(scene: Scene) -> object:
    interrupt_when(lambda: bool(scene.hub.asked("/xet-write-token/")))
    return push(scene)


XET_READS: dict[str, Case] = {
    "Xet: nothing wrong": use,
    "Xet: the storage accepts and never answers": led_astray(use),
    "Xet: one byte of the storage flipped": harmed(flip),
    "Xet: a piece of the storage missing": harmed(Path.unlink),
}
XET_PUSHES: dict[str, Case] = {
    "push over Xet: nothing wrong": push,
    "push over Xet: the storage accepts and never answers": led_astray(push),
    "push over Xet: never a token for the storage": struck(
        push, Fault("/xet-write-token/", hang=60, times=ALWAYS)
    ),
    "push over Xet: no token for the storage, 403": struck(
        push, Fault("/xet-write-token/", status=403, times=ALWAYS)
    ),
    "push over Xet: Ctrl-C while sending": led_astray(interrupted),
}
