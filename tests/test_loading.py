"""Loading published folders and files: exact, strict but for the head, and of one formula."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import _factory, save_for_hf
from torch import Tensor, nn

from tests.hub_server import HubServer
from wszoo import WSConv2d, WSFormula, WSResNet, fold
from wszoo.files import sha256_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = "test_resnet_gn_ws"


def make_net(name: str = TINY, **kwargs: Any) -> Any:
    """Kernels scaled per filter, so that formula and stem matter."""
    torch.manual_seed(0)
    net = timm.create_model(name, zero_init_last=False, **kwargs)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 4:
                parameter.mul_(0.1 * torch.rand(len(parameter), 1, 1, 1))
    return net.eval()


def publish(net: nn.Module, folder: Path, dtype: str = "F32", **ours: Any) -> str:
    """Save a net as the zoo publishes it; the name to load it by."""
    save_for_hf(net, str(folder), safe_serialization=True)
    weights = folder / "model.safetensors"
    facts: dict[str, Any] = {"formula": "jhu", "sha256": sha256_of(weights), "dtype": dtype} | ours
    edit_config(folder, wszoo={key: value for key, value in facts.items() if value is not None})
    return f"local-dir:{folder}"


def edit_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | entries
    path.write_text(json.dumps(config), encoding="utf-8")


def foreign(folder: Path) -> None:
    """Take away all that tells the formula, as from a folder that another tool wrote."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["wszoo"], config["model_args"]["formula"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def load(name: str, **kwargs: Any) -> Any:
    return timm.create_model(name, pretrained=True, **kwargs).eval()


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def without(file: Path, *prefixes: str) -> None:
    """Rewrite a file without the tensors that start so."""
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if not k.startswith(prefixes)}, file)


# Round trips


@pytest.mark.parametrize("formula", ["jhu", "bit", "timm"])
def test_a_published_folder_loads_to_the_bit_and_with_its_formula(
    formula: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = make_net(formula=formula)

    name = publish(net, tmp_path, formula=formula)
    loaded = load(name)

    assert isinstance(loaded, WSResNet)
    assert loaded.formula == net.formula
    assert torch.equal(loaded(images()), net(images()))
    assert warnings_of(caplog) == []
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["model_args"]["formula"] == formula


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    net = make_net().half()

    loaded = load(publish(net, tmp_path, dtype="F16"))

    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded(images()), net.float()(images()))


def test_timm_alone_records_the_formula(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = make_net(formula="bcn")
    save_for_hf(net, str(tmp_path), safe_serialization=True)

    loaded = load(f"local-dir:{tmp_path}")

    assert loaded.formula == net.formula
    assert torch.equal(loaded(images()), net(images()))
    assert warnings_of(caplog) == []
    with pytest.raises(ValueError, match="trained with the WS formula 'bcn', not 'jhu'"):
        load(f"local-dir:{tmp_path}", formula="jhu")


def test_a_formula_of_ones_own_survives_the_round_trip(tmp_path: Path) -> None:
    net = make_net(formula=WSFormula(True, 1e-4, True))
    save_for_hf(net, str(tmp_path), safe_serialization=True)

    loaded = load(f"local-dir:{tmp_path}")

    assert loaded.formula == net.formula
    assert torch.equal(loaded(images()), net(images()))


def test_create_time_arguments_survive_the_round_trip(tmp_path: Path) -> None:
    net = make_net(output_stride=16, in_chans=4, num_classes=7)

    loaded = load(publish(net, tmp_path))

    assert torch.equal(loaded(images(4)), net(images(4)))


def test_a_folder_can_be_built_without_its_weights(tmp_path: Path) -> None:
    name = publish(make_net(formula="tf"), tmp_path, formula="tf")
    (tmp_path / "model.safetensors").unlink()

    assert timm.create_model(name).formula == WSFormula(False, 1e-5, False)
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*model.safetensors"):
        load(name)


def test_a_new_head_and_feature_maps_keep_the_backbone(tmp_path: Path) -> None:
    net = make_net()
    name = publish(net, tmp_path)
    expected = net.forward_features(images())

    other_head = load(name, num_classes=5)
    headless = load(name, num_classes=0)
    features = load(name, features_only=True, out_indices=(-1,))

    assert other_head(images()).shape == (2, 5)
    assert torch.equal(other_head.forward_features(images()), expected)
    assert torch.equal(headless.forward_features(images()), expected)
    assert torch.equal(features(images())[0], expected)


def test_a_file_can_be_laid_over_a_variant(tmp_path: Path) -> None:
    net = make_net()
    publish(net, tmp_path)
    overlay = {"file": str(tmp_path / "model.safetensors")}

    loaded = load(TINY, pretrained_cfg_overlay=overlay, formula="jhu")
    features = load(TINY, pretrained_cfg_overlay=overlay, formula="jhu", features_only=True)

    assert torch.equal(loaded(images()), net(images()))
    assert torch.equal(features(images())[-1], net.forward_features(images()))


def test_a_variant_without_weights_says_so() -> None:
    variants = timm.list_models(module="ws_resnet")
    bare = next(name for name in variants if not timm.is_model_pretrained(name))

    with pytest.raises(RuntimeError, match=f"no weights exist for '{bare}' yet"):
        load(bare)


# The formula belongs to the weights


def test_another_formula_is_refused(tmp_path: Path) -> None:
    name = publish(make_net(), tmp_path)

    with pytest.raises(ValueError, match="trained with the WS formula 'jhu', not 'bit'; leave"):
        load(name, formula="bit")
    assert load(name, formula="jhu").formula == make_net().formula
    assert timm.create_model(name, formula="bit").formula == WSFormula(False, 1e-10, True)


def test_a_file_whose_metadata_names_the_formula_needs_no_argument(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = make_net(formula="bit")
    file = tmp_path / "net.safetensors"
    save_file(net.state_dict(), file, metadata={"formula": "bit"})

    loaded = load(TINY, pretrained_cfg_overlay={"file": str(file)})

    assert torch.equal(loaded(images()), net(images()))
    assert warnings_of(caplog) == []
    with pytest.raises(ValueError, match="trained with the WS formula 'bit', not 'jhu'"):
        load(TINY, pretrained_cfg_overlay={"file": str(file)}, formula="jhu")


def test_weights_that_do_not_name_their_formula_load_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = make_net()
    name = publish(net, tmp_path)
    foreign(tmp_path)

    loaded = load(name)

    assert torch.equal(loaded(images()), net(images()))
    (warning,) = warnings_of(caplog)
    assert "do not say which WS formula" in warning
    assert "'jhu' is assumed, pass formula= if it was another (jhu, tf, bcn" in warning


def test_naming_the_formula_silences_the_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = publish(make_net(), tmp_path)
    foreign(tmp_path)

    assert load(name, formula="bit").formula == WSFormula(False, 1e-10, True)
    assert warnings_of(caplog) == []


# Strict, but for the head


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}, {"features_only": True}])
def test_missing_tensors_are_refused(kwargs: dict[str, Any], tmp_path: Path) -> None:
    name = publish(make_net(), tmp_path, sha256=None)
    without(tmp_path / "model.safetensors", "layer4")

    with pytest.raises(
        ValueError, match=r"lack 9 tensors \(layer4.0.bn1.bias, .*'test_resnet_gn_ws'"
    ):
        load(name, **kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}, {"features_only": True}])
def test_weights_of_another_architecture_are_refused(
    kwargs: dict[str, Any], tmp_path: Path
) -> None:
    deeper = make_net("resnet14_gn_ws", num_classes=10)
    wider = make_net(channels=(16, 32, 64, 256))
    publish(deeper, tmp_path / "deeper")
    publish(wider, tmp_path / "wider")

    def overlay(kind: str) -> dict[str, str]:
        return {"file": str(tmp_path / kind / "model.safetensors")}

    with pytest.raises(ValueError, match="of another architecture than 'test_resnet_gn_ws'"):
        load(TINY, pretrained_cfg_overlay=overlay("deeper"), formula="jhu", **kwargs)
    message = r"layer4.* of shape \(256,.*'test_resnet_gn_ws' has \(128,"
    with pytest.raises(ValueError, match=message):
        load(TINY, pretrained_cfg_overlay=overlay("wider"), formula="jhu", **kwargs)


def test_unknown_tensors_are_refused(tmp_path: Path) -> None:
    net = make_net()
    file = tmp_path / "net.safetensors"
    save_file({**net.state_dict(), "layer5.weight": torch.zeros(1)}, file)

    with pytest.raises(ValueError, match=r"have 1 tensor that the model does not know \(layer5"):
        load(TINY, pretrained_cfg_overlay={"file": str(file)}, formula="jhu", num_classes=3)


def test_a_missing_or_misshapen_head_is_refused_where_it_is_wanted(tmp_path: Path) -> None:
    name = publish(make_net(), tmp_path, sha256=None)
    without(tmp_path / "model.safetensors", "fc.")

    assert load(name, num_classes=5)(images()).shape == (2, 5)
    with pytest.raises(RuntimeError, match=r"fc\.weight"):
        load(name)


def test_folded_kernels_are_refused(tmp_path: Path) -> None:
    name = publish(make_net(), tmp_path, sha256=None)
    file = tmp_path / "model.safetensors"
    folded = fold(make_net())
    save_file(folded.state_dict(), file, metadata={"folded": "true", "formula": "jhu"})

    with pytest.raises(
        ValueError, match=r"model.safetensors holds folded kernels.*load the unfold"
    ):
        load(name)
    with pytest.raises(ValueError, match="holds folded kernels"):
        load(TINY, pretrained_cfg_overlay={"file": str(file)})


def test_a_damaged_file_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    name = publish(make_net(), tmp_path)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)

    with pytest.raises(ValueError, match=r"model.safetensors has sha256 .*fetch it again"):
        load(name)
    with pytest.raises(ValueError, match=r"model.safetensors has sha256 .*fetch it again"):
        load(name, features_only=True)


def test_a_file_of_another_storage_type_is_refused(tmp_path: Path) -> None:
    name = publish(make_net(), tmp_path, dtype="F16")

    with pytest.raises(ValueError, match="of F32, its record says F16; fetch it again"):
        load(name)


def test_a_missing_overlay_file_is_named(tmp_path: Path) -> None:
    overlay = {"file": str(tmp_path / "gone.safetensors")}

    with pytest.raises(FileNotFoundError, match=r"no weights file at .*gone\.safetensors"):
        load(TINY, pretrained_cfg_overlay=overlay)


# Other input channels


@pytest.mark.parametrize("model", [TINY, "resnet18d_gn_ws"])
def test_a_grey_image_gives_the_features_of_itself_three_times(model: str, tmp_path: Path) -> None:
    net = make_net(model, num_classes=0)
    name = publish(net, tmp_path)
    grey = images(1)

    one_channel = load(name, in_chans=1)

    assert next(type(m) for m in one_channel.modules() if isinstance(m, nn.Conv2d)) is nn.Conv2d
    expected = net.forward_features(grey.repeat(1, 3, 1, 1))
    assert relative(one_channel.forward_features(grey), expected) < 1e-5
    features = load(name, in_chans=1, features_only=True)
    assert relative(features(grey)[-1], expected) < 1e-5


def test_a_stem_over_four_channels_repeats_the_standardized_kernel(tmp_path: Path) -> None:
    net = make_net()
    standardized = net.conv1.fuse().weight

    loaded = load(publish(net, tmp_path), in_chans=4)

    assert loaded.in_chans == 4 and not isinstance(loaded.conv1, WSConv2d)
    expected = standardized[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(loaded.conv1.weight, expected)
    assert loaded(images(4)).isfinite().all()


def test_a_plain_stem_does_not_become_a_standardized_one(tmp_path: Path) -> None:
    grey = make_net(in_chans=1)
    name = publish(grey, tmp_path)

    assert torch.equal(load(name)(images(1)), grey(images(1)))
    with pytest.raises(ValueError, match="cannot adapt a stem over 1 channels to in_chans=3"):
        load(name, in_chans=3)


# The Hub


def put_into_cache(net: nn.Module, cache: Path) -> Path:
    repository = cache / "models--zoo--toy"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    publish(net, repository / "snapshots" / COMMIT, formula="bit")
    return repository / "snapshots" / COMMIT


def test_a_pinned_repository_loads_from_the_hubs_cache(tmp_path: Path, hub: HubServer) -> None:
    net = make_net(formula="bit")
    folder = put_into_cache(net, tmp_path)
    name = f"hf-hub:zoo/toy@{COMMIT}"

    loaded = load(name, cache_dir=tmp_path)

    assert torch.equal(loaded(images()), net(images()))
    assert timm.create_model(name, cache_dir=tmp_path).formula == net.formula
    with pytest.raises(ValueError, match="trained with the WS formula 'bit', not 'jhu'"):
        load(name, cache_dir=tmp_path, formula="jhu")
    assert hub.requests == []
    (folder / "model.safetensors").write_text("<html>")
    with pytest.raises(ValueError, match="is a web page .* fetching it a second time failed"):
        load(name, cache_dir=tmp_path)


@pytest.mark.slow
def test_a_repository_loads_offline_by_its_name_alone(tmp_path: Path) -> None:
    net = make_net(formula="bit")
    put_into_cache(net, tmp_path / "hub")
    script = (
        "import sys, timm, torch, wszoo\n"
        "net = timm.create_model('hf-hub:zoo/toy', pretrained=True).eval()\n"
        "torch.save(net(torch.ones(1, 3, 64, 64)), sys.argv[1])\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", script, str(tmp_path / "logits.pt")]

    subprocess.run(command, env=environment, check=True)

    logits = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(logits, net(torch.ones(1, 3, 64, 64)))


@pytest.mark.parametrize("features", [False, True])
def test_a_checkpoint_path_is_held_to_the_formula_of_the_net(
    features: bool, tmp_path: Path
) -> None:
    net, file = make_net(formula="bit"), tmp_path / "net.safetensors"
    save_file(net.state_dict(), file, {"formula": "bit"})
    more: dict[str, Any] = {} if features else {"checkpoint_path": str(file)}

    with pytest.raises(
        ValueError, match=r"net\.safetensors says .* formula 'bit', the net has 'jhu'"
    ):
        timm.create_model(TINY, features_only=features, checkpoint_path=file)
    loaded = timm.create_model(TINY, formula="bit", **more).eval()

    assert features or torch.equal(loaded(images()), net(images()))


def test_a_checkpoint_path_of_folded_kernels_is_refused(tmp_path: Path) -> None:
    net, file = make_net(), tmp_path / "folded.safetensors"
    save_file(fold(net).state_dict(), file, {"formula": "jhu", "folded": "true"})

    with pytest.raises(ValueError, match=r"folded\.safetensors holds folded kernels: .*; load the"):
        timm.create_model(TINY, checkpoint_path=str(file))
    with pytest.raises(ValueError, match=r"folded\.safetensors holds folded kernels"):
        timm.models.load_checkpoint(make_net(), str(file), strict=False)


def test_checkpoints_that_tell_no_formula_and_those_of_other_nets_are_timms_to_load(
    tmp_path: Path,
) -> None:
    ours, theirs = make_net(), timm.create_model("test_resnet")
    torch.save(ours.state_dict(), tmp_path / "ours.pth")
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors", {"formula": "bit"})

    loaded = timm.create_model(TINY, checkpoint_path=tmp_path / "ours.pth").eval()
    other = timm.create_model("test_resnet", checkpoint_path=str(tmp_path / "theirs.safetensors"))

    assert torch.equal(loaded(images()), ours(images()))
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())
    with pytest.raises(FileNotFoundError):
        timm.create_model(TINY, checkpoint_path=str(tmp_path / "gone.pth"))


def test_this_timm_loads_checkpoints_where_they_are_guarded() -> None:
    """If this fails, timm has changed, and ``checkpoint_path`` is not checked any more."""
    for module in (_factory, timm.models):
        assert module.load_checkpoint.is_guarded_by_wszoo, timm.__version__
