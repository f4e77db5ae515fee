"""``wszoo download`` and ``wszoo confirm``, as a user types them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import timm
from click.testing import CliRunner, Result
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

import wszoo.confirm
import wszoo.weights
from tests.origin_server import (
    MODEL,
    OriginServer,
    name_of,
    openmmlab_file,
    publish,
    random_state,
    serving,
)
from wszoo.confirm import Confirmation
from wszoo.datasets import read_labelled_images
from wszoo.download_cli import confirm, download
from wszoo.evaluate import evaluate, targets_for
from wszoo.files import sha256_of
from wszoo.weights import PUBLISHED, WEIGHTS_FILE, Weights
from wszoo.weights_file import check_file

TAG = "e3_tin200"  # one that timm knows
PROVABLE, CLASSES = "resnet10_gn_ws", 20  # the smallest net that there is a stock one of


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("WSZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WSZOO_ACCEPT_UNVERIFIED", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture
def weights(
    server: OriginServer, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> Weights:
    record = publish(server, openmmlab_file(state), tag=TAG)
    monkeypatch.setattr(wszoo.weights, "WEIGHTS", (record,))
    return record


def run(command: click.Command, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_download_fills_the_cache(weights: Weights, tmp_path: Path) -> None:
    (row,) = json.loads(run(download, MODEL, "--json").stdout)

    path = tmp_path / "cache" / weights.name / WEIGHTS_FILE
    assert row == {"name": weights.name, "file": str(path), "bytes": path.stat().st_size}
    check_file(path, dtype="F32")


def test_what_was_downloaded_to_a_folder_loads_where_there_is_no_network(
    weights: Weights, server: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(download, weights.name, "--to", tmp_path / "stick")

    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"where there is no network: WSZOO_WEIGHTS={tmp_path}/stick\n")
    server.files.clear()
    monkeypatch.setenv("WSZOO_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path / "stick"))
    timm.create_model(weights.name, pretrained=True)
    path = tmp_path / "stick" / weights.name / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="has sha256"):
        timm.create_model(weights.name, pretrained=True)


def test_packaged_weights_are_copied_too(tmp_path: Path) -> None:
    result = run(download, MODEL, "resnet18_gn_ws", "--to", tmp_path)

    assert result.exit_code == 0, result.output
    for name in (MODEL, "resnet18_gn_ws"):
        record = wszoo.weights.find(name)
        assert sha256_of(tmp_path / record.name / WEIGHTS_FILE) == record.sha256


def test_what_cannot_be_fetched_is_told_in_one_line(weights: Weights, server: OriginServer) -> None:
    server.files.clear()

    result = run(download, MODEL)

    assert result.exit_code == 3
    assert result.stderr.startswith(f"wszoo: cannot fetch {server.url(name_of(weights))}: status 4")
    assert len(result.stderr.splitlines()) == 1


def test_an_unverified_file_is_taken_with_the_users_word(
    server: OriginServer, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = publish(server, openmmlab_file(state), has_hash=False, tag=TAG)
    monkeypatch.setattr(wszoo.weights, "WEIGHTS", (record,))

    refused = run(download, MODEL)
    accepted = run(download, MODEL, "--accept-unverified")

    assert refused.exit_code == 3
    assert f"`wszoo download {record.name} --accept-unverified`" in refused.stderr
    assert accepted.exit_code == 0, accepted.output


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["resnet51_gn_ws"], "no model 'resnet51_gn_ws'; did you mean"),
        ([MODEL, "resnet18"], "'resnet18' is not of this zoo"),
        (["resnet152_gn_ws"], "'resnet152_gn_ws' has no weights"),
        ([], "Missing argument 'NAME...'"),
    ],
    ids=str,
)
def test_a_typing_mistake_is_a_usage_error(names: list[str], message: str) -> None:
    result = run(download, *names)

    assert result.exit_code == 2
    assert message in result.stderr


# wszoo confirm


@pytest.fixture(scope="module")
def provable() -> dict[str, Tensor]:
    return random_state(PROVABLE, num_classes=CLASSES)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One photo of each class, in place of ImageNet's 50,000."""
    for index in range(CLASSES):
        folder = tmp_path / "val" / f"n{index:02}"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40), (12 * index, 255 - 12 * index, 70 * index % 256)).save(
            folder / "0.png"
        )
    monkeypatch.setattr(wszoo.confirm, "PHOTOS", CLASSES)
    return tmp_path / "val"


@pytest.fixture
def measured(provable: dict[str, Tensor], photos: Path) -> float:
    """Top-1 of the net on them, measured here."""
    net = timm.create_model(PROVABLE, num_classes=CLASSES)
    net.load_state_dict(provable)
    images = read_labelled_images(photos, None, default="val")
    return round(evaluate(net, images, targets_for(images, None, CLASSES)).top1, 3)


def published_as(
    server: OriginServer,
    provable: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    top1: float | None,
) -> Weights:
    metrics = {} if top1 is None else {PUBLISHED: {"top1": top1, "top5": 90.0}}
    facts: dict[str, Any] = dict(model=PROVABLE, tag="untrained", num_classes=CLASSES)
    record = publish(server, openmmlab_file(provable), metrics=metrics, **facts)
    monkeypatch.setattr(wszoo.weights, "WEIGHTS", (record,))
    return record


def test_weights_that_are_as_good_as_published_are_confirmed_with_the_line_to_commit(
    measured: float,
    photos: Path,
    server: OriginServer,
    provable: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    record = published_as(server, provable, monkeypatch, measured + 0.1)

    facts = json.loads(run(confirm, PROVABLE, "--data", photos, "--json").stdout)
    result = run(confirm, PROVABLE, "--data", photos)

    digest = sha256_of(tmp_path / "cache" / record.name / WEIGHTS_FILE)
    assert facts["passed"] is facts["proof_passed"] is True
    assert (facts["top1"], facts["photos"]) == (measured, CLASSES)
    assert facts["sha256"] == digest
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(
        f'wszoo/weights_table.py, for {record.name}: sha256="{digest}" and checked=True'
    )


def test_weights_that_are_worse_than_published_are_not_confirmed(
    measured: float,
    photos: Path,
    server: OriginServer,
    provable: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published_as(server, provable, monkeypatch, measured + 0.2)

    result = run(confirm, PROVABLE, "--data", photos)

    assert result.exit_code == 1
    assert "not confirmed" in result.stdout and "sha256=" not in result.stdout


def test_a_conversion_that_is_not_the_proved_one_is_not_confirmed(
    measured: float,
    photos: Path,
    server: OriginServer,
    provable: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published_as(server, provable, monkeypatch, measured)
    monkeypatch.setattr("wszoo.confirm.torch.equal", lambda a, b: False)

    result = run(confirm, PROVABLE, "--data", photos, "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["proof_passed"] is False


def test_weights_without_a_published_figure_are_proved_and_their_figure_is_marked_as_measured(
    measured: float,
    photos: Path,
    server: OriginServer,
    provable: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published_as(server, provable, monkeypatch, None)

    result = run(confirm, PROVABLE, "--data", photos)

    assert result.exit_code == 0, result.output
    assert "measured here; none was published" in result.stdout
    assert result.stdout.rstrip().endswith(
        f'and checked=True and metrics={{"ImageNet val (measured)": {{"top1": {measured:.2f}}}}}'
    )


def test_another_set_of_photos_is_refused_before_anything_is_fetched(
    photos: Path,
    server: OriginServer,
    provable: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published_as(server, provable, monkeypatch, 50.0)
    monkeypatch.setattr(wszoo.confirm, "PHOTOS", 50_000)
    other_set = run(confirm, PROVABLE, "--data", photos)

    assert other_set.exit_code == 3
    assert f"{photos} holds 20 photos of 20 classes; figures are of" in other_set.stderr
    assert server.asked == []


def test_a_cached_file_of_another_original_is_not_confirmed(
    photos: Path,
    server: OriginServer,
    provable: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    record = published_as(server, provable, monkeypatch, 50.0)
    run(download, PROVABLE)
    path = tmp_path / "cache" / record.name / "origin.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "original": "other.pth", "original_sha256": "0" * 64}))

    result = run(confirm, PROVABLE, "--data", photos)

    assert result.exit_code == 3
    assert "was not made from" in result.stderr


def test_the_limit_of_a_tenth_of_a_point_is_exact() -> None:
    facts: dict[str, Any] = dict(
        name="n", url="u", original_sha256="0", sha256="1", standard_error=0.2, photos=9
    )

    def passes(top1: float, proof: bool = True, published: float | None = 76.28) -> bool:
        return Confirmation(**facts, proof_passed=proof, top1=top1, published_top1=published).passed

    assert passes(76.28) and passes(76.18) and passes(76.38)
    assert not passes(76.178) and not passes(76.382) and not passes(76.28, proof=False)
    assert passes(50.0, published=None) and not passes(50.0, proof=False, published=None)
