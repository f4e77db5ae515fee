"""A level changes what is kept, and nothing else."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from timm.layers import BlurPool2d
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from wszoo import (
    BatchChannelNorm,
    GroupNorm,
    WSConv2d,
    WSResNet,
    detection,
    fold,
    load_backbone,
    segmentation,
)
from wszoo.layers import EstimatedBatchNorm, freeze, standardized_once
from wszoo.memory import MEMORY, Memory, can_save_memory, memory_of, save_memory

TINY = "test_resnet_gn_ws"
SAVING = MEMORY[1:]


def make(block: Any = Bottleneck, *, kind: Any = WSResNet, **options: Any) -> Any:
    """A small net, with shortcuts that have a convolution and one that has none."""
    torch.manual_seed(0)
    sizes: Any = {"channels": (8, 16, 16, 16), "num_classes": 5, "zero_init_last": False}
    return kind(block, (2, 1, 1, 1), **sizes | options).train()


def images(**options: Any) -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(**options)


def gradients(net: nn.Module, x: Tensor, *, dtype: Any = None) -> dict[str, Tensor]:
    """Of every parameter, with the output and all buffers beside."""
    net.zero_grad()
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = net(x)
        out = out[-1] if isinstance(out, list) else out
    out.float().square().mean().backward()
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    return {**found, **buffers, "output": out.detach(), "random": torch.rand(1)}


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class Convolutions(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


class Standardizing(WSConv2d):
    """Counts how often it does."""

    times = 0

    def _standardized(self) -> Tensor:
        self.times += 1
        return super()._standardized()


# Gradients


NETS: dict[str, Callable[[], Any]] = {
    "bottleneck": make,
    "basic": partial(make, BasicBlock),
    "deep stem, pooled shortcut": partial(make, stem_type="deep", stem_width=32, avg_down=True),
    "groups, dilated": partial(make, cardinality=4, base_width=16, output_stride=8),
    "attention": partial(make, block_args={"attn_layer": "se"}),
    "blurred": partial(make, BasicBlock, aa_layer=BlurPool2d),
    "BCN": partial(make, norm_layer=BatchChannelNorm),
    "BCN by estimates": partial(make, norm_layer=partial(BatchChannelNorm, estimate=True)),
    "BatchNorm": partial(make, kind=ResNet),
    "random depth": partial(make, drop_path_rate=0.5),
    "dropped regions": partial(make, drop_block_rate=0.3),
}


@pytest.mark.parametrize("kind", NETS)
def test_gradients_statistics_and_random_numbers_are_the_same_to_the_bit(kind: str) -> None:
    plain = NETS[kind]()
    for dtype in (None, torch.bfloat16):
        expected = gradients(copy.deepcopy(plain), images(), dtype=dtype)
        for level in SAVING:
            net = save_memory(copy.deepcopy(plain), level)
            require_equal(gradients(net, images(), dtype=dtype), expected)


@pytest.mark.parametrize("level", SAVING)
def test_gradients_in_float64_and_channels_last_are_the_same(level: Memory) -> None:
    for options in ({"dtype": torch.float64}, {"memory_format": torch.channels_last}):
        plain = make().to(**options)
        x = images(**options)
        expected = gradients(plain, x)
        found = gradients(save_memory(copy.deepcopy(plain), level), x)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("level", SAVING)
def test_running_statistics_of_two_micro_batches_move_once_each(level: Memory) -> None:
    plain = make(norm_layer=partial(BatchChannelNorm, estimate=True))
    saving = save_memory(copy.deepcopy(plain), level)

    for net in (plain, saving):
        first, second = net(images()), net(images() + 1)  # before either goes back
        (first.square().mean() + second.square().mean()).backward()

    assert isinstance(plain.get_submodule("layer1.0.bn1.bn"), EstimatedBatchNorm)
    require_equal(dict(saving.named_buffers()), dict(plain.named_buffers()))
    pairs = zip(saving.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


@pytest.mark.parametrize("level", SAVING)
def test_a_graph_can_be_gone_back_through_twice_and_differentiated(level: Memory) -> None:
    def second_order(net: nn.Module) -> list[Tensor]:
        x = images(dtype=torch.float64).requires_grad_()
        loss = net(x).square().mean()
        torch.autograd.grad(loss, x, retain_graph=True)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), list(net.parameters())[:-2]))

    plain = make().double()
    expected, found = second_order(plain), second_order(save_memory(copy.deepcopy(plain), level))

    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", SAVING)
def test_weights_standardized_once_go_together_with_it(level: Memory) -> None:
    plain = make()
    expected = gradients(plain, images())
    net = save_memory(copy.deepcopy(plain), level)

    with standardized_once(net):
        found = gradients(net, images())

    for name in set(expected) - {key for key in expected if key.endswith("weight")}:
        assert torch.equal(found[name], expected[name])
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:find_unused_parameters=True was specified")
def test_ddp_that_looks_for_unused_parameters_adds_up_the_same(one_rank: None) -> None:
    plain = make()
    expected = gradients(plain, images())
    for level in SAVING:
        net = save_memory(copy.deepcopy(plain), level)
        replica = DistributedDataParallel(net, find_unused_parameters=True)
        gradients(replica, images())
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-7)


# What is computed again


def test_nothing_is_computed_again_that_the_level_keeps() -> None:
    convolutions, kernels, norms = {}, {}, {}
    for level in MEMORY:
        net = save_memory(make(), level)
        calls: list[nn.Module] = []
        for layer in net.modules():
            if isinstance(layer, WSConv2d):
                layer.__class__ = Standardizing
            if isinstance(layer, GroupNorm):
                layer.register_forward_pre_hook(lambda norm, _, calls=calls: calls.append(norm))
        with Convolutions() as mode:
            net(images()).square().mean().backward()
        convolutions[level], norms[level] = mode.count, len(calls)
        kernels[level] = sum(m.times for m in net.modules() if isinstance(m, Standardizing))

    # The stem, five blocks of three convolutions, and four shortcuts.
    assert convolutions == {"fast": 20, "lean": 20, "small": 20 + 5 + 4, "smallest": 20 + 19}
    assert norms == {"fast": 20, "lean": 20 + 10, "small": 20 + 19, "smallest": 20 + 19}
    assert kernels == {"fast": 20, "lean": 20, "small": 20, "smallest": 20 + 19}


@pytest.mark.parametrize("level", SAVING)
def test_passes_without_a_gradient_compute_nothing_again(level: Memory) -> None:
    net = save_memory(make(), level)
    plain = save_memory(copy.deepcopy(net), "fast")
    calls: Counter[str] = Counter()
    for name, layer in net.named_modules():
        layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
    freeze(net.get_submodule("conv1"))
    freeze(net.get_submodule("bn1"))
    freeze(net.get_submodule("layer1"))

    net(images()).mean().backward()
    frozen = {name: count for name, count in calls.items() if name.startswith("layer1.")}
    calls.clear()
    with torch.no_grad():
        found = net.eval()(images())

    assert set(frozen.values()) == {1}
    assert set(calls.values()) == {1}
    assert torch.equal(found, plain.eval()(images()))


@pytest.mark.parametrize("level", SAVING)
def test_hooks_inside_of_blocks_are_called(level: Memory) -> None:
    net = save_memory(make(), level)
    calls: Counter[str] = Counter()
    watched = [
        (name, layer)
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d) or name.endswith("downsample")
    ]
    for name, layer in watched:
        layer.register_forward_hook(lambda *_, name=name: calls.update([name]))

    net(images()).mean().backward()

    assert len(calls) == len(watched) == 24


class Halved(WSConv2d):
    """A convolution that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Doubled(nn.Sequential):
    """A sequence that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def halve_a_convolution(net: nn.Module) -> None:
    net.get_submodule("layer1.0.conv2").__class__ = Halved


def double_a_shortcut(net: nn.Module) -> None:
    net.get_submodule("layer1.0.downsample").__class__ = Doubled


def replace_a_forward(net: nn.Module) -> None:
    layer: Any = net.get_submodule("layer1.0.conv2")
    own = layer.forward
    layer.forward = lambda x: own(x) / 2


@pytest.mark.parametrize("level", SAVING)
@pytest.mark.parametrize("change", [double_a_shortcut, halve_a_convolution, replace_a_forward])
def test_layers_that_compute_something_else_do_so(change: Any, level: Memory) -> None:
    plain, net = make(), save_memory(make(), level)
    change(plain)
    change(net)

    expected, actual = gradients(plain, images()), gradients(net, images())

    assert not torch.equal(expected["output"], gradients(make(), images())["output"])
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@pytest.mark.parametrize("level", SAVING)
def test_hooks_of_all_modules_are_called(level: Memory) -> None:
    calls: Counter[int] = Counter()
    net = save_memory(make(), level)
    handle = nn.modules.module.register_module_forward_hook(
        lambda layer, *_: calls.update([id(layer)])
    )
    try:
        net(images()).mean().backward()
    finally:
        handle.remove()

    assert all(calls[id(layer)] for layer in net.modules() if isinstance(layer, nn.Conv2d))


# Setting it


def test_a_level_replaces_another_and_fast_takes_it_off() -> None:
    net = make()
    keys, kinds = list(net.state_dict()), [type(m) for m in net.modules()]

    for level in (*SAVING, "lean"):
        assert save_memory(net, level) is net
        assert memory_of(net) == level
        assert list(net.state_dict()) == keys
        assert isinstance(net.layer1[0], Bottleneck)
        assert f"memory='{level}'" in repr(net)
    save_memory(net, "fast")

    assert memory_of(net) == "fast" == memory_of(nn.Linear(2, 2))
    assert [type(m) for m in net.modules()] == kinds
    assert "memory" not in net.layer1[0].__dict__


def test_a_level_that_is_none_and_a_net_that_knows_none_are_refused() -> None:
    with pytest.raises(ValueError, match="memory must be one of fast, lean, small, smallest, got"):
        save_memory(make(), "tiny")  # type: ignore[arg-type]
    plain = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(ValueError, match="timm's ResNet blocks, and this Sequential has none; lea"):
        save_memory(plain, "lean")
    assert save_memory(plain, "fast") is plain
    assert not can_save_memory(plain) and can_save_memory(make())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_have_the_level_too(again: Callable[[Any], Any]) -> None:
    net = save_memory(make(), "small")
    expected = gradients(net, images())

    twin = again(net)

    assert memory_of(twin) == "small"
    require_equal(gradients(twin, images()), expected)
    save_memory(twin, "fast")
    assert memory_of(net) == "small"


def test_state_dicts_go_to_nets_of_other_levels() -> None:
    net, other = make(), save_memory(make(), "smallest")
    with torch.no_grad():
        other.conv1.weight.add_(1)

    other.load_state_dict(net.state_dict())

    require_equal(gradients(other, images()), gradients(net, images()))


# Other ways to run it


@pytest.mark.slow
def test_graphs_are_the_plain_ones() -> None:
    plain = make().eval()
    net = save_memory(copy.deepcopy(plain), "small")
    x, expected = images(), plain(images())

    scripted = torch.jit.script(net)
    traced = torch.jit.trace(net, x, check_trace=False)
    exported = torch.export.export(net, (x,)).module()
    symbolic = torch.fx.symbolic_trace(net)
    for graph in (scripted, traced, exported, symbolic):
        torch.testing.assert_close(graph(x), expected, rtol=1e-5, atol=1e-5)
    assert memory_of(net) == "small", "scripting leaves the net as it was"


@pytest.mark.slow
def test_a_compiled_net_learns_the_same_in_one_graph() -> None:
    plain = make()
    expected = gradients(plain, images())
    net = save_memory(copy.deepcopy(plain), "small")

    gradients(torch.compile(net, backend="eager", fullgraph=True), images())  # type: ignore[arg-type]

    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)


def test_torch_func_differentiates_it() -> None:
    plain = make()
    net = save_memory(copy.deepcopy(plain), "small")

    def slopes(model: nn.Module) -> dict[str, Tensor]:
        def loss(parameters: dict[str, Tensor]) -> Tensor:
            out: Tensor = torch.func.functional_call(model, parameters, (images(),))
            return out.square().mean()

        found: dict[str, Tensor] = torch.func.grad(loss)(dict(model.named_parameters()))
        return found

    expected, found = slopes(plain), slopes(net)

    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_a_folded_net_runs() -> None:
    plain = make().eval()
    expected = plain(images())

    net = fold(save_memory(plain, "small"))
    x = images().requires_grad_()
    net(x).sum().backward()

    torch.testing.assert_close(net(images()), expected, rtol=1e-5, atol=1e-5)
    assert x.grad is not None and x.grad.any()


def test_timms_checkpoints_go_together_with_it() -> None:
    plain: Any = timm.create_model(TINY, num_classes=5, zero_init_last=False).train()
    net = save_memory(copy.deepcopy(plain), "lean")
    net.set_grad_checkpointing(True)

    require_equal(gradients(net, images()), gradients(plain, images()))


# Backbones, detectors and segmenters


def test_a_backbone_keeps_its_level_through_freezing() -> None:
    backbone = load_backbone(TINY, memory="small", trainable_stages=2)
    plain = load_backbone(TINY, trainable_stages=2)
    for stages in (2, 5, 0, 3):
        backbone.set_trainable_stages(stages)
        plain.set_trainable_stages(stages)
        assert memory_of(backbone) == "small"
        if stages:
            require_equal(gradients(backbone, images()), gradients(plain, images()))


def test_a_backbone_without_such_blocks_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"memory='lean' is for timm's ResNet blocks, and this .*"):
        load_backbone("convnext_atto", memory="lean", out_indices=(0, 1))
    with pytest.raises(ValueError, match="memory must be one of"):
        load_backbone(TINY, memory="least")  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [
    partial(detection.faster_rcnn, pyramid_channels=32),
    partial(detection.mask_rcnn, pyramid_channels=32),
    partial(detection.retinanet, pyramid_channels=32),
    partial(detection.fcos, pyramid_channels=32),
    partial(segmentation.semantic_fpn, fpn_channels=32, channels=32),
    partial(segmentation.deeplab_v3_plus, aspp_channels=32, channels=32),
    partial(segmentation.upernet, pool_channels=32, channels=32),
    partial(segmentation.unet, channels=(32, 16, 16, 16, 16)),
], ids=lambda build: build.func.__name__)  # fmt: skip
def test_every_constructor_takes_a_level(build: Any) -> None:
    maps: Any = {"out_indices": (0, 1, 2, 3, 4)} if build.func is segmentation.unet else {}
    maps |= {"output_stride": 16} if build.func is segmentation.deeplab_v3_plus else {}
    loaded = load_backbone(TINY, memory="lean", **maps)

    assert memory_of(build(TINY, num_classes=2, memory="small")) == "small"
    assert memory_of(build(TINY, num_classes=2)) == "fast"
    assert memory_of(build(loaded, num_classes=2)) == "lean", "a loaded one is left as it is"
    assert memory_of(build(loaded, num_classes=2, memory="fast")) == "fast"


def test_a_detector_and_a_segmenter_learn_the_same() -> None:
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    photos = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def losses(model: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(0)
        is_detector = not isinstance(model, segmentation.Segmenter)
        found = model([photos[0]], [target]) if is_detector else {"loss": model(photos).mean()}
        torch.stack([*found.values()]).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    sizes: Any = {"min_size": 64, "pyramid_channels": 32}
    builds: list[Any] = [partial(detection.fcos, **sizes), segmentation.semantic_fpn]
    for build in builds:
        torch.manual_seed(0)
        plain = build(TINY, num_classes=2).train()
        require_equal(losses(save_memory(copy.deepcopy(plain), "small")), losses(plain))


@pytest.mark.gpu
@pytest.mark.parametrize("level", SAVING)
def test_a_gpu_computes_the_same_in_less_memory(level: Memory) -> None:
    plain = timm.create_model("resnet26_gn_ws", zero_init_last=False).cuda().train()
    x = torch.randn(4, 3, 224, 224, device="cuda")

    def peak(net: nn.Module) -> int:
        net.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            loss = net(x).float().square().mean()
        loss.backward()
        return torch.cuda.max_memory_allocated()

    net = save_memory(copy.deepcopy(plain), level)
    assert peak(net) < peak(plain)
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-4)
