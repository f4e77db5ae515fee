"""The first use of weights that others published: once, by one process, checked and converted."""

import dataclasses
import hashlib
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

import wszoo.weights
from tests.origin_server import (
    MODEL,
    OriginServer,
    bcn_file,
    jhu_file,
    name_of,
    openmmlab_file,
    publish,
    random_state,
    serving,
)
from wszoo.fetch import Patience
from wszoo.files import sha256_of
from wszoo.origin import (
    ORIGIN_FILE,
    cache_root,
    check_converted,
    converted,
    original_of,
    read_provenance,
)
from wszoo.weights_file import WEIGHTS_FILE, read_metadata
from wszoo.weights_record import Weights

QUICK = Patience(attempts=2, pause=0.01, timeout=1, limit=20)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("WSZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WSZOO_ACCEPT_UNVERIFIED", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return random_state()


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with serving() as server:
        yield server


@pytest.fixture
def weights(server: OriginServer, state: dict[str, Tensor]) -> Weights:
    return publish(server, openmmlab_file(state))


def first_use(weights: Weights, root: Path, **kwargs: Any) -> Path:
    return converted(weights, root, patience=QUICK, **kwargs)


def folder_of(weights: Weights, root: Path) -> Path:
    return root / weights.name


# What lies there afterwards


def test_the_first_use_fetches_and_converts_and_no_other_does(
    weights: Weights, server: OriginServer, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = first_use(weights, tmp_path)
    again = first_use(weights, tmp_path)

    assert path == again == tmp_path / weights.name / WEIGHTS_FILE
    assert len(server.asked) == 1
    stored = load_file(path)
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[key], tensor) for key, tensor in state.items())
    assert read_metadata(path)["formula"] == "jhu"
    assert {p.name for p in path.parent.iterdir()} - {".lock"} == {
        WEIGHTS_FILE,
        ORIGIN_FILE,
        name_of(weights),
    }


def test_what_it_was_made_from_is_written_beside_it(
    weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    path = first_use(weights, tmp_path)

    facts = json.loads((path.parent / ORIGIN_FILE).read_text())
    original = server.files[name_of(weights)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts.pop("converted_at"))
    assert facts == {
        "name": weights.name,
        "url": server.url(name_of(weights)),
        "original": name_of(weights),
        "original_sha256": hashlib.sha256(original).hexdigest(),
        "original_bytes": len(original),
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
    }


def test_the_same_original_gives_the_same_file(weights: Weights, tmp_path: Path) -> None:
    digests = {sha256_of(first_use(weights, tmp_path / place)) for place in "ab"}

    assert len(digests) == 1


def test_the_authors_own_file_gives_the_same_weights(
    server: OriginServer, state: dict[str, Tensor], tmp_path: Path
) -> None:
    theirs = publish(server, jhu_file(state), source="jhu")

    stored = load_file(first_use(theirs, tmp_path))

    assert all(torch.equal(stored[key], tensor) for key, tensor in state.items())


# Loading by name


@pytest.fixture
def known(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """The record is the one of its net, under a tag that timm knows."""
    weights = dataclasses.replace(weights, tag="e3_tin200")
    monkeypatch.setattr(wszoo.weights, "WEIGHTS", (weights,))
    return weights


def test_a_net_loads_by_its_name_and_loads_again_without_a_network(
    known: Weights, server: OriginServer, state: dict[str, Tensor]
) -> None:
    net = timm.create_model(MODEL, pretrained=True)
    server.files.clear()
    again = timm.create_model(known.name, pretrained=True, features_only=True)

    assert all(torch.equal(net.state_dict()[key], tensor) for key, tensor in state.items())
    assert torch.equal(again.state_dict()["conv1.weight"], state["conv1.weight"])
    assert len(server.asked) == 1
    with pytest.raises(ValueError, match="trained with the WS formula 'jhu', not 'bit'"):
        timm.create_model(MODEL, pretrained=True, formula="bit")


def test_an_argument_and_the_environment_say_where_the_cache_is(
    known: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm.create_model(MODEL, pretrained=True, cache_dir=tmp_path / "own")

    assert folder_of(known, tmp_path / "own" / "wszoo").is_dir()
    assert cache_root() == tmp_path / "cache"
    monkeypatch.setenv("WSZOO_CACHE", "~/weights")
    assert cache_root() == Path.home() / "weights"
    monkeypatch.delenv("WSZOO_CACHE")
    assert cache_root() == Path(constants.HF_HOME) / "wszoo"


def test_a_net_can_be_built_without_its_weights_and_without_a_network(
    known: Weights, server: OriginServer
) -> None:
    timm.create_model(known.name)

    assert server.asked == []


def test_timm_is_never_given_the_original(known: Weights) -> None:
    cfg = known.pretrained_cfg(first_conv="conv1", classifier="fc")

    with pytest.raises(ValueError, match=r"\.pth is not safetensors, and other files may hold cod"):
        timm.create_model(MODEL, pretrained=True, pretrained_cfg=cfg)


def test_a_file_can_be_laid_over_a_record_with_an_origin(
    known: Weights, server: OriginServer, tmp_path: Path
) -> None:
    path = first_use(known, tmp_path)
    cfg = known.pretrained_cfg(first_conv="conv1", classifier="fc")

    net = timm.create_model(
        MODEL, pretrained=True, pretrained_cfg=cfg, pretrained_cfg_overlay={"file": str(path)}
    )

    assert net.num_classes == 200


# The user's own folder


@pytest.fixture
def mine(known: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a file in ``WSZOO_WEIGHTS`` stands for the record."""
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path / "mine"))
    path = tmp_path / "mine" / known.name / WEIGHTS_FILE
    path.parent.mkdir(parents=True)
    return path


def test_a_file_that_nothing_vouches_for_needs_the_users_word(
    known: Weights, mine: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(state, mine)

    with pytest.raises(ValueError, match=rf"nothing says that {mine} holds '{known.name}': there"):
        timm.create_model(known.name, pretrained=True)
    monkeypatch.setenv("WSZOO_ACCEPT_UNVERIFIED", "1")
    net = timm.create_model(known.name, pretrained=True)
    assert torch.equal(net.state_dict()["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"folded": "true", "formula": "jhu"}, "holds folded kernels: standardizing them again"),
        ({"formula": "bit"}, "trained with the WS formula 'bit', its record says 'jhu'; this is"),
    ],
    ids=["folded", "bit"],
)
def test_a_file_that_says_it_is_another_is_refused_even_with_the_users_word(
    metadata: dict[str, str],
    message: str,
    known: Weights,
    mine: Path,
    state: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_file(state, mine, metadata=metadata)
    monkeypatch.setenv("WSZOO_ACCEPT_UNVERIFIED", "1")

    with pytest.raises(ValueError, match=message):
        timm.create_model(known.name, pretrained=True)


def test_a_note_of_origin_vouches_for_one_file_of_one_name(
    known: Weights, mine: Path, tmp_path: Path
) -> None:
    made = first_use(known, tmp_path)
    mine.write_bytes(made.read_bytes()[:-1] + b"\0")
    (mine.parent / ORIGIN_FILE).write_bytes((made.parent / ORIGIN_FILE).read_bytes())

    with pytest.raises(ValueError, match=r"has sha256 .*: copy it anew from a machine where `wsz"):
        timm.create_model(known.name, pretrained=True)
    mine.write_bytes(made.read_bytes())
    timm.create_model(known.name, pretrained=True)
    with pytest.raises(ValueError, match=rf"origin.json is of '{known.name}', not of '{MODEL}.x';"):
        check_converted(mine, dataclasses.replace(known, tag="x"))


# What is refused


def test_a_damaged_file_is_named_and_deleting_it_makes_it_anew(
    known: Weights, server: OriginServer
) -> None:
    path = wszoo.weights.locate(known)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)

    with pytest.raises(ValueError, match=rf"{path} has sha256 .*: delete it, and the next use mak"):
        wszoo.weights.locate(known)
    path.unlink()
    assert wszoo.weights.locate(known) == path
    assert len(server.asked) == 1, "the original is still there"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": 3}', "null"])
def test_a_damaged_note_of_origin_is_named(content: str, weights: Weights, tmp_path: Path) -> None:
    path = first_use(weights, tmp_path)
    (path.parent / ORIGIN_FILE).write_text(content)

    with pytest.raises(ValueError, match=r"origin\.json is damaged; delete it, and the next use"):
        check_converted(path, weights)


def test_a_lost_note_of_origin_is_made_again(weights: Weights, tmp_path: Path) -> None:
    path = first_use(weights, tmp_path)
    (path.parent / ORIGIN_FILE).unlink()

    assert first_use(weights, tmp_path) == path
    stated = read_provenance(path.parent)
    assert stated is not None and stated.sha256 == sha256_of(path)


def test_an_original_without_a_hash_is_pinned_at_its_first_use(
    server: OriginServer, state: dict[str, Tensor], tmp_path: Path
) -> None:
    weights = publish(server, openmmlab_file(state), has_hash=False)
    with pytest.raises(ValueError, match="no hash was published"):
        first_use(weights, tmp_path)

    path = first_use(weights, tmp_path, accept_unverified=True)

    path.unlink()
    assert first_use(weights, tmp_path) == path, "no word is needed for what is pinned"
    path.unlink()
    (path.parent / "net.pth").unlink()
    server.files["net.pth"] = openmmlab_file({**state, "fc.bias": state["fc.bias"] + 1})
    with pytest.raises(ValueError, match=r"net\.pth has sha256 .*, at its first use it had"):
        first_use(weights, tmp_path, accept_unverified=True)


def test_a_pinned_digest_of_the_converted_file_holds(weights: Weights, tmp_path: Path) -> None:
    digest = sha256_of(first_use(weights, tmp_path / "free"))
    pinned = dataclasses.replace(weights, sha256=digest)
    wrong = dataclasses.replace(weights, sha256="0" * 64)

    check_converted(first_use(pinned, tmp_path / "pinned"), pinned)

    with pytest.raises(ValueError, match=r"converts to sha256 .*, the record says 000000000000…: "):
        first_use(wrong, tmp_path / "wrong")
    assert not (folder_of(wrong, tmp_path / "wrong") / WEIGHTS_FILE).exists()


def other_net(state: dict[str, Tensor]) -> bytes:
    return openmmlab_file(random_state("resnet10_gn_ws"))


def other_classes(state: dict[str, Tensor]) -> bytes:
    return openmmlab_file({**state, "fc.weight": torch.zeros(7, 128), "fc.bias": torch.zeros(7)})


def no_classifier(state: dict[str, Tensor]) -> bytes:
    return openmmlab_file({k: v for k, v in state.items() if not k.startswith("fc.")})


def missing_layer(state: dict[str, Tensor]) -> bytes:
    return openmmlab_file({k: v for k, v in state.items() if not k.startswith("layer4.")})


def not_finite(state: dict[str, Tensor]) -> bytes:
    return openmmlab_file({**state, "conv1.weight": state["conv1.weight"] * float("nan")})


def other_dtype(state: dict[str, Tensor]) -> bytes:
    return openmmlab_file({key: tensor.double() for key, tensor in state.items()})


def no_checkpoint(state: dict[str, Tensor]) -> bytes:
    return b"\x80 this is no checkpoint"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_net, "it holds a 'resnet10_gn_ws'"),
        (other_classes, r"2 tensors do not fit the net, e.g. fc.bias: \(7,\) instead of \(200,\)"),
        (no_classifier, r"2 tensors do not fit the net, e.g. fc.bias: None instead of \(200,\)"),
        (missing_layer, "layer4"),
        (not_finite, "conv1.weight holds values that are not finite"),
        (other_dtype, "is of torch.float64, the record says F32"),
        (no_checkpoint, "_toys': is cut short or damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_another_file_than_the_one_that_is_meant_is_refused_in_one_line(
    make: Any, message: str, state: dict[str, Tensor], server: OriginServer, tmp_path: Path
) -> None:
    weights = publish(server, make(state))
    place = folder_of(weights, tmp_path) / name_of(weights)

    with pytest.raises(ValueError, match=message) as raised:
        first_use(weights, tmp_path)

    told = f"{place} cannot be converted to 'test_resnet_gn_ws.jhu_toys': "
    assert str(raised.value).startswith(told) and "\n" not in str(raised.value)
    assert not (place.parent / WEIGHTS_FILE).exists()


def test_another_formula_than_that_of_the_record_is_refused(
    weights: Weights, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="its formula is 'jhu', not 'bcn'"):
        first_use(dataclasses.replace(weights, formula="bcn"), tmp_path)


def test_weights_of_this_zoo_have_no_first_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no origin outside of this zoo"):
        first_use(wszoo.weights.find("resnet18_gn_ws"), tmp_path)


# Folders and processes


def test_a_cache_that_cannot_be_written_is_named(weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / weights.name

    with pytest.raises(OSError, match=f"cannot write to {folder}: Not a directory; set WSZOO_CAC"):
        first_use(weights, tmp_path / "file")


def test_what_is_there_needs_no_lock(weights: Weights, tmp_path: Path) -> None:
    path = first_use(weights, tmp_path)
    lock = path.parent / ".lock"
    lock.unlink()
    lock.mkdir()  # as unusable as in a read-only cache

    assert first_use(weights, tmp_path) == path
    with pytest.raises(OSError, match="cannot write to .*; set WSZOO_CACHE to a folder that you"):
        original_of(weights, tmp_path, patience=QUICK)


def test_a_process_that_fetches_for_too_long_is_not_waited_for(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(weights, tmp_path)
    folder.mkdir()

    with (
        filelock.FileLock(folder / ".lock"),
        pytest.raises(TimeoutError, match=f"fetching into {folder} for 0.1 seconds; end it, or"),
    ):
        converted(weights, tmp_path, patience=Patience(limit=0.1))

    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"another process is fetching into {folder}; waiting for it"
    ]
    assert first_use(weights, tmp_path).is_file(), "the lock falls with the one who held it"


def test_what_a_killed_process_has_left_is_cleared_away(weights: Weights, tmp_path: Path) -> None:
    folder = folder_of(weights, tmp_path)
    folder.mkdir()
    (folder / f".{WEIGHTS_FILE}.1234").write_bytes(b"half")

    first_use(weights, tmp_path)

    assert not (folder / f".{WEIGHTS_FILE}.1234").exists()


PROCESS = """
import sys, time
from pathlib import Path
import wszoo
from wszoo.origin import converted
from wszoo.weights_record import Origin, Weights

ready, go, root, url, prefix = sys.argv[1:]
weights = Weights(
    model="test_resnet_gn_ws", tag="jhu_toys", sha256=None, license="mit", dtype="F32",
    num_classes=200, origin=Origin(url=url, source="openmmlab", sha256_prefix=prefix),
)
Path(ready).touch()
while not Path(go).exists():
    time.sleep(0.01)
print(converted(weights, Path(root)))
"""


@pytest.mark.slow
def test_two_processes_at_once_do_it_once(
    weights: Weights, server: OriginServer, tmp_path: Path
) -> None:
    server.faults[name_of(weights)] = ["slow"]
    assert weights.origin is not None and weights.origin.sha256_prefix is not None
    ready, go = [tmp_path / "1", tmp_path / "2"], tmp_path / "go"
    words = [go, tmp_path / "root", weights.origin.url, weights.origin.sha256_prefix]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, (path, *words))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for path in ready
    ]
    while not all(path.exists() for path in ready) and all(run.poll() is None for run in runs):
        time.sleep(0.05)

    go.touch()

    outputs = {run.communicate(timeout=120)[0].strip() for run in runs}
    assert outputs == {str(folder_of(weights, tmp_path / "root") / WEIGHTS_FILE)}
    assert len(server.asked) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layout", "fields"),
    [
        ("resnet50_gn_ws", openmmlab_file, {}),
        ("resnext50_32x4d_gn_ws", jhu_file, {"source": "jhu"}),
        ("resnet50_bcn_ws", bcn_file, {"source": "bcn", "formula": "bcn"}),
    ],
)
def test_the_real_layouts_load_by_their_names(
    model: str,
    layout: Any,
    fields: dict[str, Any],
    server: OriginServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = random_state(model, num_classes=1000)
    weights = publish(
        server, layout(state), model=model, tag="jhu_in1k", num_classes=1000, **fields
    )
    monkeypatch.setattr(wszoo.weights, "WEIGHTS", (weights,))

    net = timm.create_model(f"{model}.jhu_in1k", pretrained=True)

    loaded = net.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())
