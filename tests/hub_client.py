"""Turning the real client of the Hub, already imported, to the stand-in; files to put there."""

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_api
from timm.models import save_for_hf

from tests.hub_server import HubServer
from wszoo.weights_file import WEIGHTS_FILE, weights_bytes

MODEL = "test_resnet_gn_ws"
NAME = f"tester/{MODEL}"


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    """What a process must find, before it imports the client, to talk to ``hub`` only."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


UNSET = ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "TRANSFORMERS_OFFLINE", "HF_XET_CACHE")


def turn_to(hub: HubServer, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Set the environment for child processes, and in this one what the client read from it."""
    for name, value in environment(hub, home).items():
        patch.setenv(name, value)
    for name in UNSET:
        patch.delenv(name, raising=False)
    files = "{repo_id}/resolve/{revision}/{filename}"
    settings: dict[str, object] = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub.endpoint}/{files}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }
    for name, setting in settings.items():
        patch.setattr(constants, name, setting)
    patch.setattr(hf_api.api, "endpoint", hub.endpoint)
    # It logs each of its attempts, even those that go on in a thread when a test has ended.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # The client's own upload of large files calls its HTTP library in a way that has a successor.
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)


def published(net: Any, folder: Path, **facts: Any) -> dict[str, bytes]:
    """The files of a net as the zoo publishes it, which ``folder`` then holds, too."""
    save_for_hf(net, str(folder), safe_serialization=True)
    weights = weights_bytes(net.state_dict(), {"format": "pt", "formula": "jhu"})
    (folder / WEIGHTS_FILE).write_bytes(weights)
    ours = {"formula": "jhu", "sha256": hashlib.sha256(weights).hexdigest(), "dtype": "F32"}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["wszoo"] = ours | facts
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return {path.name: path.read_bytes() for path in folder.iterdir()}
