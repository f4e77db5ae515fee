import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from wszoo.verify import save_folded, verify_file, verify_name
from wszoo.weights import find, locate
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


def test_a_flipped_byte_is_found_where_the_record_is_named(published: Path) -> None:
    content = bytearray(published.read_bytes())
    content[-5] ^= 1
    published.write_bytes(content)

    with pytest.raises(ValueError, match=r"has sha256 .* its record says .*fetch it again"):
        verify_file(published, find(NAME).name)
    assert verify_file(published)["net"].startswith("unknown")


def test_weights_of_another_net_are_refused(published: Path) -> None:
    with pytest.raises(ValueError, match="another architecture than 'resnet18_gn_ws'"):
        verify_file(published, "resnet18_gn_ws")


def test_another_formula_than_the_config_says_is_refused(published: Path) -> None:
    rewritten(published, formula="bit")
    config = {"architecture": NAME, "wszoo": {"formula": "jhu"}}
    published.with_name("config.json").write_text(json.dumps(config))

    with pytest.raises(ValueError, match="WS formula 'bit', its record says 'jhu'"):
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
