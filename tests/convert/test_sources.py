"""Every format onto our nets and back, and every wrong pairing refused."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.resnetv2 import ResNetV2

import wszoo
from tests.convert.published import (
    AuthorsBCN,
    State,
    detectron_keys,
    filled,
    in_openmmlab_names,
    of_torchvision,
    with_prefix,
)
from wszoo.convert import (
    SOURCES,
    Converted,
    convert_state,
    read_foreign,
    recognise,
    restore_state,
)
from wszoo.convert.layouts import LAYOUTS

JHU_NETS = ["resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x4d"]


def assert_fits(converted: Converted) -> None:
    """A strict load into the registered net of that name, without touching a value."""
    with torch.device("meta"):
        net = timm.create_model(converted.architecture)
    net.load_state_dict(converted.state_dict, assign=True)


def assert_same_in_order(found: State, expected: State) -> None:
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key
        assert found[key].is_contiguous(), key


@pytest.fixture(scope="module")
def jhu_resnet50() -> State:
    """R-50-GN-WS.pth.tar, with values of our own."""
    return filled(with_prefix(of_torchvision("resnet50")))


@pytest.mark.parametrize("name", JHU_NETS)
def test_the_authors_nets_come_back_byte_for_byte_in_order(name: str) -> None:
    official = filled(with_prefix(of_torchvision(name)))
    assert recognise(official) == "jhu"

    converted = convert_state(official)

    assert converted.architecture == f"{name}_gn_ws"
    assert converted.source.formula == "jhu"
    assert list(converted.mapped) == list(official)
    assert converted.missing == () and not converted.dropped and not converted.changed
    assert_fits(converted)
    shuffled = dict(sorted(converted.state_dict.items()))  # as safetensors stores it
    assert_same_in_order(restore_state(shuffled, "jhu"), official)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_of_the_authors_goes_to_safetensors_and_back(is_zip: bool, tmp_path: Path) -> None:
    net = timm.create_model("test_resnet_gn_ws", pretrained=True)
    official = with_prefix(dict(net.state_dict()))
    torch.save(official, tmp_path / "R.pth.tar", _use_new_zipfile_serialization=is_zip)

    converted = convert_state(read_foreign(tmp_path / "R.pth.tar"))
    save_file(converted.state_dict, tmp_path / "model.safetensors")
    restored = restore_state(load_file(tmp_path / "model.safetensors"), "jhu")

    assert converted.architecture == "test_resnet_gn_ws"
    assert_same_in_order(restored, official)
    again = timm.create_model("test_resnet_gn_ws", num_classes=200)
    again.load_state_dict(converted.state_dict)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again.eval()(images), net.eval()(images))


def test_the_authors_files_are_taken_without_their_prefix(jhu_resnet50: State) -> None:
    bare = {key.removeprefix("module."): tensor for key, tensor in jhu_resnet50.items()}
    assert recognise(bare) == "timm"

    converted = convert_state(bare, "jhu")

    assert converted.architecture == "resnet50_gn_ws"
    assert set(converted.kept) == set(bare)
    assert_same_in_order(restore_state(converted.state_dict, "jhu"), jhu_resnet50)


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_openmmlabs_mirrors_come_back_in_order(name: str) -> None:
    official = filled(in_openmmlab_names(of_torchvision(name)))
    assert {"gn1.bias", "layer1.0.gn3.weight", "layer1.0.downsample.1.weight"} <= official.keys()

    converted = convert_state(official)

    assert (converted.source.name, converted.architecture) == ("openmmlab", f"{name}_gn_ws")
    assert converted.mapped["layer1.0.gn3.weight"] == "layer1.0.bn3.weight"
    assert "conv1.weight" in converted.kept and "gn1.weight" not in converted.kept
    assert_fits(converted)
    assert_same_in_order(restore_state(converted.state_dict, "openmmlab"), official)


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnext50_32x4d"])
def test_bcn_comes_back_in_order(name: str) -> None:
    official = with_prefix(of_torchvision(name, AuthorsBCN))
    official = filled(official) if name == "resnet50" else official
    assert len(official) == 426 or name == "resnet101"

    converted = convert_state(official)

    assert (converted.source.name, converted.architecture) == ("bcn", f"{name}_bcn_ws")
    assert converted.source.formula == "bcn"
    assert converted.mapped["module.bn1.pbn.running_var"] == "bn1.bn.running_var"
    if name == "resnet50":
        assert_fits(converted)
        assert_same_in_order(restore_state(converted.state_dict, "bcn"), official)
    else:
        assert list(restore_state(converted.state_dict, "bcn")) == list(official)


@pytest.mark.parametrize(("name", "depths"), [("50", (3, 4, 6, 3)), ("101", (3, 4, 23, 3))])
def test_detectron_comes_back(name: str, depths: tuple[int, ...]) -> None:
    keys = detectron_keys(depths)
    shapes = of_torchvision(f"resnet{name}")
    official = dict(zip(keys, filled(shapes).values(), strict=True))

    converted = convert_state(official)

    assert (converted.source.name, converted.architecture) == ("detectron", f"resnet{name}_gn")
    assert converted.source.formula is None
    assert converted.mapped["res3_0_branch1_gn_s"] == "layer2.0.downsample.1.weight"
    assert converted.mapped["res5_2_branch2b_w"] == "layer4.2.conv2.weight"
    assert converted.mapped["pred_b"] == "fc.bias"
    assert_same_in_order(restore_state(converted.state_dict, "detectron"), official)


def test_momentum_in_a_detectron_file_is_dropped_by_name() -> None:
    shapes = of_torchvision("resnet50")
    official = dict(zip(detectron_keys((3, 4, 6, 3)), shapes.values(), strict=True))

    converted = convert_state(official | {"conv1_w_momentum": torch.ones(64, 3, 7, 7)})

    assert converted.dropped == {"conv1_w_momentum": "momentum of the optimizer"}


def test_groupnorm_reproduce_is_plain() -> None:
    official = with_prefix(in_openmmlab_names(of_torchvision("resnet50")))

    converted = convert_state(official)

    assert converted.source.name == "groupnorm_reproduce"
    assert (converted.source.formula, converted.architecture) == (None, "resnet50_gn")
    assert list(restore_state(converted.state_dict, "groupnorm_reproduce")) == list(official)


def test_timms_group_norm_net_is_kept_as_it_is() -> None:
    with torch.device("meta"):
        official = dict(timm.create_model("resnet50_gn").state_dict())

    converted = convert_state(official)

    assert (converted.source.name, converted.architecture) == ("timm", "resnet50_gn")
    assert converted.source.formula is None
    assert converted.kept == tuple(official)


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "resnetv2_101x3_bit"])
def test_timms_bit_is_kept_as_it_is(name: str) -> None:
    with torch.device("meta"):
        official = dict(timm.create_model(name, num_classes=21843).state_dict())

    converted = convert_state(official)

    assert (converted.source.name, converted.architecture) == ("timm_bit", name)
    assert converted.source.formula == "timm_bit"
    assert list(converted.state_dict) == list(official)


def google_npz() -> State:
    """The tensors of BiT-M-R50x1.npz, at 10 classes: names and layout of Google's file."""
    shapes: dict[str, tuple[int, ...]] = {"root_block/standardized_conv2d/kernel": (7, 7, 3, 64)}
    incoming = 64
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        inner = 64 * 2 ** (stage - 1)
        for unit in range(1, depth + 1):
            path = f"block{stage}/unit{unit:02d}"
            convs = {"a": (1, incoming, inner), "b": (3, inner, inner), "c": (1, inner, 4 * inner)}
            for name, (size, ins, outs) in convs.items():
                shapes[f"{path}/{name}/group_norm/gamma"] = (ins,)
                shapes[f"{path}/{name}/group_norm/beta"] = (ins,)
                shapes[f"{path}/{name}/standardized_conv2d/kernel"] = (size, size, ins, outs)
            if unit == 1:
                shapes[f"{path}/a/proj/standardized_conv2d/kernel"] = (1, 1, incoming, 4 * inner)
            incoming = 4 * inner
    shapes |= {"group_norm/gamma": (incoming,), "group_norm/beta": (incoming,)}
    shapes |= {"head/conv2d/kernel": (1, 1, incoming, 10), "head/conv2d/bias": (10,)}
    empty = {f"resnet/{k}": torch.empty(shape, device="meta") for k, shape in shapes.items()}
    return filled(empty)


def test_googles_bit_lands_where_timms_own_reader_puts_it(tmp_path: Path) -> None:
    official = google_npz()
    path = tmp_path / "BiT-M-R50x1.npz"
    np.savez(path, **{k: tensor.numpy() for k, tensor in official.items()})  # type: ignore[arg-type]

    converted = convert_state(read_foreign(path))

    assert (converted.source.name, converted.architecture) == ("bit", "resnetv2_50x1_bit")
    assert converted.source.formula == "bit"
    assert converted.changed["resnet/head/conv2d/kernel"] == "HWIO to OIHW"
    net = timm.create_model("resnetv2_50x1_bit", num_classes=10)
    ResNetV2.load_pretrained(net, str(path))
    assert_same_in_order(converted.state_dict, dict(net.state_dict()))
    restored = restore_state(converted.state_dict, "bit")
    assert restored.keys() == official.keys()
    assert all(torch.equal(restored[key], official[key]) for key in official)


def tensorflow_resnet(name: str) -> State:
    """A ResNet as a person with TensorFlow hands it over."""
    state = {}
    for key, tensor in filled(of_torchvision(name)).items():
        path, _, kind = key.replace(".", "/").rpartition("/")
        if tensor.ndim == 4:
            state[f"{path}/kernel"] = tensor.permute(2, 3, 1, 0).contiguous()
        elif path == "fc":
            state["fc/kernel" if kind == "weight" else "fc/bias"] = tensor.t().contiguous()
        else:
            state[f"{path}/{'gamma' if kind == 'weight' else 'beta'}"] = tensor
    return state


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_tensorflow_kernels_are_laid_out_as_torch_wants_them(name: str) -> None:
    official = tensorflow_resnet(name)
    assert official["conv1/kernel"].shape == (7, 7, 3, 64)

    converted = convert_state(official)

    assert (converted.source.name, converted.architecture) == ("tf", f"{name}_gn_ws")
    assert converted.source.formula == "tf"
    kernel = converted.state_dict["layer2.0.conv1.weight"]
    assert torch.equal(kernel[5, 3], official["layer2/0/conv1/kernel"][:, :, 3, 5])
    assert converted.changed["fc/kernel"] == "transposed"
    assert_fits(converted)
    assert_same_in_order(restore_state(converted.state_dict, "tf"), official)


def test_tensorflow_and_torch_standardize_a_kernel_alike_after_the_change() -> None:
    """Over axes 0 to 2 of HWIO, as TensorFlow's code does, with the biased deviation."""
    official = tensorflow_resnet("resnet18")
    hwio = official["layer1/0/conv1/kernel"].double()
    centred = hwio - hwio.mean((0, 1, 2), keepdim=True)
    expected = centred / (centred.square().mean((0, 1, 2), keepdim=True).sqrt() + 1e-5)

    converted = convert_state(official)
    assert converted.source.formula is not None
    kernel = converted.state_dict["layer1.0.conv1.weight"].double()
    found = wszoo.standardize_weight(kernel, converted.source.formula)

    assert torch.allclose(found, expected.permute(3, 2, 0, 1), rtol=1e-12, atol=1e-14)


def test_a_backbone_without_classifier_is_taken_and_half_a_classifier_is_not() -> None:
    official = with_prefix(of_torchvision("resnet50"))
    headless = {key: tensor for key, tensor in official.items() if ".fc." not in key}

    converted = convert_state(headless)
    assert converted.missing == ("fc.weight", "fc.bias")
    assert list(restore_state(converted.state_dict, "jhu")) == list(headless)

    with pytest.raises(ValueError, match=r"closest is resnet50: fc\.bias is missing"):
        convert_state(headless | {"module.fc.weight": official["module.fc.weight"]})


@pytest.mark.parametrize("num_classes", [1, 2, 1000, 21843])
def test_any_number_of_classes_is_taken(num_classes: int) -> None:
    official = with_prefix(of_torchvision("resnet50"))
    official["module.fc.weight"] = torch.empty(num_classes, 2048, device="meta")
    official["module.fc.bias"] = torch.empty(num_classes, device="meta")
    assert convert_state(official).state_dict["fc.weight"].shape == (num_classes, 2048)


def test_tensors_that_need_no_change_are_not_copied(jhu_resnet50: State) -> None:
    converted = convert_state(jhu_resnet50)
    ours = converted.state_dict["conv1.weight"]
    assert ours.data_ptr() == jhu_resnet50["module.conv1.weight"].data_ptr()


def test_lookalikes_are_told_apart_by_the_user_alone() -> None:
    official = in_openmmlab_names(of_torchvision("resnet50"))
    for source in ("openmmlab", *SOURCES["openmmlab"].lookalikes):
        converted = convert_state(official, source)
        assert converted.source.name == source
        assert converted.architecture == f"resnet50{SOURCES[source].suffix}"
    assert convert_state(official).source.formula == "jhu"
    assert convert_state(official, "openmmlab_detectron").source.card.channels == "BGR"


def test_every_source_names_those_that_look_like_it() -> None:
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.layout == "mmdet" or source.layout in LAYOUTS
        assert source.formula is None or source.formula in wszoo.FORMULAS
        alike = {other.name for other in SOURCES.values() if other.layout == source.layout}
        assert set(source.lookalikes) == alike - {name}, name


def test_photos_of_googles_bit_are_squeezed_and_all_others_cut() -> None:
    assert {name for name, s in SOURCES.items() if s.card.crop_mode != "center"} == {"bit"}
    card = SOURCES["bit"].card
    photo = np.full((100, 300, 3), 128, dtype=np.uint8)
    photo[:, :20] = 255  # an end that a cut takes off
    transform = timm.data.create_transform(
        (3, card.size, card.size), crop_pct=card.size / card.resize, crop_mode=card.crop_mode
    )
    assert transform(Image.fromarray(photo))[0, :, 0].min() > 2


def test_the_note_for_detectors_tells_both_differences_of_roi_align() -> None:
    note = SOURCES["mmdet"].note
    assert "(aligned)" in note and "sampling ratio 0" in note
    assert "not aligned, ratio 2" in note
