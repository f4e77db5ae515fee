"""What goes wrong between a publisher and the Hub: other weights are pushed to where some are."""

from collections.abc import Callable
from dataclasses import replace

import timm

from tests.hub_client import MODEL, NAME, published
from tests.hub_repos import sha256
from tests.hub_server import Fault
from train.hub_cases import ALWAYS, Case, interrupt_when
from train.hub_scene import Scene
from wszoo.publish import Publication, PublishedFile, publish
from wszoo.weights import WEIGHTS_FILE


def push(scene: Scene, *, echo: Callable[[str], None] = lambda line: None) -> object:
    folder = scene.home / "next"
    net = timm.create_model(MODEL, num_classes=200, drop_rate=0.5)
    content = published(net, folder)
    files = tuple(
        PublishedFile(name=name, path=folder / name, bytes=len(data), sha256=sha256(data))
        for name, data in sorted(content.items())
    )
    weights = replace(scene.record, sha256=sha256(content[WEIGHTS_FILE]), hub=None)
    return publish(Publication(weights=weights, files=files), NAME, echo=echo)


def pushed(*faults: Fault) -> Case:
    def case(scene: Scene) -> object:
        scene.hub.faults = [replace(fault) for fault in faults]
        return push(scene)

    return case


def overtaken(scene: Scene) -> object:
    def meanwhile(line: str) -> None:
        if "config.json" in line:
            scene.hub.publish(NAME, {"README.md": b"---\nlicense: mit\n---\n"}, "Theirs")

    return push(scene, echo=meanwhile)


def interrupted(scene: Scene) -> object:
    scene.hub.faults = [Fault("/lfs/verify", hang=2)]
    interrupt_when(lambda: bool(scene.hub.asked("/lfs/verify")))
    return push(scene)


PUSHES: dict[str, Case] = {
    "push: nothing wrong": pushed(),
    "push: LFS upload, 503": pushed(Fault("PUT", status=503, times=ALWAYS)),
    "push: the Hub does not find what was uploaded": pushed(
        Fault("/lfs/verify", status=404, times=ALWAYS)
    ),
    "push: commit, 500": pushed(Fault("/commit/", status=500, times=ALWAYS)),
    "push: answer to the commit lost": pushed(Fault("/commit/", lost=True)),
    "push: never an answer to the upload": pushed(Fault("PUT", hang=60, times=ALWAYS)),
    "push: never an answer to the commit, not done": pushed(Fault("/commit/", hang=120)),
    "push: never an answer to the commit, done": pushed(Fault("/commit/", lost=True, hang=120)),
    "push: never an answer to the tag, done": pushed(Fault("/tag/", lost=True, hang=60)),
    "push: comes back with one byte flipped": pushed(Fault("GET /lfs/", flip=99_999, times=ALWAYS)),
    "push: tagging, 503": pushed(Fault("/tag/", status=503, times=ALWAYS)),
    "push: somebody else commits meanwhile": overtaken,
    "push: Ctrl-C between upload and commit": interrupted,
}


def repository_state(scene: Scene) -> str:
    """What was published by a push, and whether repeating it, with the fault gone, succeeds."""
    repo = scene.hub.repos[NAME]
    ours = [commit for commit in repo.commits if commit.title.startswith("Publish test")]
    is_tagged = any(commit.sha in repo.tags.values() for commit in ours)
    held = f"{'published' if ours else 'not published'}, {'' if is_tagged else 'not '}tagged"
    scene.hub.faults.clear()
    for undo in scene.after:
        undo()
    try:
        push(scene)
    except (OSError, ValueError):
        return f"{held}; repeating it FAILS"
    return f"{held}; repeating it works"
