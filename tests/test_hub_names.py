"""Names of the Hub and of folders, through timm alone; what a config.json may be."""

import inspect
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from timm.models import _factory, save_for_hf

from tests.hub_client import MODEL, NAME, published
from tests.hub_server import LOGIN_PAGE, Fault, HubServer
from wszoo.files import sha256_of
from wszoo.loading import guard_timm
from wszoo.weights import WEIGHTS_FILE

READERS = {
    "load_model_config_from_hf": ["model_id", "cache_dir"],
    "load_model_config_from_path": ["model_path"],
}


def load(name: str, **kwargs: Any) -> Any:
    return timm.create_model(name, pretrained=True, **kwargs).eval()


# Failing


FAULTS: dict[str, tuple[Callable[[HubServer, pytest.MonkeyPatch], Any], str]] = {
    "503": (
        lambda hub, patch: hub.faults.append(Fault("HEAD", status=503, times=-1)),
        "status 503 Service Unavailable (3 attempts); try again later, or run `hf download",
    ),
    "429": (
        lambda hub, patch: hub.faults.append(Fault("HEAD", status=429, retry_after=60, times=-1)),
        "status 429 Too Many Requests, for 60 seconds more; wait, or run `hf auth login`",
    ),
    "portal": (
        lambda hub, patch: hub.faults.append(Fault(body=LOGIN_PAGE, times=-1)),
        "answers, but not as the Hub does; log in to the network with a browser",
    ),
    "another token": (
        lambda hub, patch: setattr(hub, "token", "another"),
        "does not accept the token (status 401); run `hf auth login`, and unset HF_TOKEN",
    ),
    "gated": (
        lambda hub, patch: setattr(hub.repos[NAME], "gated", True),
        "one has to be let into the repository; ask for it on",
    ),
    "no repository": (
        lambda hub, patch: hub.repos.clear(),
        f"there is no repository {NAME} at",
    ),
    "offline": (
        lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True),
        "and HF_HUB_OFFLINE forbids to fetch it; unset it once, or run",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_timm_itself_fails_in_one_line_within_seconds(
    fault: str, hub_files: dict[str, bytes], hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike, told = FAULTS[fault]
    strike(hub, monkeypatch)

    started = time.monotonic()
    with pytest.raises(OSError, match=rf"\A.*{re.escape(told)}.*\Z"):  # a dot is no line break
        load(f"hf-hub:{NAME}")

    assert time.monotonic() - started < 5
    assert len(hub.requests) <= 3


def test_timm_is_given_the_copy_in_the_cache_while_the_hub_is_down(
    hub_net: Any, hub_files: dict[str, bytes], hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    load(f"hf-hub:{NAME}")
    hub.faults = [Fault("HEAD", status=503, times=-1)]
    hub.requests.clear()

    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(load(f"hf-hub:{NAME}")(images), hub_net(images))

    (warning,) = [r.getMessage() for r in caplog.records if r.name.startswith("wszoo")]
    assert "status 503" in warning and warning.endswith("the copy in the cache is used")
    assert len(hub.requests) == 1, "no attempts by the client, which waits longer"


# Succeeding as before


def test_a_net_that_is_not_of_this_zoo_loads_as_with_timm_alone(
    hub: HubServer, tmp_path: Path
) -> None:
    net = timm.create_model("test_resnet", num_classes=5).eval()
    save_for_hf(net, str(tmp_path / "net"), safe_serialization=True)
    hub.publish(NAME, {path.name: path.read_bytes() for path in (tmp_path / "net").iterdir()})
    alone = _factory.load_model_config_from_hf.__wrapped__  # type: ignore[attr-defined]

    loaded = load(f"hf-hub:{NAME}", cache_dir=tmp_path / "cache")

    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(images), net(images))
    assert _factory.load_model_config_from_hf(NAME) == alone(NAME)
    assert loaded.pretrained_cfg["hf_hub_id"] == NAME
    assert [*(tmp_path / "cache").glob("models--*/snapshots/*/config.json")]
    folder = str(tmp_path / "net")
    assert torch.equal(load(f"local-dir:{folder}")(images), net(images))


def test_this_timm_reads_configurations_where_they_are_guarded() -> None:
    """If this fails, timm has changed, and names of the Hub fail as the client does again."""
    for name, arguments in READERS.items():
        guarded = getattr(_factory, name)
        assert [*inspect.signature(guarded).parameters] == arguments, timm.__version__
        assert guarded.is_guarded_by_wszoo

        guard_timm()
        assert getattr(_factory, name) is guarded, "guarded once"


def test_a_timm_that_is_built_otherwise_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def newer(repository: str, *, token: str) -> None:
        """Takes what nobody here knows of."""

    monkeypatch.setattr(_factory, "load_model_config_from_hf", newer)
    monkeypatch.delattr(_factory, "load_model_config_from_path")

    guard_timm()

    assert vars(_factory)["load_model_config_from_hf"] is newer
    assert not hasattr(_factory, "load_model_config_from_path")


# What a config.json may be


def text_with(**entries: Any) -> Callable[[dict[str, Any]], str]:
    return lambda config: json.dumps(config | entries)


BAD: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "broken": (lambda config: '{"architecture', "is damaged, not a configuration"),
    "a web page": (lambda config: LOGIN_PAGE.decode(), "is a web page (a proxy or a login page"),
    "a list": (lambda config: "[]", "is damaged, not a configuration"),
    "null": (text_with(wszoo=None), "has null as 'wszoo', not an object"),
    "list": (text_with(wszoo=[]), "has [] as 'wszoo', not an object"),
    "text": (text_with(wszoo="x"), "has \"x\" as 'wszoo', not an object"),
    "number": (text_with(wszoo={"sha256": 5}), "has 5 as 'sha256', not text"),
    "arguments": (text_with(model_args=[1]), "has [1] as 'model_args', not an object"),
    "timm's own": (text_with(pretrained_cfg=7), "has 7 as 'pretrained_cfg', not an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_configuration_that_is_none_is_refused_by_name(
    case: str, hub_files: dict[str, bytes], hub: HubServer, tmp_path: Path
) -> None:
    make, told = BAD[case]
    path = tmp_path / "published" / "config.json"
    content = make(json.loads(path.read_text(encoding="utf-8"))).encode()
    path.write_bytes(content)
    hub.publish(NAME, hub_files | {"config.json": content})

    told = re.escape(told)
    with pytest.raises(ValueError, match=rf"\A{re.escape(str(path))} {told}.*; fetch it again\Z"):
        load(f"local-dir:{path.parent}")
    mend = f"; this is what {NAME} holds: whoever published it has to mend it"
    with pytest.raises(ValueError, match=rf"\A.*config\.json {told}.*{mend}.*\Z"):
        load(f"hf-hub:{NAME}")


def test_a_formula_that_nobody_knows_is_refused(
    hub_net: Any, hub_files: dict[str, bytes], hub: HubServer, tmp_path: Path
) -> None:
    hub.publish(NAME, published(hub_net, tmp_path / "published", formula="nope"))

    message = (
        r"config\.json.* names the WS formula 'nope', known are jhu, .*; fetch it again, or up"
    )
    for name in (f"local-dir:{tmp_path / 'published'}", f"hf-hub:{NAME}"):
        with pytest.raises(ValueError, match=message):
            load(name)
        with pytest.raises(ValueError, match=message):
            timm.create_model(name)


def test_a_formula_in_the_weights_that_nobody_knows_is_refused(
    hub_net: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "net"
    published(hub_net, folder)
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes().replace(b'"formula":"jhu"', b'"formula":"uhj"'))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["wszoo"]["sha256"] = sha256_of(weights)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(ValueError, match=r"model\.safetensors names the WS formula 'uhj', known"):
        load(f"local-dir:{folder}")


def test_what_other_libraries_publish_is_told_apart(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    hub.publish(NAME, {"config.json": b'{"model_type": "bert"}'})

    message = "is no net of timm: its config.json names no architecture; load it with the library"
    for name in (f"local-dir:{tmp_path}", f"hf-hub:{NAME}"):
        with pytest.raises(ValueError, match=message):
            load(name)


def test_a_folder_that_is_not_there_is_named_with_a_way_out(tmp_path: Path) -> None:
    message = r"there is no .*gone/config\.json; name a folder that `hf download`, `wszoo card` or"
    with pytest.raises(FileNotFoundError, match=message):
        load(f"local-dir:{tmp_path / 'gone'}")


def test_names_and_folders_do_without_what_is_not_stated(hub_net: Any, tmp_path: Path) -> None:
    published(hub_net, tmp_path / "net", sha256=None, dtype=None)

    assert type(load(f"local-dir:{tmp_path / 'net'}")) is type(hub_net)
    assert MODEL in load(f"local-dir:{tmp_path / 'net'}").pretrained_cfg["architecture"]
