"""What a backbone tells of itself is true, and its frozen stages cost nothing and never move."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from tests.layers.standardizations import standardizations
from wszoo import WSConv2d, fold
from wszoo.backbone import Backbone, load_backbone
from wszoo.layers import BatchChannelNorm, FrozenWSConv2d
from wszoo.weights import find

TINY = "test_resnet_gn_ws"
SWIN = "swin_tiny_patch4_window7_224"
SMALL_SWIN: dict[str, Any] = dict(depths=(1, 1, 1, 1), embed_dim=24, feature_cls="getter")
CHILDREN = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


def images(batch: int = 2, channels: int = 3, size: int = 64) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


class Classifier(nn.Module):
    """The smallest net that can be fine-tuned."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.out_channels[-1], 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.backbone(x)[-1].mean(dim=(2, 3)))
        return logits


def trainable(backbone: Backbone) -> set[str]:
    """Children of the body with anything that trains; all of each must then train."""
    found = set()
    for name, child in backbone.body.named_children():
        flags = {parameter.requires_grad for parameter in child.parameters()}
        assert len(flags) < 2, name
        found |= {name} if flags == {True} else set()
    return found


def fine_tune(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images()), torch.tensor([1, 3]))
        loss.backward()
        optimizer.step()


# What it tells


@pytest.mark.parametrize(("name", "options"), [
    (TINY, {}),
    (f"{TINY}.e3_tin200", dict(out_indices=(0, 2))),
    (TINY, dict(output_stride=8)),
    (TINY, dict(output_stride=16, in_chans=5)),
    ("resnet18d_gn_ws", dict(pretrained=False)),
    ("convnext_atto", dict(pretrained=False, out_indices=(0, 1, 2, 3), depths=(1, 1, 1, 1))),
    (SWIN, dict(pretrained=False, out_indices=(0, 1), img_size=64, window_size=4, **SMALL_SWIN)),
], ids=lambda value: str(value))  # fmt: skip
def test_channels_and_strides_are_those_of_the_maps(name: str, options: dict[str, Any]) -> None:
    backbone = load_backbone(name, **options)

    maps = backbone(images(1, backbone.in_chans))

    assert backbone.name == name
    assert [tuple(m.shape) for m in maps] == [
        (1, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(backbone.out_channels, backbone.strides, strict=True)
    ]
    assert backbone.out_indices == options.get("out_indices", (1, 2, 3, 4))
    assert max(backbone.strides) <= options.get("output_stride", 32)


def test_names_of_tensors_are_timms() -> None:
    backbone = load_backbone(TINY)

    whole: Any = timm.create_model(TINY, pretrained=True)

    expected = {f"body.{key}" for key in whole.state_dict() if not key.startswith("fc.")}
    assert set(backbone.state_dict()) == expected
    assert "body.conv1.weight" in expected
    assert torch.equal(backbone(images())[-1], whole.forward_features(images()))


def test_mean_and_deviation_are_those_of_the_weights() -> None:
    for name in (TINY, "resnet18_gn_ws.e28_avg_tin200"):
        backbone = load_backbone(name)

        assert (backbone.mean, backbone.std) == (find(name).mean, find(name).std)
    foreign = load_backbone(
        "convnext_atto",
        pretrained=False,
        out_indices=(3,),
        pretrained_cfg_overlay={"mean": [0, 1, 2]},
    )
    assert foreign.mean == (0, 1, 2)


def test_a_published_folder_is_a_backbone_too(tmp_path: Path) -> None:
    net: Any = timm.create_model(TINY, pretrained=True)
    save_for_hf(net, str(tmp_path), safe_serialization=True)

    backbone = load_backbone(f"local-dir:{tmp_path}", formula="jhu")

    assert backbone.mean == find(TINY).mean
    assert torch.equal(backbone(images())[-1], net.forward_features(images()))


@pytest.mark.parametrize(("in_chans", "mean"), [
    (1, (0.449,)),
    (2, (0.485, 0.456)),
    (3, (0.485, 0.456, 0.406)),
    (5, (0.485, 0.456, 0.406, 0.485, 0.456)),
])  # fmt: skip
def test_mean_is_averaged_for_grey_images_and_repeated_for_others(
    in_chans: int, mean: tuple[float, ...]
) -> None:
    backbone = load_backbone(TINY, in_chans=in_chans)

    assert backbone.mean == pytest.approx(mean)
    assert len(backbone.std) == backbone.in_chans == in_chans


def test_norms_are_counted() -> None:
    assert load_backbone(TINY).norm_census() == {"GroupNorm": 13}
    assert load_backbone(TINY, out_indices=(1,)).norm_census() == {"GroupNorm": 4}
    foreign = load_backbone("resnet18", pretrained=False, allow_batch_norm=True)
    assert foreign.norm_census() == {"BatchNorm2d": 20}


# What is frozen


@pytest.mark.parametrize("count", range(6))
def test_stages_are_counted_from_the_last_as_in_torchvision(count: int) -> None:
    backbone = load_backbone(TINY, trainable_stages=count)

    expected = set(CHILDREN[6 - count :]) if count < 5 else set(CHILDREN)
    assert trainable(backbone) == expected
    assert backbone.trainable_stages == count
    convs = [m for m in backbone.modules() if isinstance(m, WSConv2d)]
    assert all(isinstance(m, FrozenWSConv2d) != m.weight.requires_grad for m in convs)


def test_three_stages_train_by_default_and_all_without_weights() -> None:
    assert load_backbone(TINY).trainable_stages == 3
    backbone = load_backbone(TINY, pretrained=False)
    assert backbone.trainable_stages == 5
    assert trainable(backbone) == set(CHILDREN)


def test_stages_without_a_map_are_counted_too() -> None:
    backbone = load_backbone(TINY, trainable_stages=3, out_indices=(1, 2))

    assert trainable(backbone) == {"layer2"}


def test_a_deep_stem_is_frozen_as_one() -> None:
    backbone = load_backbone("resnet18d_gn_ws", pretrained=False)

    backbone.set_trainable_stages(4)

    assert trainable(backbone) == {"layer1", "layer2", "layer3", "layer4"}
    assert len([m for m in backbone.modules() if isinstance(m, FrozenWSConv2d)]) == 3


def test_random_weights_are_not_frozen() -> None:
    with pytest.raises(ValueError, match="cannot freeze random weights: trainable_stages=4"):
        load_backbone(TINY, pretrained=False, trainable_stages=4)


@pytest.mark.parametrize("make_optimizer", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
])  # fmt: skip
def test_frozen_tensors_keep_every_bit_and_the_others_move(
    make_optimizer: Callable[[Any], torch.optim.Optimizer],
) -> None:
    model = Classifier(load_backbone(TINY, trainable_stages=2))
    before = copy.deepcopy(model.state_dict())

    fine_tune(model, make_optimizer(model.parameters()))

    frozen = (
        "backbone.body.conv1",
        "backbone.body.bn1",
        *(f"backbone.body.layer{i}" for i in (1, 2)),
    )
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]) == key.startswith(frozen), key


def test_a_fine_tune_with_frozen_stages_loads_into_a_net_without_any(tmp_path: Path) -> None:
    tuned = Classifier(load_backbone(TINY))
    fine_tune(tuned, torch.optim.SGD(tuned.parameters(), lr=0.1))
    save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")

    fresh = Classifier(load_backbone(TINY, pretrained=False))
    fresh.load_state_dict(load_file(tmp_path / "tuned.safetensors"))

    assert torch.equal(fresh.eval()(images()), tuned.eval()(images()))
    again = Classifier(load_backbone(TINY))
    again(images())  # its frozen kernels are kept from now on, and not the right ones
    again.load_state_dict(fresh.state_dict())
    assert torch.equal(again.eval()(images()), tuned(images()))


@pytest.mark.parametrize(("trainable_stages", "count"), [(5, 13), (4, 12), (3, 9), (1, 3), (0, 0)])
def test_frozen_stages_standardize_nothing(trainable_stages: int, count: int) -> None:
    backbone = load_backbone(TINY, trainable_stages=trainable_stages)
    backbone.train()(images())  # the first pass fills what is kept

    assert standardizations(lambda: backbone(images())) == count


def test_frozen_stages_record_no_graph() -> None:
    backbone = load_backbone(TINY, out_indices=(0, 1, 2, 3, 4)).train()

    flags = [feature_map.requires_grad for feature_map in backbone(images())]

    assert flags == [False, False, True, True, True]


def test_frozen_stages_stay_in_eval_mode_and_the_others_follow() -> None:
    backbone = load_backbone(TINY, drop_path_rate=0.5)
    modes = {name: child.training for name, child in Classifier(backbone).train().named_modules()}

    assert modes["backbone.body.layer2"] and modes["backbone.body.layer4.0"]
    assert not modes["backbone.body.conv1"] and not modes["backbone.body.layer1.0"]
    assert not backbone.eval().body.get_submodule("layer4").training


def test_stages_can_be_set_again() -> None:
    backbone = load_backbone(TINY, trainable_stages=0).train()
    assert not backbone(images())[-1].requires_grad

    backbone.set_trainable_stages(5)

    assert trainable(backbone) == set(CHILDREN)
    assert backbone.body.get_submodule("layer1").training
    backbone(images())[-1].sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


# Other nets


def test_batch_norm_is_refused_with_the_number_of_layers() -> None:
    message = r"'resnet18' has 20 BatchNorm layers.*take a '\*_gn_ws' variant, or pass allow_batch"
    with pytest.raises(ValueError, match=message):
        load_backbone("resnet18", pretrained=False)


def test_running_statistics_of_frozen_stages_do_not_move() -> None:
    options: dict[str, Any] = dict(pretrained=False, zero_init_last=False)
    backbone = load_backbone("resnet18", allow_batch_norm=True, **options)
    backbone.set_trainable_stages(3)
    model = Classifier(backbone)
    before = copy.deepcopy(model.state_dict())

    fine_tune(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=1)

    frozen = tuple(f"backbone.body.{name}" for name in ("conv1", "bn1", "layer1"))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]) == key.startswith(frozen), key


def test_running_statistics_of_batch_channel_norm_do_not_move_when_frozen() -> None:
    backbone = load_backbone(TINY, norm_layer=BatchChannelNorm, pretrained=False).train()
    backbone.set_trainable_stages(1)
    before = copy.deepcopy(backbone.state_dict())

    backbone(images())

    statistics = [key for key in before if "running" in key or "tracked" in key]
    after = backbone.state_dict()
    moved = {key for key in statistics if not torch.equal(after[key], before[key])}
    assert moved == {key for key in statistics if key.startswith("body.layer4")} != set()


@pytest.mark.parametrize(("name", "options", "count", "expected"), [
    ("resnet50_gn", dict(layers=(1, 1, 1, 1)), 3, {"layer2", "layer3", "layer4"}),
    ("convnext_atto", dict(out_indices=(0, 1, 2, 3)), 3, {"stages_1", "stages_2", "stages_3"}),
    ("resnetv2_50x1_bit", {}, 4, {f"stages_{index}" for index in range(4)}),
    ("regnety_002", {}, 2, {"s3", "s4"}),
])  # fmt: skip
def test_stages_of_foreign_nets_are_those_of_their_maps(
    name: str, options: dict[str, Any], count: int, expected: set[str]
) -> None:
    backbone = load_backbone(name, pretrained=False, allow_batch_norm=True, **options)

    backbone.set_trainable_stages(count)

    assert trainable(backbone) == expected


def test_stages_inside_of_other_modules_are_found() -> None:
    backbone = load_backbone("efficientnet_b0", pretrained=False, allow_batch_norm=True)
    swin = load_backbone(SWIN, pretrained=False, out_indices=(0, 1, 2, 3), **SMALL_SWIN)

    backbone.set_trainable_stages(2)
    swin.set_trainable_stages(3)

    live = {name for name, p in backbone.body.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in live} == {"3", "4", "5", "6"}
    resting = {name for name, p in swin.body.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in resting} == {"patch_embed", "layers"}
    assert {name.split(".")[2] for name in resting if ".layers." in name} == {"0"}


@pytest.mark.parametrize(("name", "options", "count"), [
    ("vit_tiny_patch16_224", {}, 12),  # the embedding of positions is of no stage
    ("hrnet_w18_small", dict(allow_batch_norm=True), 5),  # its stages run side by side
])  # fmt: skip
def test_stages_that_cannot_be_told_apart_are_frozen_all_or_not_at_all(
    name: str, options: dict[str, Any], count: int
) -> None:
    backbone = load_backbone(name, pretrained=False, **options)

    with pytest.raises(ValueError, match=f"told apart; use trainable_stages=0 or {count}"):
        backbone.set_trainable_stages(3)
    backbone.set_trainable_stages(0)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    backbone.set_trainable_stages(count)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


# What is refused


@pytest.mark.parametrize(("name", "options", "message"), [
    ("resnet18_gn_wz", {}, "timm knows no model 'resnet18_gn_wz'; similar ones: resnet18_gn_ws"),
    ("!", {}, r"timm knows no model '!'; similar ones: see timm.list_models\(\)"),
    (f"{TINY}.a1", {}, f"cannot load '{TINY}.a1' as a backbone: Invalid pretrained tag"),
    ("resnet10_gn_ws", {}, "no weights exist for 'resnet10_gn_ws' yet; use pretrained=False"),
    (TINY, dict(output_stride=4), "output_stride must be 8, 16 or 32, got 4"),
    (TINY, dict(in_chans=0), "in_chans must be at least 1, got 0"),
    (TINY, dict(trainable_stages=6), "must be within 0..5, got 6"),
    (TINY, dict(trainable_stages=-1), "must be within 0..5, got -1"),
    (TINY, dict(out_indices=(1, 5)), r"ascend within 0..4, got \(1, 5\); .* \[2, 4, 8, 16, 32\]"),
    (TINY, dict(out_indices=(2, 1)), r"ascend within 0..4, got \(2, 1\)"),
    (TINY, dict(out_indices=(1, 1)), r"ascend within 0..4, got \(1, 1\)"),
    (TINY, dict(out_indices=(-1,)), r"ascend within 0..4, got \(-1,\)"),
    (TINY, dict(out_indices=()), r"ascend within 0..4, got \(\)"),
    ("convnext_atto", {}, r"ascend within 0..3, .* strides \[4, 8, 16, 32\]"),
    ("vgg11", dict(output_stride=8), "'vgg11' has no dilated form; use output_stride=32"),
    ("edgenext_xx_small", dict(output_stride=8), "'edgenext_xx_small' has no dilated form"),
    (SWIN, dict(out_indices=(0, 1)), "pass feature_cls='getter'"),
])  # fmt: skip
def test_what_cannot_be_had_is_refused_in_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load_backbone(name, **options)

    assert "\n" not in str(raised.value)


def test_an_unknown_argument_is_still_a_type_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        load_backbone(TINY, colour=True, output_stride=16)


def test_a_folded_backbone_cannot_be_trained() -> None:
    backbone = load_backbone(TINY).eval()
    expected = backbone(images())

    fold(backbone)

    assert all(map(torch.equal, backbone(images()), expected))
    with pytest.raises(ValueError, match="a folded Backbone cannot be trained"):
        backbone.train()


# As a module


def gradients(backbone: Backbone) -> dict[str, Tensor]:
    backbone.zero_grad()
    total = torch.stack([m.square().mean() for m in backbone.train()(images())]).sum()
    total.backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("trainable_stages", [3, 5])
def test_checkpoints_leave_the_gradients_as_they_are(trainable_stages: int) -> None:
    backbone = load_backbone(TINY, trainable_stages=trainable_stages)
    expected = gradients(backbone)

    backbone.set_grad_checkpointing()

    assert backbone.body.grad_checkpointing
    found = gradients(backbone)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    backbone.set_grad_checkpointing(False)
    assert not backbone.body.grad_checkpointing


def test_a_net_without_checkpoints_says_so() -> None:
    backbone = load_backbone("vit_tiny_patch16_224", pretrained=False)

    with pytest.raises(ValueError, match="has no gradient checkpointing; leave it off"):
        backbone.set_grad_checkpointing()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_are_frozen_likewise(again: Callable[[Backbone], Backbone]) -> None:
    backbone = load_backbone(TINY, trainable_stages=2)
    expected = backbone(images())

    twin = again(backbone).train()

    assert trainable(twin) == {"layer3", "layer4"}
    assert not twin.body.get_submodule("layer2").training
    assert all(map(torch.equal, twin(images()), expected))


def test_a_scripted_backbone_computes_the_same() -> None:
    backbone = load_backbone(TINY).eval()

    scripted = torch.jit.script(backbone)

    for found, expected in zip(scripted(images()), backbone(images()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_shows_its_name_and_what_trains() -> None:
    assert f"'{TINY}', trainable_stages=2" in repr(load_backbone(TINY, trainable_stages=2))
