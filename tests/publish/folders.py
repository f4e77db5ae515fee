"""A folder of weights fit to be published, and what the tests of publishing do to it."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import wszoo.verify
import wszoo.weights
from tests.hub_repos import Request
from tests.hub_server import Fault, HubServer
from wszoo.cards import read_results, render_card
from wszoo.files import sha256_of
from wszoo.publish import Publication
from wszoo.weights import WEIGHTS, Weights, find

NAME = "test_resnet_gn_ws.e3_tin200"
REPOSITORY = f"tester/{NAME}"
COMMIT = f"POST /api/models/{REPOSITORY}/commit/"
CARDS = Path(__file__).parents[2] / "model_cards"


def copy_card(home: Path, name: str = NAME) -> Path:
    """The folder of a record's card, rendered anew, in ``home``."""
    folder = home / name
    shutil.copytree(CARDS / name, folder)
    pictures = sorted(path.name for path in folder.glob("*.png"))
    edit_json(folder / "results.json", "pictures", value=pictures)
    render(folder, find(name))
    return folder


def render(folder: Path, weights: Weights) -> None:
    (folder / "README.md").write_text(render_card(weights, read_results(folder)), encoding="utf-8")


def edit_json(path: Path, *keys: str, value: Any) -> None:
    """Set what lies under ``keys``, or delete it where ``value`` is None."""
    content = json.loads(path.read_text(encoding="utf-8"))
    table = content
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    if value is None:
        del table[keys[-1]]
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def put_record(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package know ``weights`` in the place of the record of that name."""
    table = tuple(weights if each.name == weights.name else each for each in WEIGHTS)
    for module in (wszoo.weights, wszoo.verify):
        monkeypatch.setattr(module, "WEIGHTS", table)


def interrupt_at(hub: HubServer, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C as soon as the hub is asked for ``match``, and never answer."""

    def take_fault(request: Request) -> Fault:
        if match not in f"{request.method} {request.path}":
            return Fault()
        os.kill(os.getpid(), signal.SIGINT)
        return Fault(hang=60)

    monkeypatch.setattr(hub, "take_fault", take_fault)


def commits(hub: HubServer) -> int:
    """How often something was published in the repository."""
    return len(hub.repos[REPOSITORY].commits) - 1 if REPOSITORY in hub.repos else 0


def taken_from(folder: Path, publication: Publication) -> Publication:
    """The same with the files that lie in ``folder`` in the place of those of their name."""
    files = tuple(
        replace(
            file,
            path=folder / file.name,
            bytes=(folder / file.name).stat().st_size,
            sha256=sha256_of(folder / file.name),
        )
        if (folder / file.name).exists()
        else file
        for file in publication.files
    )
    return replace(publication, files=files)
