"""Surgery on foreign models and on our own: what is converted, what is left and why, folding."""

import copy
import pickle
from collections.abc import Callable

import pytest
import timm
import timm.layers
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

import wszoo
from wszoo.layers import (
    FORMULAS,
    BatchChannelNorm,
    GroupNorm,
    WSConv2d,
    WSFormula,
    convs_with_norms,
    fold,
    is_folded,
    refuse_folded,
    standardize_convs,
    to_group_norm,
)


class Net(nn.Module):
    """Children in the order in which they are registered, and run."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


def batch_norms(root: nn.Module) -> list[nn.Module]:
    return [m for m in root.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_every_convolution_of_a_torchvision_resnet_is_standardized() -> None:
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    keys = list(net.state_dict())
    parameters = list(net.parameters())

    report = standardize_convs(net, "bit")

    convs = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert sorted(report.converted) == sorted(convs)
    assert len(report.converted) == 53
    assert report.left == {} and report.noted == {}
    assert {type(conv) for conv in convs.values()} == {WSConv2d}
    assert {conv.formula for conv in convs.values()} == {FORMULAS["bit"]}
    assert list(net.state_dict()) == keys
    assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))


def test_the_last_convolution_of_a_deeplab_head_is_left() -> None:
    head = DeepLabHead(64, 21)

    report = standardize_convs(head)

    assert report.left == {"4": "no norm behind it"}
    assert len(report.converted) == 7
    assert type(head[4]) is nn.Conv2d and type(head[1]) is WSConv2d


def test_a_pyramid_without_norms_is_left_and_one_with_norms_is_converted() -> None:
    bare = FeaturePyramidNetwork([64, 128], 32)
    normed = FeaturePyramidNetwork([64, 128], 32, norm_layer=nn.BatchNorm2d)

    assert standardize_convs(bare).converted == []
    assert set(standardize_convs(bare).left.values()) == {"no norm behind it"}
    report = standardize_convs(normed)
    assert len(report.converted) == 4 and report.left == {}


def test_attention_convolutions_are_left() -> None:
    net = timm.create_model("resnet18", block_args={"attn_layer": "se"})

    report = standardize_convs(net)

    assert len(report.converted) == 20
    assert len(report.left) == 16
    assert all(path.split(".")[-2] == "se" for path in report.left)
    assert set(report.left.values()) == {"attention"}


def test_attention_convolutions_are_left_even_with_a_norm_behind_them() -> None:
    class SqueezeExcite(Net):
        pass

    gate = SqueezeExcite(reduce=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8))

    report = standardize_convs(Net(conv=nn.Conv2d(3, 8, 3), bn=nn.BatchNorm2d(8), gate=gate))

    assert report.converted == ["conv"]
    assert report.left == {"gate.reduce": "attention"}


def test_separable_convolutions_are_standardized_where_a_norm_follows() -> None:
    without = timm.layers.SeparableConvNormAct(8, 16)
    between = Net(
        depthwise=nn.Conv2d(8, 8, 3, groups=8),
        norm1=nn.BatchNorm2d(8),
        pointwise=nn.Conv2d(8, 16, 1),
        norm2=nn.BatchNorm2d(16),
    )

    report = standardize_convs(without)
    assert report.converted == ["conv_pw"]
    assert report.left == {"conv_dw": "no norm behind it"}
    assert standardize_convs(between).converted == ["depthwise", "pointwise"]


def test_filters_of_one_element_are_left() -> None:
    net = Net(scale=nn.Conv2d(8, 8, 1, groups=8), norm=nn.BatchNorm2d(8))

    assert standardize_convs(net).left == {"scale": "one element per filter"}
    assert type(net.scale) is nn.Conv2d


def test_a_norm_of_another_width_or_behind_an_activation_does_not_count() -> None:
    densenet_like = Net(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(8))
    late = Net(conv=nn.Conv2d(3, 8, 3), act=nn.ReLU(), norm=nn.BatchNorm2d(8))
    dropped = Net(conv=nn.Conv2d(3, 8, 3), drop=nn.Dropout2d(), norm=nn.GroupNorm(2, 8))

    assert standardize_convs(densenet_like).left == {"conv": "no norm behind it"}
    assert standardize_convs(late).left == {"conv": "no norm behind it"}
    assert standardize_convs(dropped).converted == ["conv"]


@pytest.mark.parametrize("norm", [
    nn.BatchNorm2d(8),
    nn.SyncBatchNorm(8),
    nn.InstanceNorm2d(8),
    nn.GroupNorm(2, 8),
    timm.layers.LayerNorm2d(8),
    timm.layers.GroupNormAct(8, 2),
    timm.layers.BatchNormAct2d(8),
    timm.layers.FrozenBatchNormAct2d(8),
    FrozenBatchNorm2d(8),
    BatchChannelNorm(8),
    GroupNorm(8),
], ids=lambda norm: type(norm).__name__)  # fmt: skip
def test_every_kind_of_norm_counts(norm: nn.Module) -> None:
    conv = nn.Conv2d(3, 8, 3)

    assert list(convs_with_norms(Net(conv=conv, norm=norm))) == [("conv", conv, norm)]


def test_subclasses_and_standardized_layers_are_left() -> None:
    net = Net(
        special=timm.layers.StdConv2d(3, 8, 3),
        norm1=nn.BatchNorm2d(8),
        done=WSConv2d(8, 8, 3, formula="bcn"),
        norm2=nn.BatchNorm2d(8),
    )

    report = standardize_convs(net)

    assert report.left == {
        "special": "a StdConv2d, not a plain convolution",
        "done": "standardized already",
    }
    assert net.get_submodule("done").formula == FORMULAS["bcn"]


def test_a_bare_layer_cannot_be_replaced_in_place() -> None:
    with pytest.raises(ValueError, match=r"use WSConv2d\.from_conv"):
        standardize_convs(nn.Conv2d(3, 8, 3))
    for norm in (nn.BatchNorm2d(8), FrozenBatchNorm2d(8)):
        with pytest.raises(ValueError, match="use GroupNorm"):
            to_group_norm(norm)


def test_reports_read_well() -> None:
    net = Net(
        conv=nn.Conv2d(3, 48, 3),
        norm=nn.BatchNorm2d(48),
        head=nn.Conv2d(48, 2, 1),
    )

    assert str(standardize_convs(net)) == "converted 1, left 1\n  left head: no norm behind it"
    report = to_group_norm(net)
    assert str(report) == "converted 1, left 0\n  note norm: 24 groups of 48 channels"
    assert report.noted == {"norm": "24 groups of 48 channels"}


def test_scale_and_shift_survive_the_change_of_norm() -> None:
    norm = nn.BatchNorm2d(64, eps=1e-3).double().eval()
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
    norm.weight.requires_grad_(False)
    net = Net(norm=norm).eval()

    report = to_group_norm(net, 16)

    assert report.converted == ["norm"] and report.noted == {}
    replaced = net.get_submodule("norm")
    assert isinstance(replaced, GroupNorm)
    assert (replaced.num_groups, replaced.eps, replaced.training) == (16, 1e-3, False)
    assert torch.equal(replaced.weight, norm.weight) and torch.equal(replaced.bias, norm.bias)
    assert replaced.weight.dtype == torch.float64 and not replaced.weight.requires_grad


def _sync(norm: timm.layers.BatchNormAct2d) -> nn.Module:
    converted: nn.Module = timm.layers.convert_sync_batchnorm(norm)
    return converted


@pytest.mark.parametrize("make", [
    lambda: timm.layers.BatchNormAct2d(64, act_layer=nn.SiLU),
    lambda: _sync(timm.layers.BatchNormAct2d(64, act_layer=nn.SiLU)),
    lambda: timm.layers.FrozenBatchNormAct2d(64, act_layer=nn.SiLU),
], ids=["plain", "synchronized", "frozen"])  # fmt: skip
def test_a_fused_activation_is_kept(make: Callable[[], nn.Module]) -> None:
    net = Net(norm=make())
    x = torch.randn(2, 64, 4, 4)

    report = to_group_norm(net)

    assert report.converted == ["norm"]
    expected = nn.functional.silu(nn.functional.group_norm(x, 32))
    torch.testing.assert_close(net(x), expected)


def test_a_timm_model_with_fused_activations_has_no_batch_norm_left() -> None:
    net = timm.create_model("test_efficientnet").eval()
    activations = [type(m) for m in net.modules() if isinstance(m, (nn.SiLU, nn.ReLU))]

    report = to_group_norm(net)

    assert report.left == {} and not batch_norms(net)
    assert [type(m) for m in net.modules() if isinstance(m, (nn.SiLU, nn.ReLU))] == activations
    assert net(torch.randn(1, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize("make", [
    FrozenBatchNorm2d,
    nn.SyncBatchNorm,
    lambda width: nn.BatchNorm2d(width, affine=False),
])  # fmt: skip
def test_frozen_synchronized_and_bare_batch_norms_are_replaced(
    make: Callable[[int], nn.Module],
) -> None:
    net = Net(norm=make(64))

    assert to_group_norm(net).converted == ["norm"]
    x = torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(net(x), nn.functional.group_norm(x, 32))


def test_norms_of_vectors_and_of_batch_channel_normalization_are_left() -> None:
    net = Net(
        bcn=BatchChannelNorm(8),
        estimated=BatchChannelNorm(8, estimate=True),
        vectors=nn.BatchNorm1d(8),
        volumes=nn.BatchNorm3d(8),
    )

    report = to_group_norm(net)

    assert report.converted == []
    assert report.left == {
        "bcn.bn": "part of Batch-Channel Normalization",
        "estimated.bn": "part of Batch-Channel Normalization",
        "vectors": "a BatchNorm1d, which normalizes no images",
        "volumes": "a BatchNorm3d, which normalizes no images",
    }


def test_a_layer_that_is_registered_twice_stays_one_and_is_replaced_everywhere() -> None:
    conv, norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
    net = Net(conv1=conv, norm1=norm, conv2=conv, norm2=norm)
    count = len(list(net.parameters()))

    to_group_norm(net)
    standardize_convs(net)

    assert not batch_norms(net)
    assert net.norm1 is net.norm2
    assert len(list(net.parameters())) == count
    x = torch.randn(1, 8, 6, 6)
    expected = net(x)
    assert torch.equal(fold(net)(x), expected)
    assert not [m for m in net.modules() if isinstance(m, WSConv2d)]


def test_a_batch_of_one_trains_after_both_operations() -> None:
    net = torchvision.models.resnet18(num_classes=4).train()
    image, label = torch.randn(1, 3, 32, 32), torch.tensor([1])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(image)

    standardize_convs(net)
    to_group_norm(net)
    loss = nn.functional.cross_entropy(net(image), label)
    loss.backward()

    assert not batch_norms(net)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter -= 1e-3 * parameter.grad
    assert nn.functional.cross_entropy(net(image), label) < loss


def make_net() -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = timm.create_model("test_resnet_gn_ws", formula="bit", zero_init_last=False)
    return net


def test_folding_keeps_every_bit_of_the_output() -> None:
    net = make_net().eval()
    x = torch.randn(2, 3, 64, 64)
    expected = net(x)
    keys = list(net.state_dict())

    folded = fold(net)

    assert folded is net
    assert torch.equal(net(x), expected)
    assert list(net.state_dict()) == keys
    assert not [m for m in net.modules() if isinstance(m, WSConv2d)]
    assert not net.training and not any(m.training for m in net.modules())


def test_folded_kernels_take_no_gradient() -> None:
    net = fold(make_net())

    net(torch.randn(1, 3, 32, 32)).sum().backward()

    kernels = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert not any(kernel.requires_grad or kernel.grad is not None for kernel in kernels)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_the_mark_of_a_folded_net_survives_copies(
    again: Callable[[nn.Module], nn.Module],
) -> None:
    net = make_net()
    assert not is_folded(again(net))

    twin = again(fold(net))

    assert is_folded(twin)
    assert is_folded(nn.Sequential(twin))
    with pytest.raises(ValueError, match="a folded WSResNet cannot be trained"):
        twin.train()


def test_a_folded_net_is_neither_trained_nor_standardized_nor_folded_again() -> None:
    net = fold(make_net())

    with pytest.raises(ValueError, match="cannot be trained: its raw kernels are gone"):
        net.train()
    with pytest.raises(ValueError, match="cannot be standardized"):
        standardize_convs(net)
    with pytest.raises(ValueError, match="cannot be published"):
        refuse_folded(net, "published")
    with pytest.raises(ValueError, match="this WSResNet is folded already"):
        fold(net)
    assert net.eval() is net and net.train(False) is net


def test_a_net_without_standardized_layers_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="this ResNet has no WSConv2d"):
        fold(torchvision.models.resnet18())


def test_a_single_layer_and_a_part_of_a_net_can_be_folded() -> None:
    layer = WSConv2d(16, 8, 3, formula=WSFormula(False, 1e-3, True))
    x = torch.randn(1, 16, 8, 8)
    net = make_net()

    folded = fold(layer)
    fold(net.get_submodule("layer1"))

    assert type(folded) is nn.Conv2d and is_folded(folded) and not is_folded(layer)
    assert torch.equal(folded(x), layer(x))
    assert is_folded(net)
    assert type(net.get_submodule("conv1")) is WSConv2d


def test_a_folded_feature_extractor_is_recognized() -> None:
    features = timm.create_model("test_resnet_gn_ws", features_only=True)
    x = torch.randn(1, 3, 64, 64)
    expected = features.eval()(x)

    wszoo.fold(features)

    assert is_folded(features)
    assert all(torch.equal(one, other) for one, other in zip(features(x), expected, strict=True))
