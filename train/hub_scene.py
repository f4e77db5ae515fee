"""The stage of the study of the Hub's faults: a stand-in, what it holds, and an empty cache."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import timm
from huggingface_hub import constants

import wszoo.weights
from tests.hub_client import MODEL, NAME, published, turn_to
from tests.hub_repos import sha256
from tests.hub_server import HubServer
from tests.hub_xet import XetHub
from wszoo.files import sha256_of
from wszoo.weights import WEIGHTS_FILE, Weights, find, locate


@dataclass
class Scene:
    """A repository that holds the weights of a registered name, and an empty cache."""

    hub: HubServer
    home: Path
    patch: pytest.MonkeyPatch
    record: Weights
    files: dict[str, bytes]
    after: list[Callable[[], object]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def cache(self) -> Path:
        return Path(constants.HF_HUB_CACHE)

    def use(self) -> Path:
        """What ``timm.create_model`` does for a registered name, before it builds the net."""
        self.started = time.monotonic()
        return locate(self.record)

    def use_by_name(self, revision: str = "") -> object:
        """Make the net by a name of the Hub."""
        self.started = time.monotonic()
        return timm.create_model(f"hf-hub:{NAME}{revision}", pretrained=True)

    def cached(self, name: str = WEIGHTS_FILE) -> list[Path]:
        return sorted(self.cache.glob(f"models--*/snapshots/*/{name}"))

    def damage(self, content: bytes, name: str = WEIGHTS_FILE) -> None:
        self.cached(name)[0].resolve().write_bytes(content)

    def offline(self) -> None:
        self.patch.setattr(constants, "HF_HUB_OFFLINE", True)
        self.after.append(lambda: self.patch.setattr(constants, "HF_HUB_OFFLINE", False))

    def nobody_there(self) -> None:
        ours = constants.ENDPOINT, constants.HUGGINGFACE_CO_URL_TEMPLATE
        self._endpoint("http://127.0.0.1:9", ours[1].replace(ours[0], "http://127.0.0.1:9"))
        self.after.append(lambda: self._endpoint(*ours))

    def _endpoint(self, endpoint: str, template: str) -> None:
        self.patch.setattr(constants, "ENDPOINT", endpoint)
        self.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def state(self) -> str:
        """What the cache holds, and whether the next use, with the fault gone, succeeds."""
        files = self.cached()
        held = "no weights in the cache"
        if files:
            is_right = sha256_of(files[0]) == self.record.sha256
            held = "the right file in the cache" if is_right else "a file in the cache, refused"
        parts = [path.stat().st_size for path in self.cache.rglob("*.incomplete")]
        left = "".join(f", an unfinished one of {size} bytes beside it" for size in parts)
        self.hub.faults.clear()
        for undo in self.after:
            undo()
        try:
            works = sha256_of(self.use()) == self.record.sha256
        except (OSError, ValueError):
            works = False
        return f"{held}{left}; next use {'works' if works else 'FAILS'}"


@contextmanager
def scene(*, xet: bool = False) -> Iterator[Scene]:
    """A new one; with ``xet``, its Hub and the client keep and fetch large files so."""
    with (
        TemporaryDirectory(prefix="wszoo-hub-") as folder,
        XetHub(Path(folder) / "storage") if xet else HubServer() as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        turn_to(hub, Path(folder) / "home", patch)
        if xet:
            patch.setenv("HF_HUB_DISABLE_XET", "0")
            patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        files = published(timm.create_model(MODEL, num_classes=200), Path(folder) / "net")
        record = replace(
            find(MODEL),
            sha256=sha256(files[WEIGHTS_FILE]),
            dtype="F32",
            packaged=False,
            hub=f"{NAME}@{hub.publish(NAME, files).sha}",
        )
        patch.setattr(wszoo.weights, "WEIGHTS", (record,))
        yield Scene(hub, Path(folder), patch, record, files)
