"""Every variant keeps the zoo's promises, and is the timm model that users expect."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import timm.utils
import torch
import torchvision
from timm.models import PretrainedCfg
from torch import Tensor, nn

from wszoo import FORMULAS, BatchChannelNorm, GroupNorm, WSConv2d, WSFormula, WSResNet
from wszoo.layers import convs_with_norms

PARAMETERS = {
    "resnet101_bcn_ws": 44_555_816,
    "resnet101_gn_ws": 44_549_160,
    "resnet101d_gn_ws": 44_568_392,
    "resnet10_gn_ws": 5_418_792,
    "resnet14_gn_ws": 10_064_936,
    "resnet152_gn_ws": 60_192_808,
    "resnet152d_gn_ws": 60_212_040,
    "resnet18_gn_ws": 11_689_512,
    "resnet18d_gn_ws": 11_708_744,
    "resnet26_gn_ws": 15_995_176,
    "resnet26d_gn_ws": 16_014_408,
    "resnet34_gn_ws": 21_797_672,
    "resnet34d_gn_ws": 21_816_904,
    "resnet50_bcn_ws": 25_560_424,
    "resnet50_gn_ws": 25_557_032,
    "resnet50d_gn_ws": 25_576_264,
    "resnext101_32x4d_gn_ws": 44_177_704,
    "resnext101_32x8d_gn_ws": 88_791_336,
    "resnext26_32x4d_gn_ws": 15_389_480,
    "resnext50_32x4d_bcn_ws": 25_032_296,
    "resnext50_32x4d_gn_ws": 25_028_904,
    "test_resnet_gn_ws": 453_576,
    "wide_resnet101_2_gn_ws": 126_886_696,
    "wide_resnet50_2_gn_ws": 68_883_240,
}
IN_TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
)
LARGE = {name for name, count in PARAMETERS.items() if count > 80e6}
WITH_GROUP_NORM = [
    pytest.param(name, marks=[pytest.mark.slow] if count > 30e6 else [])
    for name, count in PARAMETERS.items()
    if "_gn_ws" in name
]
TINY = "test_resnet_gn_ws"


def create(name: str = TINY, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs)


def images(batch: int = 2, channels: int = 3, size: int = 64) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {path: m for path, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Every variant


def test_every_registered_variant_is_listed_here() -> None:
    assert set(timm.list_models(module="ws_resnet")) == set(PARAMETERS)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_variant_is_standardized_and_free_of_batch_norm(name: str, count: int) -> None:
    model = create(name, num_classes=1000, device="meta")

    assert isinstance(model, WSResNet)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert {type(conv) for conv in convolutions(model).values()} == {WSConv2d}
    assert all(norm is not None for _, _, norm in convs_with_norms(model))
    assert {conv.bias for conv in convolutions(model).values()} == {None}
    batch_norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in model.modules() if isinstance(m, (GroupNorm, BatchChannelNorm))]
    assert len(norms) == len(convolutions(model))
    if "_bcn_" in name:
        assert {type(norm) for norm in norms} == {BatchChannelNorm}
        assert len(batch_norms) == len(norms)
    else:
        assert {type(norm) for norm in norms} == {GroupNorm}
        assert not batch_norms


@pytest.mark.parametrize("name", PARAMETERS)
def test_norms_have_32_groups_but_on_narrow_layers(name: str) -> None:
    for norm in create(name, device="meta").modules():
        if isinstance(norm, GroupNorm):
            assert norm.num_groups == {16: 8, 32: 16}.get(norm.num_channels, 32)
            assert norm.eps == 1e-5 and norm.affine


@pytest.mark.parametrize("name", IN_TORCHVISION)
def test_parameters_are_those_of_torchvision(name: str) -> None:
    ours = create(f"{name}_gn_ws", num_classes=1000, device="meta")
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()

    shapes = {key: parameter.shape for key, parameter in ours.named_parameters()}
    assert shapes == {key: parameter.shape for key, parameter in theirs.named_parameters()}
    strides = {key: (c.stride, c.padding, c.groups) for key, c in convolutions(ours).items()}
    assert strides == {
        key: (c.stride, c.padding, c.groups) for key, c in convolutions(theirs).items()
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_one_step_at_batch_size_one_is_finite_and_reaches_every_parameter(name: str) -> None:
    device = "meta" if name in LARGE else "cpu"
    model = create(name, num_classes=10, zero_init_last=False, device=device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    logits = model(images(1).to(device))
    loss = nn.functional.cross_entropy(logits, torch.tensor([3], device=device))
    loss.backward()
    optimizer.step()

    assert logits.shape == (1, 10)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape, key
        if device == "cpu":
            assert parameter.grad.isfinite().all() and parameter.grad.any(), key
            assert parameter.isfinite().all(), key
    if device == "cpu":
        assert loss.isfinite()


@pytest.mark.parametrize("name", WITH_GROUP_NORM)
def test_logits_of_an_image_do_not_depend_on_its_batch(name: str) -> None:
    # With the last norms at zero, the residual branches would not reach the logits.
    model = create(name, dtype=torch.float64, zero_init_last=False).train()
    batch = images(2).double() * torch.tensor([0.1, 10.0]).reshape(2, 1, 1, 1)

    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])

    assert relative(alone, together) < 1e-10


def test_logits_with_batch_channel_normalization_do_depend_on_the_batch() -> None:
    model = create(norm_layer=BatchChannelNorm).train()
    batch = images(3)

    assert relative(model(batch[:1]), model(batch)[:1]) > 1e-3


@pytest.mark.parametrize("name", PARAMETERS)
def test_timm_knows_what_each_variant_wants(name: str) -> None:
    cfg = timm.get_pretrained_cfg(f"{name}.untrained")

    assert isinstance(cfg, PretrainedCfg)
    assert cfg.input_size == (3, 224, 224) and cfg.pool_size == (7, 7)
    assert (cfg.mean, cfg.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = create(name, device="meta")
    first, conv = next(iter(convolutions(model).items()))
    assert (cfg.first_conv, cfg.classifier) == (first, "fc")
    assert conv.in_channels == 3
    assert model.default_cfg["architecture"] == name


# What makes a timm model


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="no_such_argument"):
        create(no_such_argument=1)


def test_device_and_dtype_reach_every_tensor() -> None:
    for norm_layer in (GroupNorm, BatchChannelNorm):
        kwargs: dict[str, Any] = {"norm_layer": norm_layer, "block_args": {"attn_layer": "se"}}
        meta = create(device="meta", **kwargs)
        double = create(dtype=torch.float64, **kwargs)

        assert {tensor.device.type for tensor in meta.state_dict().values()} == {"meta"}
        kinds = {t.dtype for t in double.state_dict().values() if t.is_floating_point()}
        assert kinds == {torch.float64}
        assert double(images().double()).dtype == torch.float64


def test_the_classifier_can_be_replaced_and_removed() -> None:
    model = create(num_classes=7)
    assert model.get_classifier() is model.fc
    assert model(images()).shape == (2, 7)

    model.reset_classifier(5)
    assert model(images()).shape == (2, 5) and model.num_classes == 5
    model.reset_classifier(0)
    assert model(images()).shape == (2, 128)
    model.reset_classifier(0, "")
    assert model(images()).shape == (2, 128, 2, 2)


def test_features_come_with_and_without_pooling() -> None:
    x = images()

    assert create(num_classes=0)(x).shape == (2, 128)
    unpooled = create(num_classes=0, global_pool="")
    assert unpooled(x).shape == (2, 128, 2, 2)
    assert torch.equal(unpooled(x), unpooled.forward_features(x))


def test_parameters_group_by_depth() -> None:
    model = create()
    groups = timm.models.group_parameters(model, model.group_matcher(coarse=True))

    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    first, last = min(groups), max(groups)
    assert set(groups[first]) == {"conv1.weight", "bn1.weight", "bn1.bias"}
    assert set(groups[last]) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("features_only", [False, True])
def test_checkpointing_changes_no_gradient(features_only: bool) -> None:
    model = create(zero_init_last=False, features_only=features_only).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.set_grad_checkpointing(True)
    net, other = (Last(m) if features_only else m for m in (model, checkpointed))
    x = images()

    expected, actual = gradients(net, x), gradients(other, x)

    assert len(expected) >= len([p for p in model.parameters()])
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


class Last(nn.Module):
    """The last output of a net with several."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)[-1]
        return out


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "fx", "getter"])
def test_feature_maps_have_the_stated_strides_and_channels(feature_cls: str) -> None:
    model = create(features_only=True, feature_cls=feature_cls).eval()
    whole = create().eval()
    x = images()

    found = model(x)
    maps = list(found.values()) if isinstance(found, dict) else found

    assert isinstance(found, dict) == (feature_cls == "dict")
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert model.feature_info.channels() == [64, 16, 32, 64, 128]
    assert [feature.shape[1] for feature in maps] == [64, 16, 32, 64, 128]
    assert [tuple(feature.shape[2:]) for feature in maps] == [(s, s) for s in (32, 16, 8, 4, 2)]
    assert torch.equal(maps[-1], whole.forward_features(x))


def test_feature_maps_can_be_chosen_from_the_end() -> None:
    model = create(features_only=True, out_indices=(-3, -1))

    assert model.feature_info.reduction() == [8, 32]
    assert [feature.shape[1] for feature in model(images())] == [32, 128]


def test_intermediate_features_are_those_of_the_forward_pass() -> None:
    model = create().eval()
    x = images()

    final, maps = model.forward_intermediates(x, indices=[1, -1])

    assert [tuple(feature.shape) for feature in maps] == [(2, 16, 16, 16), (2, 128, 2, 2)]
    assert torch.equal(final, model.forward_features(x))
    assert torch.equal(maps[-1], final)
    only = model.forward_intermediates(x, indices=3, intermediates_only=True)
    assert [feature.shape[1] for feature in only] == [32, 64, 128]


@pytest.mark.parametrize(("stride", "reductions"), [(8, [2, 4, 8, 8, 8]), (16, [2, 4, 8, 16, 16])])
def test_the_output_stride_can_be_lowered(stride: int, reductions: list[int]) -> None:
    whole = create(output_stride=stride).eval()
    features = create(output_stride=stride, features_only=True).eval()
    x = images()

    side = 64 // stride
    assert whole.forward_features(x).shape == (2, 128, side, side)
    assert features.feature_info.reduction() == reductions
    assert [feature.shape[-1] for feature in features(x)] == [64 // r for r in reductions]
    assert whole.state_dict().keys() == create().state_dict().keys()


@pytest.mark.parametrize("in_chans", [1, 4])
@pytest.mark.parametrize("name", [TINY, "resnet18d_gn_ws"])
def test_other_input_channels_make_the_stem_plain(name: str, in_chans: int) -> None:
    model = create(name, in_chans=in_chans, num_classes=10)

    assert model.in_chans == in_chans and create().in_chans == 3
    (stem, first), *others = convolutions(model).items()
    assert stem == model.default_cfg["first_conv"]
    assert type(first) is nn.Conv2d and first.in_channels == in_chans
    assert {type(conv) for _, conv in others} == {WSConv2d}
    assert model(images(channels=in_chans)).shape == (2, 10)


def test_attention_keeps_plain_convolutions() -> None:
    model = create(block_args={"attn_layer": "se"}, zero_init_last=False)

    kinds = {path: type(conv) for path, conv in convolutions(model).items()}
    attention = {path for path in kinds if ".se." in path}
    assert len(attention) == 8
    assert {kinds[path] for path in attention} == {nn.Conv2d}
    assert {kind for path, kind in kinds.items() if path not in attention} == {WSConv2d}
    assert all(g.isfinite().all() and g.any() for g in gradients(model, images(1)).values())


@pytest.mark.parametrize(("norm_layer", "kind"), [
    ("batchnorm2d", nn.BatchNorm2d),
    (nn.InstanceNorm2d, nn.InstanceNorm2d),
    (BatchChannelNorm, BatchChannelNorm),
])  # fmt: skip
def test_another_norm_can_be_asked_for(norm_layer: Any, kind: type[nn.Module]) -> None:
    model = create(norm_layer=norm_layer)

    assert isinstance(model.bn1, kind)
    assert not [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert {type(conv) for conv in convolutions(model).values()} == {WSConv2d}


@pytest.mark.parametrize("formula", [*FORMULAS, WSFormula(True, 1e-4, True)])
def test_the_formula_reaches_every_layer(formula: str | WSFormula) -> None:
    model = create(formula=formula)

    wanted = FORMULAS[formula] if isinstance(formula, str) else formula
    assert model.formula == wanted
    assert {conv.formula for conv in convolutions(model).values()} == {wanted}


def test_the_formula_changes_what_small_kernels_compute() -> None:
    model, other = create(formula="jhu", zero_init_last=False), create(formula="bcn")
    with torch.no_grad():
        for conv in convolutions(model).values():
            conv.weight *= 0.05 * torch.rand(conv.out_channels, 1, 1, 1)
    other.load_state_dict(model.state_dict())

    assert relative(other(images()), model(images())) > 1e-3


def test_an_unknown_formula_is_refused() -> None:
    with pytest.raises(ValueError, match="no WS formula 'paper'; the formulas: jhu, tf"):
        create(formula="paper")


def test_residual_branches_start_at_zero_unless_told_otherwise() -> None:
    last = "layer1.0.bn2.weight"

    assert not create().state_dict()[last].any()
    assert create(zero_init_last=False).state_dict()[last].all()


def test_odd_and_small_images_are_fine() -> None:
    model = create().train()

    assert model(torch.randn(1, 3, 65, 67)).isfinite().all()
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_channels_last_gives_the_same_logits_and_gradients() -> None:
    model = create(zero_init_last=False, dtype=torch.float64).train()
    x = images().double()
    expected, expected_gradients = model(x), gradients(model, x)

    model = model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    features = model.forward_features(x)

    assert features.is_contiguous(memory_format=torch.channels_last)
    assert relative(model(x), expected) < 1e-12
    for name, gradient in gradients(model, x).items():
        assert relative(gradient, expected_gradients[name]) < 1e-9, name


# Tracing, scripting, exporting, compiling; copying

NORMS = [GroupNorm, BatchChannelNorm]


@pytest.mark.parametrize("norm_layer", NORMS)
@pytest.mark.parametrize("convert", [
    lambda model, x: torch.fx.symbolic_trace(model),
    lambda model, x: torch.jit.script(model),
    lambda model, x: torch.jit.trace(model, x),
    lambda model, x: torch.jit.script(torch.fx.symbolic_trace(model)),
], ids=["fx", "script", "trace", "fx and script"])  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_and_scripted_models_compute_the_same(
    convert: Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]], norm_layer: Any
) -> None:
    model = create(norm_layer=norm_layer, zero_init_last=False, formula="bcn").eval()
    other = images(2).flip(0)

    converted = convert(model, images())

    assert relative(converted(other), model(other)) < 1e-5


@pytest.mark.parametrize("norm_layer", NORMS)
def test_an_exported_model_computes_the_same_at_any_batch_size(norm_layer: Any) -> None:
    model = create(norm_layer=norm_layer, zero_init_last=False).eval()
    batch = torch.export.Dim("batch", min=1, max=64)

    exported = torch.export.export(model, (images(2),), dynamic_shapes=({0: batch},))

    x = images(3)
    assert relative(exported.module()(x), model(x)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("norm_layer", NORMS)
def test_a_compiled_model_has_no_graph_breaks_and_the_same_gradients(norm_layer: Any) -> None:
    model = create(norm_layer=norm_layer, zero_init_last=False, dtype=torch.float64).train()
    twin = copy.deepcopy(model)
    x = images().double()

    compiled: Any = torch.compile(twin, fullgraph=True, backend="aot_eager")
    compiled(x).square().mean().backward()

    expected = gradients(model, x)
    assert expected.keys() == dict(twin.named_parameters()).keys()
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None
        assert relative(parameter.grad, expected[name]) < 1e-9, name


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_compute_the_same(again: Callable[[nn.Module], nn.Module]) -> None:
    model = create(formula="timm").eval()

    twin = again(model)

    assert isinstance(twin, WSResNet) and twin.formula == FORMULAS["timm"]
    assert torch.equal(twin(images()), model(images()))


def test_timms_reparameterization_bakes_every_kernel() -> None:
    model = create(zero_init_last=False).eval()

    baked = timm.utils.reparameterize_model(model)

    assert {type(conv) for conv in convolutions(baked).values()} == {nn.Conv2d}
    assert {type(conv) for conv in convolutions(model).values()} == {WSConv2d}
    assert torch.equal(baked(images()), model(images()))
