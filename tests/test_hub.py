"""Weights from the Hub: the real client and the real timm against the stand-in."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants, snapshot_download
from torch import Tensor

from tests.hub_client import MODEL, NAME, published
from tests.hub_server import LOGIN_PAGE, Fault, HubServer
from wszoo import terminal
from wszoo.backbone import load_backbone
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build
from wszoo.hub import fetch_config, fetch_weights, place_of, prefetch
from wszoo.weights import WEIGHTS_FILE, Weights, download, locate

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 45\n"


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))


def load(name: str, **kwargs: Any) -> Any:
    return timm.create_model(name, pretrained=True, **kwargs).eval()


def cached(name: str = WEIGHTS_FILE) -> Path:
    (found,) = Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{name}")
    return found


def damage(path: Path, content: bytes) -> None:
    path.resolve().write_bytes(content)


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name.startswith("wszoo")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


# What is on the Hub, loads


@pytest.mark.parametrize("revision", ["", "@v1", "@{sha}"])
def test_what_is_on_the_hub_loads_by_name_tag_and_commit(
    revision: str, hub_net: Any, hub_files: dict[str, bytes], hub: HubServer
) -> None:
    sha = hub.repos[NAME].commits[-1].sha
    hub.repos[NAME].tags["v1"] = sha
    hub.publish(NAME, {}, title="nothing new")
    name = f"hf-hub:{NAME}{revision.format(sha=sha)}"

    assert torch.equal(load(name)(images()), hub_net(images()))
    hub.requests.clear()
    assert torch.equal(load(name)(images()), hub_net(images()))

    assert len(hub.requests) == (0 if "sha" in revision else 1), hub.asked()


def test_a_registered_name_is_fetched_once_and_then_without_a_request(
    hub_net: Any, hub_record: Weights, hub: HubServer
) -> None:
    assert torch.equal(load(MODEL)(images()), hub_net(images()))
    assert len(hub.asked("GET /lfs/")) == 1
    hub.requests.clear()

    assert torch.equal(load(hub_record.name)(images()), hub_net(images()))
    assert hub.requests == []


def test_a_repository_can_be_laid_over_a_variant_that_has_weights(
    hub_net: Any, hub_files: dict[str, bytes], hub: HubServer
) -> None:
    loaded = load(MODEL, pretrained_cfg_overlay={"hf_hub_id": NAME})

    assert torch.equal(loaded(images()), hub_net(images()))


def test_parts_of_a_net_load_from_the_hub(
    hub_net: Any, hub_files: dict[str, bytes], hub: HubServer
) -> None:
    name, expected = f"hf-hub:{NAME}", hub_net.forward_features(images())
    grey = images(1)

    assert torch.equal(load(name, num_classes=0).forward_features(images()), expected)
    assert torch.equal(load(name, features_only=True)(images())[-1], expected)
    one_channel = load(name, in_chans=1)(grey)
    torch.testing.assert_close(
        one_channel, hub_net(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
    )


def test_the_caller_names_the_cache(
    hub_net: Any, hub_files: dict[str, bytes], hub: HubServer, tmp_path: Path
) -> None:
    loaded = load(f"hf-hub:{NAME}", cache_dir=tmp_path / "mine")

    assert torch.equal(loaded(images()), hub_net(images()))
    assert [*(tmp_path / "mine").glob(f"models--*/snapshots/*/{WEIGHTS_FILE}")]
    assert not Path(constants.HF_HUB_CACHE).exists()


def test_without_a_network_the_cache_or_a_copy_will_do(
    hub_net: Any,
    hub_record: Weights,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load(f"hf-hub:{NAME}")
    snapshot_download(NAME, local_dir=tmp_path / "copy")
    download(hub_record, tmp_path / "weights")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    for name in (f"hf-hub:{NAME}", f"local-dir:{tmp_path / 'copy'}", hub_record.name):
        assert torch.equal(load(name)(images()), hub_net(images())), name
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path / "weights"))
    assert torch.equal(load(hub_record.name)(images()), hub_net(images()))
    assert hub.requests == []


def test_the_token_is_not_sent_to_the_cdn(hub_record: Weights, hub: HubServer) -> None:
    locate(hub_record)

    assert {r.headers["Authorization"] for r in hub.requests if r.origin == "cdn"} == {None}
    assert {r.headers["Authorization"] for r in hub.requests if r.origin == "hub"} == {
        "Bearer hf_test"
    }


def test_weights_and_configuration_are_of_one_commit(
    hub_net: Any, hub_files: dict[str, bytes], hub: HubServer, tmp_path: Path
) -> None:
    place, before = fetch_config(place_of(NAME))
    other = published(timm.create_model(MODEL, num_classes=3), tmp_path / "other")
    hub.publish(NAME, other)

    path = fetch_weights(place, sha256=before["wszoo"]["sha256"], dtype="F32")
    assert path.read_bytes() == hub_files[WEIGHTS_FILE]
    assert fetch_config(place_of(NAME))[1]["num_classes"] == 3


def test_only_names_of_the_hub_are_fetched_ahead(
    hub_files: dict[str, bytes], hub: HubServer
) -> None:
    prefetch(MODEL)
    prefetch("local-dir:somewhere")
    assert hub.requests == []

    prefetch(f"hf-hub:{NAME}")
    assert json.loads(cached("config.json").read_text())["architecture"] == MODEL
    hub.requests.clear()
    prefetch(f"hf-hub:{NAME}@{hub.repos[NAME].commits[-1].sha}")
    assert hub.requests == []


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda name: terminal.load(name, pretrained=True), id="commands"),
        pytest.param(lambda name: load_backbone(name), id="load_backbone"),
        pytest.param(lambda name: build(settings_for("classify", model=name), 2), id="fine-tuning"),
    ],
)
def test_all_that_takes_names_fails_as_soon_and_in_one_line(
    use: Callable[[str], Any], hub_files: dict[str, bytes], hub: HubServer
) -> None:
    hub.faults = [Fault("HEAD", status=503, times=-1)]

    with pytest.raises(ConnectionError, match=r"^cannot fetch config\.json of .*status 503.*\Z"):
        use(f"hf-hub:{NAME}")

    assert len(hub.requests) <= 3, "no attempts by the client, which waits longer"


# Damage


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault("GET /lfs/", flip=5000), "the file is damaged or another one"),
        (Fault("GET /lfs/", cut_after=5000), ""),  # the client asks for the rest
    ],
)
def test_a_file_damaged_on_the_way_is_fetched_again(
    fault: Fault,
    told: str,
    hub_record: Weights,
    hub_files: dict[str, bytes],
    hub: HubServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.faults = [fault]

    assert locate(hub_record).read_bytes() == hub_files[WEIGHTS_FILE]
    assert [told in line for line in warnings_of(caplog)] == [True] * bool(told)
    assert len(hub.asked("GET /lfs/")) == 2


@pytest.mark.parametrize("content", [b"", b"short", LOGIN_PAGE, LFS_POINTER, None])
def test_a_damaged_cache_is_mended_with_one_warning(
    content: bytes | None,
    hub_record: Weights,
    hub_files: dict[str, bytes],
    hub: HubServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(locate(hub_record), flipped(hub_files[WEIGHTS_FILE]) if content is None else content)

    assert locate(hub_record).read_bytes() == hub_files[WEIGHTS_FILE]
    (warning,) = warnings_of(caplog)
    assert warning.endswith("it is fetched a second time") and WEIGHTS_FILE in warning


def test_damage_that_cannot_be_mended_is_refused(
    hub_record: Weights,
    hub: HubServer,
    hub_files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(locate(hub_record), LOGIN_PAGE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    message = r"is a web page .*; fetching it a second time failed: .* HF_HUB_OFFLINE forbids"
    with pytest.raises(ValueError, match=message):
        locate(hub_record)


def test_a_hub_that_sends_other_bytes_leaves_nothing_behind(
    hub_record: Weights, hub: HubServer
) -> None:
    hub.faults = [Fault("GET /lfs/", flip=5000, times=-1)]

    with pytest.raises(ValueError, match="damaged or another one, in two attempts; see to what"):
        locate(hub_record)

    left = [path for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file()]
    assert not [path for path in left if path.stat().st_size > 1000], left
    hub.faults.clear()
    locate(hub_record)


def test_a_file_that_is_intact_and_another_than_it_says_is_not_fetched_again(
    hub_net: Any, hub: HubServer, tmp_path: Path
) -> None:
    hub.publish(NAME, published(hub_net, tmp_path / "net", sha256="0" * 64))

    with pytest.raises(ValueError, match=f"this is what {NAME}@.* holds: whoever published it"):
        load(f"hf-hub:{NAME}")
    assert len(hub.asked("GET /lfs/")) == 1


def test_files_that_do_not_name_their_digest_are_held_against_that_of_the_hub(
    hub_net: Any, hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.publish(NAME, published(hub_net, tmp_path / "net", sha256=None))
    hub.faults = [Fault("GET /lfs/", flip=5000)]

    assert torch.equal(load(f"hf-hub:{NAME}")(images()), hub_net(images()))
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(("content", "told"), [(LOGIN_PAGE, "a web page"), (b'{"a', "damaged")])
def test_a_damaged_configuration_is_mended(
    content: bytes,
    told: str,
    hub_files: dict[str, bytes],
    hub: HubServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prefetch(f"hf-hub:{NAME}")
    damage(cached("config.json"), content)

    prefetch(f"hf-hub:{NAME}")

    assert json.loads(cached("config.json").read_text())["architecture"] == MODEL
    (warning,) = warnings_of(caplog)
    assert f"config.json is {told}" in warning


def test_a_copy_in_the_cache_is_used_while_the_hub_is_down(
    hub_files: dict[str, bytes], hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    prefetch(f"hf-hub:{NAME}")
    hub.faults = [Fault("HEAD", status=503, times=-1)]

    assert fetch_config(place_of(NAME))[1]["architecture"] == MODEL
    (warning,) = warnings_of(caplog)
    assert "status 503" in warning and warning.endswith("the copy in the cache is used")
