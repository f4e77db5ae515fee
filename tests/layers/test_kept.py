"""In eval mode kernels are standardized once, and notice whatever happens to a weight."""

import copy
import io
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from tests.layers.standardizations import (
    CHANGES,
    GRAPHS,
    image,
    live,
    make_layer,
    standardizations,
)
from wszoo.layers import FORMULAS, WSConv2d, fold, freeze, keep_kernels, refresh


def run(layer: nn.Module, x: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        output: Tensor = layer(image() if x is None else x)
        return output


def resting(formula: str = "jhu") -> WSConv2d:
    """A layer in eval mode that keeps a kernel."""
    layer = make_layer(formula).eval()
    run(layer)
    assert "_kept" in layer.__dict__
    return layer


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_repeated_call_without_gradients_standardizes_nothing(mode: Callable[[], Any]) -> None:
    net = timm.create_model("test_resnet_gn_ws").eval()
    convs = sum(isinstance(module, WSConv2d) for module in net.modules())
    x = torch.randn(1, 3, 32, 32)

    with mode():
        assert standardizations(lambda: net(x)) == convs
        assert standardizations(lambda: net(x)) == 0


def test_so_does_a_teacher_whose_weights_take_no_gradient() -> None:
    teacher = make_layer().eval().requires_grad_(False)
    x = image().requires_grad_()
    teacher(x)

    assert standardizations(lambda: teacher(x)) == 0
    teacher(x).sum().backward()
    assert x.grad is not None


def test_with_a_gradient_asked_for_every_pass_standardizes() -> None:
    layer = resting()

    assert standardizations(lambda: layer(image())) == 1
    layer(image()).square().sum().backward()
    assert layer.weight.grad is not None


def test_in_training_mode_every_pass_standardizes() -> None:
    layer = make_layer().train()
    run(layer)

    assert standardizations(lambda: run(layer)) == 1
    assert "_kept" not in layer.__dict__


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_kept_kernel_computes_every_bit_of_a_fresh_one(
    formula: str, memory_format: torch.memory_format
) -> None:
    layer = make_layer(formula).to(memory_format=memory_format)
    x = image().to(memory_format=memory_format)
    expected = run(layer.train(), x)

    layer.eval()

    assert torch.equal(run(layer, x), expected)
    assert torch.equal(run(layer, x), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_layer_of_any_precision_keeps_its_kernel_in_it(dtype: torch.dtype) -> None:
    layer = make_layer().to(dtype).eval()

    assert torch.equal(run(layer, image(dtype)), live(layer, image(dtype)))
    assert torch.equal(run(layer, image(dtype)), live(layer, image(dtype)))
    assert layer.__dict__["_kept"].kernel.dtype == dtype


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float64, torch.float16])
def test_under_autocast_what_is_kept_is_cast_already(weight_dtype: torch.dtype) -> None:
    layer = make_layer().to(weight_dtype).eval()
    x = image(weight_dtype)
    cast = torch.float64 if weight_dtype is torch.float64 else torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = run(layer.train(), x)
        layer.eval()

        assert torch.equal(run(layer, x), expected)
        assert torch.equal(run(layer, x), expected)
        assert layer.__dict__["_kept"].kernel.dtype == cast
        assert standardizations(lambda: run(layer, x)) == 0
    assert torch.equal(run(layer, x), live(layer, x))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_happens_to_the_weight_is_noticed(change: Callable[[Any], object]) -> None:
    layer = resting()
    with torch.no_grad():  # first, lest the change be one of version as well
        layer.weight = nn.Parameter(layer.weight.clone())
    run(layer)

    change(layer)

    torch.testing.assert_close(run(layer), live(layer, image()), rtol=1e-6, atol=1e-6)
    assert standardizations(lambda: run(layer)) == 0


def test_a_weight_cut_down_in_place_is_noticed() -> None:
    layer = make_layer().eval()
    layer.bias = None
    run(layer)

    layer.weight.data = layer.weight.data[:4]

    assert run(layer).shape[1] == 4


def test_a_weight_replaced_by_another_name_of_its_memory_is_noticed() -> None:
    layer = resting()
    CHANGES["write"](layer)
    run(layer)
    version = layer.weight._version

    layer.weight = nn.Parameter(layer.weight.data)  # which starts at version 0
    while layer.weight._version < version:
        CHANGES["write"](layer)

    assert torch.equal(run(layer), live(layer, image()))


@pytest.mark.parametrize("change", [
    lambda layer: layer.half(),
    lambda layer: layer.to("meta"),
    lambda layer: layer.load_state_dict(layer.state_dict()),
    refresh,
])  # fmt: skip
def test_the_memory_is_given_back_at_once(change: Callable[[WSConv2d], object]) -> None:
    layer = resting()
    kernel = weakref.ref(layer.__dict__["_kept"].kernel)

    change(layer)

    assert kernel() is None


@pytest.mark.parametrize("mode", [False, True])
def test_train_and_eval_drop_what_is_kept(mode: bool) -> None:
    layer = resting()
    kernel = weakref.ref(layer.__dict__["_kept"].kernel)
    layer.weight.data[3].normal_()  # not noticed otherwise

    nn.Sequential(layer).train(mode)

    assert kernel() is None
    assert torch.equal(run(layer), live(layer, image()))


def test_a_write_through_data_takes_a_refresh() -> None:
    layer = resting()
    net = nn.Sequential(layer)
    before = run(net)
    layer.weight.data[3].normal_()

    assert torch.equal(run(net), before), "noticed: say so where wszoo.refresh is described"
    assert refresh(net) is net
    assert torch.equal(run(net), live(layer, image()))


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda layer: torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False),
    "foreach SGD": lambda layer: torch.optim.SGD(layer.parameters(), lr=0.1, foreach=True),
    "fused SGD": lambda layer: torch.optim.SGD(layer.parameters(), lr=0.1, fused=True),
    "fused AdamW": lambda layer: torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True),
    "timm's LAMB": lambda layer: create_optimizer_v2(layer, opt="lamb", lr=0.1),
    "timm's Lookahead": lambda layer: create_optimizer_v2(layer, opt="lookahead_sgd", lr=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_the_step_of_an_optimizer_is_noticed(
    make: Callable[[nn.Module], torch.optim.Optimizer],
) -> None:
    layer = resting()
    optimizer = make(layer)
    for _ in range(7):  # Lookahead looks back at the sixth
        layer(image()).square().sum().backward()
        before = run(layer)
        optimizer.step()

        assert not torch.equal(run(layer), before)
        assert torch.equal(run(layer), live(layer, image()))


def test_a_moving_average_written_through_data_is_noticed_after_the_step_it_follows() -> None:
    layer, average = make_layer(), resting()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        layer(image()).square().sum().backward()
        optimizer.step()
        for mean, value in zip(average.parameters(), layer.parameters(), strict=True):
            mean.data.mul_(0.5).add_(value.data, alpha=0.5)

        assert torch.equal(run(average), live(average, image()))


@pytest.mark.slow
def test_a_compiled_step_of_an_optimizer_is_noticed() -> None:
    layer = resting()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        layer(image()).square().sum().backward()
        step()

        assert torch.equal(run(layer), live(layer, image()))


def test_the_state_dict_holds_the_raw_kernel_alone() -> None:
    layer = make_layer().eval()
    raw = copy.deepcopy(layer.state_dict())

    run(layer)

    assert list(layer.state_dict()) == ["weight", "bias"] and not list(layer.buffers())
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert all(torch.equal(tensor, raw[key]) for key, tensor in layer.state_dict().items())


def test_a_first_pass_in_inference_mode_does_not_spoil_training() -> None:
    layer, x = make_layer().eval().requires_grad_(False), image().requires_grad_()
    with torch.inference_mode():
        layer(image())

    layer(x).sum().backward()

    assert x.grad is not None


def test_a_layer_made_in_inference_mode_works_and_keeps_nothing() -> None:
    with torch.inference_mode():
        layer = make_layer().eval()
        layer(image())
        layer.weight.normal_()

        assert torch.equal(layer(image()), live(layer, image()))
        assert "_kept" not in layer.__dict__


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
    lambda layer: WSConv2d.from_conv(layer, layer.formula),
    lambda layer: layer.fuse(),
    freeze,
])  # fmt: skip
def test_copies_carry_no_kept_kernel(again: Callable[[WSConv2d], nn.Module]) -> None:
    layer = resting()
    before = run(layer)

    twin = again(layer)

    assert "_kept" not in twin.__dict__
    assert torch.equal(run(twin), before)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_keep_nothing(name: str) -> None:
    layer = resting()
    with torch.no_grad():
        graph = GRAPHS[name](layer)
    torch.testing.assert_close(run(graph), live(layer, image()), rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]
    assert torch.equal(run(layer), live(layer, image()))

    CHANGES["write"](layer)

    assert torch.equal(run(layer), live(layer, image()))
    if name != "export":  # which holds parameters of its own
        torch.testing.assert_close(run(graph), live(layer, image()), rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]


def test_a_graph_of_operators_contains_the_standardization() -> None:
    layer = resting()

    def call(x: Tensor) -> Tensor:
        return run(layer, x)

    for mode in ("real", "fake"):
        graph: Any = make_fx(call, tracing_mode=mode, _allow_non_fake_inputs=True)(image())

        names = [str(node.target) for node in graph.graph.nodes]
        assert any("group_norm" in name for name in names), mode
    assert torch.equal(run(layer), live(layer, image()))


def test_functional_calls_and_transforms_use_the_kernel_they_bring() -> None:
    layer = resting()
    expected = run(layer)
    kernels, x = torch.randn(3, 8, 16, 3, 3), image()

    def brought(weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    with torch.no_grad():
        together = torch.vmap(brought)(kernels)
        for kernel, output in zip(kernels, together, strict=True):
            for given in (kernel, nn.Parameter(kernel)):
                torch.testing.assert_close(output, brought(given), rtol=1e-5, atol=1e-5)
    gradient = torch.func.grad(lambda weight: brought(weight).square().sum())(kernels[0])
    assert gradient.abs().max() > 0
    assert torch.equal(run(layer), expected)


def test_a_first_pass_inside_a_transform_leaves_nothing_to_later_ones() -> None:
    layer = make_layer().eval().requires_grad_(False)
    x = torch.stack([image(), image() + 1])

    together = torch.vmap(layer)(x)
    slope = torch.func.grad(lambda given: layer(given).square().sum())(x[0])

    assert "_kept" not in layer.__dict__
    torch.testing.assert_close(together[1], run(layer, x[1]), rtol=1e-5, atol=1e-5)
    assert slope.abs().max() > 0


def test_a_parametrized_weight_is_followed() -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.square()

    layer = resting()
    nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    run(layer)
    layer.parametrizations["weight"].original.data[3].normal_()  # type: ignore[index, union-attr]

    assert torch.equal(run(layer), live(layer, image()))


def test_fake_tensors_are_not_kept() -> None:
    layer = make_layer().eval()

    with FakeTensorMode(allow_non_fake_inputs=True):
        run(layer, torch.randn(1, 16, 8, 8))

    assert "_kept" not in layer.__dict__
    assert torch.equal(run(layer), live(layer, image()))


def test_a_kernel_of_another_type_is_not_kept() -> None:
    class Wrapped(Tensor):
        pass

    class Wrapping(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            return result.as_subclass(Wrapped) if type(result) is Tensor else result

    layer = make_layer().eval()
    with Wrapping():
        assert type(run(layer)) is Wrapped

    assert type(run(layer)) is Tensor


def test_threads_that_start_together_all_get_the_right_kernel() -> None:
    layer = make_layer().eval()
    start = threading.Barrier(4)
    right: list[bool] = []

    def work() -> None:
        for _ in range(20):
            if start.wait() == 0:
                CHANGES["write"](layer)
                expected.append(live(layer, image()))
            start.wait()
            right.extend(torch.equal(run(layer), expected[-1]) for _ in range(3))

    expected: list[Tensor] = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(right) == 4 * 20 * 3 and all(right)


def test_a_weight_that_changes_while_it_is_standardized_is_standardized_again() -> None:
    class Slow(WSConv2d):
        def _standardized(self) -> Tensor:
            kernel = super()._standardized()
            CHANGES["write"](self)  # as another thread might
            return kernel

    layer = Slow(16, 8, 3, padding=1).eval()
    run(layer)

    assert standardizations(lambda: run(layer)) == 1


def test_keeping_can_be_turned_off_and_on_again() -> None:
    net = nn.Sequential(resting(), nn.ReLU())

    assert keep_kernels(net, False) is net
    assert standardizations(lambda: run(net)) == 1
    assert "_kept" not in net[0].__dict__
    assert not copy.deepcopy(net)[0].keep_kernel
    assert not hasattr(fold(copy.deepcopy(net))[0], "keep_kernel")

    keep_kernels(net)
    run(net)
    assert standardizations(lambda: run(net)) == 0


def test_frozen_layers_keep_nothing_either_where_that_is_off() -> None:
    layer = keep_kernels(freeze(make_layer()), False)
    layer(image())

    assert standardizations(lambda: layer(image())) == 1


@pytest.mark.gpu
def test_a_cuda_graph_standardizes_by_itself() -> None:
    layer, x = resting().cuda(), image().cuda()
    run(layer, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run(layer, x)

    CHANGES["write"](layer)
    graph.replay()

    torch.testing.assert_close(output, live(layer, x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(layer, x), live(layer, x), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_a_kernel_made_on_one_stream_is_there_for_another() -> None:
    layer, x = make_layer().cuda().eval(), image().cuda()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    for _ in range(20):
        CHANGES["write"](layer)
        torch.cuda.synchronize()
        with torch.cuda.stream(first):
            torch.cuda._sleep(10_000_000)
            run(layer, x)
        with torch.cuda.stream(second):
            output = run(layer, x)
        torch.cuda.synchronize()

        torch.testing.assert_close(output, live(layer, x), rtol=1e-4, atol=1e-4)


def test_a_frozen_layer_without_memory_can_be_described() -> None:
    with torch.device("meta"):
        conv = WSConv2d(3, 4, 3)
        freeze(conv)

        assert conv(torch.empty(1, 3, 8, 8)).is_meta
