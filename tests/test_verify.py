import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import wszoo.verify
import wszoo.weights
from tests.origin_server import OriginServer, openmmlab_file, publish, random_state, serving
from tests.publish.runs import finetuned
from wszoo.finetune.settings import TaskName
from wszoo.verify import save_folded, verify_file, verify_name
from wszoo.weights import WEIGHTS, Weights, find, locate
from wszoo.ws_resnet import WSResNet

NAME = "test_resnet_gn_ws"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A copy of packaged weights, under a name that says nothing."""
    path = tmp_path / "some.safetensors"
    path.write_bytes(locate(find(NAME)).read_bytes())
    return path


def rewritten(path: Path, **metadata: str) -> Path:
    save_file(load_file(path), path, {"format": "pt", **metadata})
    return path


def test_a_published_file_is_recognised_by_its_digest(published: Path) -> None:
    facts = verify_file(published)

    assert facts["net"] == find(NAME).name
    assert facts["formula"] == "jhu"
    assert facts["folded"] is False
    assert verify_name(NAME)["sha256"] == facts["sha256"]


@pytest.mark.parametrize("named", [find(NAME).name, None])
def test_a_flipped_byte_is_found_by_the_record_named_or_told_in_the_file(
    published: Path, named: str | None
) -> None:
    content = bytearray(published.read_bytes())
    content[-5] ^= 1
    published.write_bytes(content)

    with pytest.raises(ValueError, match=r"has sha256 .* its record says .*fetch it again"):
        verify_file(published, named)


def test_weights_of_another_net_are_refused(published: Path) -> None:
    with pytest.raises(ValueError, match="another architecture than 'resnet34_gn_ws'"):
        verify_file(published, "resnet34_gn_ws")
    other = next(weights.name for weights in WEIGHTS if weights.model != NAME)
    with pytest.raises(ValueError, match="another architecture than"):  # not: damaged
        verify_file(published, other)


def test_another_formula_than_the_config_says_is_refused(published: Path) -> None:
    rewritten(published, formula="bit")
    config = {"architecture": NAME, "wszoo": {"formula": "jhu"}}
    published.with_name("config.json").write_text(json.dumps(config))

    with pytest.raises(ValueError, match="WS formula 'bit', its record says 'jhu'"):
        verify_file(published)
    with pytest.raises(ValueError, match="WS formula 'bit', its record says 'jhu'"):
        verify_file(published, find(NAME).name)
    with pytest.raises(ValueError, match=r"some\.safetensors: no WS formula 'bat'"):
        verify_file(rewritten(published, formula="bat"), NAME)


def changed(path: Path, **tensors: torch.Tensor | None) -> Path:
    """The file with other tensors, None removing one; underscores stand for dots."""
    new = {**load_file(path), **{key.replace("_", "."): value for key, value in tensors.items()}}
    save_file({key: value for key, value in new.items() if value is not None}, path)
    return path


def test_fine_tuned_weights_are_good_ones_of_their_variant(published: Path) -> None:
    width = load_file(published)["fc.weight"].shape[1]
    changed(published, fc_weight=torch.zeros(7, width), fc_bias=torch.zeros(7))

    facts = verify_file(published, NAME)

    assert facts["net"] == NAME
    assert facts["finite"] is True
    with pytest.raises(ValueError, match="its record says"):
        verify_file(published, find(NAME).name)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value: float, published: Path) -> None:
    bias = load_file(published)["fc.bias"]
    bias[3] = value
    changed(published, fc_bias=bias)

    with pytest.raises(ValueError, match=r"fc\.bias holds values that are not finite"):
        verify_file(published)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("fc.weight", ()),
        ("fc.weight", (200,)),
        ("fc.weight", (0, 9)),
        ("fc.bias", ()),
        ("conv1.weight", ()),
    ],
)
def test_a_tensor_of_another_shape_is_named(
    key: str, shape: tuple[int, ...], published: Path
) -> None:
    changed(published, **{key.replace(".", "_"): torch.zeros(shape)})

    with pytest.raises(ValueError, match=rf"has {key} of shape \(.*\), '{NAME}' .*has"):
        verify_file(published, NAME)


def test_half_a_classifier_is_refused_and_none_is_not(published: Path) -> None:
    changed(published, fc_bias=None)

    with pytest.raises(ValueError, match=r"fc.weight or fc.bias is missing"):
        verify_file(published, NAME)
    assert verify_file(changed(published, fc_weight=None), NAME)["net"] == NAME


def test_a_net_of_another_zoo_is_refused(published: Path) -> None:
    with pytest.raises(ValueError, match=r"'resnet18' is not of this zoo; see `wszoo list`"):
        verify_file(published, "resnet18")
    rewritten(published)
    for name in ("resnet18", "", ["resnet18"]):
        published.with_name("config.json").write_text(json.dumps({"architecture": name}))
        with pytest.raises(ValueError, match=r"config\.json names the architecture .*of this zoo"):
            verify_file(published)


@pytest.mark.parametrize("content", [[], "net", {"wszoo": []}, {"wszoo": {"sha256": 3}}], ids=str)
def test_a_config_of_another_kind_is_named(content: object, published: Path) -> None:
    published.with_name("config.json").write_text(json.dumps(content))

    with pytest.raises(ValueError, match=r"config\.json is not the configuration of a net"):
        verify_file(published)


def test_a_config_beside_the_file_names_the_net(published: Path) -> None:
    rewritten(published)
    published.with_name("config.json").write_text(json.dumps({"architecture": NAME}))

    facts = verify_file(published)

    assert facts["net"] == NAME
    assert facts["formula"] == "not stated"


def test_a_broken_config_is_named(published: Path) -> None:
    published.with_name("config.json").write_text("{")

    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        verify_file(published)


def test_a_folded_file_is_marked_and_is_no_weights(tmp_path: Path) -> None:
    model = timm.create_model(NAME, pretrained=True).eval()
    assert isinstance(model, WSResNet)
    output = tmp_path / "new" / "folded.safetensors"

    error = save_folded(model, NAME, output)

    assert error < 1e-6
    assert verify_file(output)["folded"] is True
    with pytest.raises(ValueError, match="folded kernels, not the weights of"):
        verify_file(output, NAME)
    plain = timm.create_model("test_resnet_gn_ws", num_classes=200, formula="timm")
    assert set(load_file(output)) == set(plain.state_dict())
    assert torch.isfinite(model(torch.randn(1, 3, 64, 64))).all()  # the model itself stays whole


def test_a_folded_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    model = timm.create_model(NAME).eval()
    assert isinstance(model, WSResNet)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.safetensors").mkdir()

    with pytest.raises(OSError, match="cannot make the folder .*file/new: .*; name another one"):
        save_folded(model, NAME, tmp_path / "file" / "new" / "x.safetensors")
    for name in ("folder.safetensors", "x" * 300 + ".safetensors"):
        with pytest.raises(OSError, match=f"cannot write .*{name}: .*; name another file"):
            save_folded(model, NAME, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.safetensors"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OriginServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("WSZOO_CACHE", str(tmp_path / "cache"))
    with serving() as server:
        yield server


@pytest.fixture
def foreign(server: OriginServer, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """Weights that others published, not yet fetched."""
    weights = publish(server, openmmlab_file(random_state()))
    for module in (wszoo.weights, wszoo.verify):
        monkeypatch.setattr(module, "WEIGHTS", (weights,))
    return weights


def test_foreign_weights_say_what_they_were_made_from_and_that_nobody_checked(
    foreign: Weights,
) -> None:
    facts = verify_name(foreign.name)

    assert foreign.origin is not None and foreign.origin.sha256_prefix is not None
    assert facts["origin"].startswith(
        f"{foreign.origin.url}, sha256 {foreign.origin.sha256_prefix}"
    )
    assert facts["checked_against_original"] is False
    assert verify_file(Path(facts["file"]))["net"] == foreign.name, "by what lies beside it"


def test_a_flipped_byte_in_foreign_weights_is_found_by_name_and_by_file(foreign: Weights) -> None:
    path = locate(foreign)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)

    for verified in (lambda: verify_name(foreign.name), lambda: verify_file(path)):
        with pytest.raises(ValueError, match="has sha256 .*: delete it, and the next use makes it"):
            verified()


def test_foreign_weights_without_a_note_of_origin_say_so(
    foreign: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine" / foreign.name / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(locate(foreign).read_bytes())
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path / "mine"))

    with pytest.raises(ValueError, match=r"nothing says that .* there is no origin\.json beside"):
        verify_name(foreign.name)
    monkeypatch.setenv("WSZOO_ACCEPT_UNVERIFIED", "1")
    facts = verify_name(foreign.name)

    assert facts["file"] == str(path)
    assert facts["origin"] == "not stated: no origin.json beside the file"


@pytest.mark.parametrize(
    ("task", "net"),
    [("classify", "test_resnet_gn_ws"), ("detect", "unknown: no record"), ("segment", "unknown:")],
)
def test_the_file_of_a_run_is_verified_beside_its_configuration(
    tmp_path: Path, task: TaskName, net: str
) -> None:
    found = verify_file(finetuned(tmp_path, task) / "model.safetensors")

    assert found["net"].startswith(net)
    assert (found["formula"], found["finite"]) == ("jhu", True)
