"""Frozen layers compute what live ones do, at no cost, and notice whatever happens to a kernel."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.layers.standardizations import CHANGES, GRAPHS, image, live, make_layer, standardizations
from wszoo.layers import (
    FORMULAS,
    FrozenWSConv2d,
    GroupNorm,
    WSConv2d,
    fold,
    freeze,
    unfreeze,
)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_frozen_layer_computes_every_bit_of_the_live_one(
    formula: str, memory_format: torch.memory_format
) -> None:
    layer = make_layer(formula).to(memory_format=memory_format)
    x = image().to(memory_format=memory_format)
    expected = layer(x)

    frozen = freeze(layer)

    assert frozen is layer and isinstance(frozen, FrozenWSConv2d)
    assert torch.equal(frozen(x), expected)
    assert torch.equal(frozen(x), expected)
    assert not frozen(x).requires_grad


def test_a_kernel_is_standardized_in_the_first_pass_only() -> None:
    layer = freeze(make_layer())

    assert standardizations(lambda: layer(image())) == 1
    assert standardizations(lambda: layer(image())) == 0
    assert standardizations(lambda: layer.eval()(image())) == 0
    assert standardizations(lambda: layer.train()(image())) == 0


def test_the_steps_of_other_layers_cost_a_frozen_one_nothing() -> None:
    net = nn.Sequential(freeze(make_layer()), nn.Conv2d(8, 2, 1))
    optimizer = torch.optim.SGD(net[1].parameters(), lr=0.1)
    net.train()(image()).sum().backward()

    optimizer.step()

    assert standardizations(lambda: net(image())) == 0


def test_the_state_dict_holds_the_raw_kernel_alone() -> None:
    layer = make_layer()
    raw = copy.deepcopy(layer.state_dict())

    freeze(layer)(image())

    assert list(layer.state_dict()) == ["weight", "bias"] and not list(layer.buffers())
    assert all(torch.equal(tensor, raw[key]) for key, tensor in layer.state_dict().items())
    make_layer().load_state_dict(layer.state_dict())


def _write_data_and_freeze(layer: WSConv2d) -> None:
    layer.weight.data[3].normal_()
    freeze(layer)


@pytest.mark.parametrize("change", [*CHANGES.values(), _write_data_and_freeze])
def test_whatever_happens_to_the_kernel_is_noticed(change: Callable[[Any], object]) -> None:
    layer = freeze(make_layer())
    layer(image())

    change(layer)

    torch.testing.assert_close(layer(image()), live(layer, image()), rtol=1e-6, atol=1e-6)
    assert standardizations(lambda: layer(image())) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_frozen_layer_can_be_converted(dtype: torch.dtype) -> None:
    layer = freeze(make_layer())
    layer(image())

    layer.to(dtype)

    x = image(dtype)
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), live(layer, x))


def test_freezing_an_unfrozen_layer_again_forgets_what_was_kept() -> None:
    layer = freeze(make_layer())
    layer(image())
    unfreeze(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0, fused=True)  # counts no versions
    layer(image()).square().sum().backward()
    optimizer.step()

    freeze(layer)

    assert torch.equal(layer(image()), live(layer, image()))


@pytest.mark.parametrize("release", [unfreeze, lambda layer: layer.weight.requires_grad_(True)])
def test_gradients_flow_again_once_they_are_asked_for(
    release: Callable[[WSConv2d], object],
) -> None:
    layer = freeze(make_layer())
    layer(image())
    plain = make_layer()
    plain.load_state_dict(layer.state_dict())

    release(layer)

    layer(image()).square().sum().backward()
    plain(image()).square().sum().backward()
    assert layer.weight.grad is not None and plain.weight.grad is not None
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_a_kernel_that_trained_in_between_is_standardized_anew() -> None:
    layer = freeze(make_layer())
    layer(image())
    layer.weight.requires_grad_(True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0, fused=True)
    layer(image()).square().sum().backward()
    optimizer.step()

    layer.weight.requires_grad_(False)

    assert torch.equal(layer(image()), live(layer, image()))


def test_unfreezing_gives_back_the_very_class_and_freezing_twice_is_freezing_once() -> None:
    net = nn.Sequential(make_layer(), GroupNorm(8), nn.Conv2d(8, 2, 1))

    freeze(freeze(net))

    assert type(net[0]) is FrozenWSConv2d and type(net[2]) is nn.Conv2d
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not net.train()(image()).requires_grad
    unfreeze(net)
    assert type(net[0]) is WSConv2d and "_kept" not in net[0].__dict__
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_gradient_left_over_does_not_move_what_is_frozen() -> None:
    net = nn.Sequential(make_layer(), GroupNorm(8))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    net(image()).square().sum().backward()
    optimizer.step()
    net(image()).square().sum().backward()
    before = copy.deepcopy(net.state_dict())

    freeze(net)
    optimizer.step()

    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_the_gradient_of_the_input_passes_through() -> None:
    layer, x = make_layer(), image().requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)

    freeze(layer)

    for _ in range(2):
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
        assert torch.equal(gradient, expected)


def test_a_first_pass_in_inference_mode_does_not_spoil_training() -> None:
    layer, x = freeze(make_layer()), image().requires_grad_()
    with torch.inference_mode():
        layer(image())

    layer(x).sum().backward()

    assert x.grad is not None


def test_a_layer_made_in_inference_mode_works_and_keeps_nothing() -> None:
    with torch.inference_mode():
        layer = freeze(make_layer())

        assert torch.equal(layer(image()), live(layer, image()))
        assert standardizations(lambda: layer(image())) == 1


def test_autocast_standardizes_in_full_precision() -> None:
    layer = make_layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(image())
        frozen = freeze(layer)

        assert expected.dtype == torch.bfloat16
        assert torch.equal(frozen(image()), expected)
    assert torch.equal(frozen(image()), live(layer, image()))


def _saved(layer: WSConv2d) -> WSConv2d:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded: WSConv2d = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("again", [
    copy.deepcopy,
    copy.copy,
    lambda layer: pickle.loads(pickle.dumps(layer)),
    _saved,
])  # fmt: skip
def test_copies_carry_no_kept_kernel(again: Callable[[WSConv2d], WSConv2d]) -> None:
    layer = freeze(make_layer())
    layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)  # version 0
    layer(image())
    layer.weight.normal_()  # a copy starts at version 0, too

    twin = again(layer)

    assert isinstance(twin, FrozenWSConv2d) and "_kept" not in twin.__dict__
    assert torch.equal(twin(image()), live(layer, image()))


@pytest.mark.parametrize("capture", GRAPHS.values(), ids=GRAPHS.keys())
def test_graphs_compute_the_same_before_and_after_a_kernel_is_changed(
    capture: Callable[[nn.Module], Callable[[Tensor], Tensor]],
) -> None:
    layer = freeze(make_layer())
    layer(image())

    graph = capture(layer)

    torch.testing.assert_close(graph(image()), live(layer, image()), rtol=1e-5, atol=1e-5)
    assert torch.equal(layer(image()), live(layer, image()))
    if capture is GRAPHS["export"]:  # holds parameters of its own
        return
    layer.weight.normal_()
    torch.testing.assert_close(graph(image()), live(layer, image()), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_net_with_a_frozen_stage_has_the_gradients_of_the_live_one() -> None:
    net = nn.Sequential(make_layer(), GroupNorm(8), nn.ReLU(), WSConv2d(8, 8, 3), GroupNorm(8))
    upstream = torch.randn(1, 8, 6, 6)
    net(image()).backward(upstream)
    expected = [parameter.grad for parameter in net[3:].parameters()]
    net.zero_grad()
    freeze(net[0])

    torch.compile(net, fullgraph=True)(image()).backward(upstream)

    for parameter, gradient in zip(net[3:].parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
    assert net[0].weight.grad is None


def test_functional_calls_and_transforms_use_the_kernel_they_bring() -> None:
    layer = freeze(make_layer())
    expected = layer(image())
    kernels, x = torch.randn(3, 8, 16, 3, 3), image()

    def run(weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    together = torch.vmap(run)(kernels)

    for kernel, output in zip(kernels, together, strict=True):
        single = run(kernel)
        torch.testing.assert_close(output, single, rtol=1e-5, atol=1e-5)
        unlike = make_layer()
        unlike.load_state_dict(layer.state_dict() | {"weight": kernel})
        assert torch.equal(single, live(unlike, x))
    assert torch.func.grad(lambda weight: run(weight).square().sum())(kernels[0]).abs().max() > 0
    assert torch.equal(layer(x), expected)


def test_fake_tensors_are_not_kept() -> None:
    layer = freeze(make_layer())

    with FakeTensorMode(allow_non_fake_inputs=True):
        layer(torch.randn(1, 16, 8, 8))

    assert torch.equal(layer(image()), live(layer, image()))


def test_a_frozen_net_can_be_folded() -> None:
    net: nn.Module = timm.create_model("test_resnet_gn_ws").eval()
    x = torch.randn(1, 3, 32, 32)
    freeze(net.get_submodule("layer1"))
    expected = net(x)

    fold(net)

    assert torch.equal(net(x), expected)
    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert {type(conv) for conv in convs} == {nn.Conv2d}
    assert not any("_kept" in conv.__dict__ for conv in convs)


def test_a_kind_of_layer_of_ones_own_is_frozen_without_being_changed() -> None:
    class Doubled(WSConv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = freeze(Doubled(16, 8, 3, padding=1))

    assert type(layer) is Doubled and not layer.weight.requires_grad
    assert torch.equal(layer(image()), 2 * live(layer, image()))
