"""Gradients of many passes, pulled through the standardization together."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.layers.standardizations import (
    GRAPHS,
    Standardizations,
    image,
    live,
    make_layer,
    standardizations,
)
from wszoo.layers import (
    FORMULAS,
    FrozenWSConv2d,
    GroupNorm,
    Once,
    WSConv2d,
    freeze,
    standardize_weight,
    standardized_once,
)

PASSES = 4
Net = Callable[[Tensor], Tensor]
Sharing = Callable[[nn.Module], Any]


@contextmanager
def settled(module: nn.Module) -> Iterator[Once]:
    """As under DDP whose every pass is the last one."""
    with standardized_once(module) as once:
        once.settle()
        yield once


def net_of(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = timm.create_model("test_resnet_gn_ws", num_classes=4, zero_init_last=False)
    return net.to(dtype).train()


def images(dtype: torch.dtype = torch.float64, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(PASSES, 1, 3, size, size, generator=generator).to(dtype)


def accumulate(
    net: nn.Module, batches: Tensor, sharing: Sharing = nullcontext, run: Net | None = None
) -> dict[str, Tensor]:
    """Gradients of the mean over all passes."""
    net.zero_grad()
    with sharing(net):
        for batch in batches:
            ((run or net)(batch).double().square().mean() / len(batches)).backward()
    return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


def worst(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference of any gradient."""
    assert actual.keys() == expected.keys() and len(actual) > 0
    return max(
        float((actual[k].double() - expected[k].double()).abs().max() / expected[k].abs().max())
        for k in actual
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sharing", [standardized_once, settled])
def test_gradients_are_those_of_passes_that_each_standardize(
    sharing: Sharing, memory_format: torch.memory_format
) -> None:
    net = net_of().to(memory_format=memory_format)

    shared = accumulate(net, images(), sharing)

    assert worst(shared, accumulate(net, images())) < 1e-11
    assert not any("_once" in module.__dict__ for module in net.modules())


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("settle", [0, 3, PASSES])
def test_float32_gradients_are_those_of_float64_to_a_millionth(settle: int, formula: str) -> None:
    layer, x = make_layer(formula), torch.randn(PASSES, 1, 16, 8, 8)
    upstream = torch.randn(PASSES, 1, 8, 8, 8)
    exact = layer.weight.detach().double().requires_grad_()
    kernel = standardize_weight(exact, formula)
    outputs = nn.functional.conv2d(x.double().squeeze(1), kernel, padding=1)
    outputs.backward(upstream.double().squeeze(1))

    with standardized_once(layer) as once:
        for count, (batch, gradient) in enumerate(zip(x, upstream, strict=True)):
            if count == settle:
                once.settle()
            layer(batch).backward(gradient)

    assert layer.weight.grad is not None and exact.grad is not None
    difference = (layer.weight.grad.double() - exact.grad).abs().max() / exact.grad.abs().max()
    assert difference < 1e-6


def test_every_weight_is_standardized_once_forward_and_backward() -> None:
    net, x = net_of(torch.float32), images(torch.float32)
    convs = sum(isinstance(module, WSConv2d) for module in net.modules())

    assert standardizations(lambda: accumulate(net, x)) == PASSES * convs
    assert standardizations(lambda: accumulate(net, x, standardized_once)) == convs
    assert standardizations(lambda: accumulate(net, x, settled)) == convs
    with Standardizations("native_group_norm_backward") as backward:
        accumulate(net, x, standardized_once)
    assert backward.count == convs


def test_forward_passes_compute_the_same_bits() -> None:
    net = net_of(torch.float32)
    x = images(torch.float32)[0]
    expected = net(x)

    with standardized_once(net) as once:
        assert torch.equal(net(x), expected)
        with torch.no_grad():
            assert torch.equal(net(x), expected)
        with torch.inference_mode():
            assert torch.equal(net(x), expected)
        once.settle()
        assert torch.equal(net(x), expected)
        assert torch.equal(net.eval()(x), expected)


@pytest.mark.parametrize("sharing", [standardized_once, settled])
def test_autocast_works_inside(sharing: Sharing) -> None:
    net = net_of(torch.float32)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output: Tensor = net(x)
            return output

    x = images(torch.float32)
    assert worst(accumulate(net, x, sharing, run), accumulate(net, x, run=run)) < 1e-5


def test_half_precision_weights_gather_as_they_do_without() -> None:
    layer = make_layer().bfloat16()
    x = torch.randn(PASSES, 1, 16, 8, 8).bfloat16()

    shared = accumulate(layer, x, standardized_once)

    assert shared["weight"].dtype == torch.bfloat16
    assert worst(shared, accumulate(layer, x)) < 0.03


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("sharing", [standardized_once, settled])
def test_checkpointed_layers_work_inside(sharing: Sharing, reentrant: bool) -> None:
    layers = [nn.Sequential(WSConv2d(3, 8, 3), GroupNorm(8)), WSConv2d(8, 8, 3)]
    net = nn.Sequential(*layers).double()

    def run(x: Tensor) -> Tensor:
        for layer in (*layers, layers[1]):
            x = checkpoint(layer, x, use_reentrant=reentrant)
        return x

    x = images(size=12).requires_grad_()  # reentrant ones ask for it
    assert worst(accumulate(net, x, sharing, run), accumulate(net, x, run=net_twice(net))) < 1e-11


def net_twice(net: nn.Module) -> Net:
    first, second = net.children()
    return lambda x: second(second(first(x)))


@pytest.mark.parametrize("sharing", [standardized_once, settled])
def test_a_layer_used_twice_and_a_weight_that_two_layers_share(sharing: Sharing) -> None:
    net = nn.Sequential(WSConv2d(3, 8, 3), WSConv2d(8, 8, 3), WSConv2d(8, 8, 3, formula="bcn"))
    net.double()
    net[2].weight = net[1].weight

    def run(x: Tensor) -> Tensor:
        output: Tensor = net(x)
        return output + net[2](net[1](net[1](net[0](x)))).mean()

    x = images(size=12)
    assert worst(accumulate(net, x, sharing, run), accumulate(net, x, run=run)) < 1e-11


def test_several_backward_passes_through_one_forward_pass() -> None:
    layer = make_layer().double()

    def gradient() -> Tensor:
        layer.zero_grad()
        output = layer(image(torch.float64))
        output.square().sum().backward(retain_graph=True)
        output.sin().sum().backward()
        assert layer.weight.grad is not None
        return layer.weight.grad

    expected = gradient()
    with standardized_once(layer) as once:
        once.settle()
        torch.testing.assert_close(gradient(), expected)


@pytest.mark.parametrize("sharing", [standardized_once, settled])
def test_a_penalty_on_the_gradient_of_the_input(sharing: Sharing) -> None:
    net = nn.Sequential(WSConv2d(3, 8, 3), GroupNorm(8), nn.Tanh(), WSConv2d(8, 4, 3)).double()

    def run(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(leaf).square().sum(), leaf, create_graph=True)
        return slope

    x = images(size=12)
    assert worst(accumulate(net, x, sharing, run), accumulate(net, x, run=run)) < 1e-11


@pytest.mark.parametrize("settle_before", [None, 0, PASSES - 1])
def test_a_layer_that_some_passes_skip(settle_before: int | None) -> None:
    net = nn.Sequential(WSConv2d(3, 8, 3), WSConv2d(8, 8, 3)).double()

    def gradients(once: Once | None) -> dict[str, Tensor]:
        for count, batch in enumerate(images(size=12)):
            if once is not None and count == settle_before:
                once.settle()
            (net(batch) if count < PASSES - 1 else net[0](batch)).square().mean().backward()
        return {}

    gradients(None)
    expected = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    with standardized_once(net) as once:
        gradients(once)
    actual = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    assert worst(actual, expected) < 1e-12


def test_gradients_that_were_there_before_are_added_to_and_hooks_run_once() -> None:
    layer = make_layer().double()
    x = torch.randn(PASSES, 1, 16, 8, 8, dtype=torch.float64)
    expected = accumulate(layer, x)["weight"]
    layer.weight.grad = torch.ones_like(layer.weight)
    seen: list[Tensor] = []
    layer.weight.register_hook(seen.append)

    with standardized_once(layer):
        for batch in x:
            (layer(batch).double().square().mean() / PASSES).backward()
        assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))

    torch.testing.assert_close(layer.weight.grad, expected + 1, rtol=1e-6, atol=1e-6)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected, rtol=1e-6, atol=1e-6)


def test_a_gradient_that_is_not_finite_stays_so() -> None:
    layer = make_layer()
    with standardized_once(layer):
        layer(image()).square().sum().backward()
        layer(image() * math.inf).sum().backward()

    assert layer.weight.grad is not None and not layer.weight.grad.isfinite().all()


def test_frozen_weights_take_no_gradient_and_are_standardized_once() -> None:
    net = nn.Sequential(WSConv2d(3, 8, 3), GroupNorm(8), WSConv2d(8, 8, 3), WSConv2d(8, 8, 3))
    net.double()
    net[2].weight.requires_grad_(False)
    freeze(net[0])
    expected = accumulate(net, images(size=12))

    shared = accumulate(net, images(size=12), standardized_once)

    assert type(net[0]) is FrozenWSConv2d
    assert "2.weight" not in shared and "0.weight" not in shared
    assert worst(shared, expected) < 1e-11
    x = images(size=12)
    assert standardizations(lambda: accumulate(net, x, standardized_once)) == 2


def test_an_error_inside_leaves_nothing_behind() -> None:
    net = net_of()
    expected = accumulate(net, images())

    def fails(x: Tensor) -> Tensor:
        net(x).sum().backward()
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        accumulate(net, images(), standardized_once, fails)

    assert not any("_once" in module.__dict__ for module in net.modules())
    assert worst(accumulate(net, images(), standardized_once), expected) < 1e-11


@pytest.mark.parametrize("when", ["in the next pass", "on settling", "on leaving"])
def test_a_weight_changed_inside_is_refused(when: str) -> None:
    layer = make_layer()
    message = r"kernel of shape \(8, 16, 3, 3\) was changed inside.*take the optimizer step after"

    def misuse() -> None:
        with standardized_once(layer) as once:
            layer(image()).sum().backward()
            with torch.no_grad():
                layer.weight.mul_(2)
            if when == "in the next pass":
                layer(image())
                pytest.fail("it computed with the kernel of old")
            if when == "on settling":
                once.settle()

    with pytest.raises(RuntimeError, match=message):
        misuse()
    assert "_once" not in layer.__dict__


def test_the_steps_of_another_net_are_allowed_inside() -> None:
    layer, other = make_layer(), make_layer()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)

    with standardized_once(layer):
        for _ in range(2):
            other(layer(image()).mean() + image()).sum().backward()
            optimizer.step()

    assert layer.weight.grad is not None


def test_a_net_in_such_a_context_already_is_refused() -> None:
    net = nn.Sequential(make_layer())

    with standardized_once(net):
        with pytest.raises(RuntimeError, match="entered already for this net; leave it first"):
            standardized_once(net[0]).__enter__()
        net(image()).sum().backward()

    assert net[0].weight.grad is not None


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_standardize_by_themselves(name: str) -> None:
    layer = make_layer()
    with standardized_once(layer):
        graph = GRAPHS[name](layer)
        assert torch.allclose(graph(image()), live(layer, image()), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        layer.weight.normal_()
    if name != "export":  # which holds parameters of its own
        assert torch.allclose(graph(image()), live(layer, image()), rtol=1e-5, atol=1e-5)


def test_compiled_layers_and_others_gather_together() -> None:
    net = nn.Sequential(WSConv2d(3, 8, 3), WSConv2d(8, 8, 3)).double()
    compiled = torch.compile(net[0], backend="eager")

    def run(x: Tensor) -> Tensor:
        output: Tensor = net[1](compiled(x))
        return output

    x = images(size=12)
    assert worst(accumulate(net, x, standardized_once, run), accumulate(net, x)) < 1e-11


def test_functional_calls_use_the_kernel_they_bring() -> None:
    layer, other = make_layer(), make_layer()
    assert other.bias is not None
    with standardized_once(layer):
        for weight in (other.weight, other.weight.detach()):
            given = {"weight": weight, "bias": other.bias}
            brought = torch.func.functional_call(layer, given, (image(),))
            torch.testing.assert_close(brought, live(other, image()))


def test_copies_made_inside_share_nothing() -> None:
    layer = make_layer()
    with standardized_once(layer):
        twin = copy.deepcopy(layer)
        twin(image()).sum().backward()

    assert "_once" not in twin.__dict__
    assert twin.weight.grad is not None and layer.weight.grad is None


def test_eval_mode_inside_and_after() -> None:
    layer = make_layer().eval()
    for _ in range(2):
        with standardized_once(layer):
            layer(image()).square().sum().backward()
        with torch.no_grad():
            layer(image())
            layer.weight.normal_()
            assert torch.equal(layer(image()), live(layer, image()))


def test_the_weights_of_two_nets_gather_apart() -> None:
    nets = [make_layer(), make_layer()]
    with standardized_once(nets[0]), standardized_once(nets[1]):
        for net, _ in itertools.product(nets, range(2)):
            net(image()).square().sum().backward()

    assert all(net.weight.grad is not None for net in nets)


@pytest.mark.parametrize("when", ["after settle", "outside"])
def test_a_backward_pass_that_comes_too_late_is_refused(when: str) -> None:
    net, x = WSConv2d(3, 8, 3), torch.randn(1, 3, 8, 8)

    with standardized_once(net) as once:
        loss = net(x).square().mean()
        if when == "after settle":
            once.settle()
            with pytest.raises(RuntimeError, match="settled already; run the backward pass inside"):
                loss.backward()
    if when == "outside":
        with pytest.raises(RuntimeError, match="settled already; run the backward pass inside"):
            loss.backward()
    assert net.weight.grad is None


def test_a_weight_frozen_inside_is_refused() -> None:
    net = WSConv2d(3, 8, 3)

    def step() -> None:
        with standardized_once(net):
            net(torch.randn(1, 3, 8, 8)).square().mean().backward()
            net.weight.requires_grad_(False)

    with pytest.raises(RuntimeError, match="was changed inside standardized_once"):
        step()
