"""The paths of GroupNorm on the CPU: which is taken, that it is exact, what keeps working."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.layers import BatchChannelNorm, GroupNorm, group_norm, group_norm_cpu

SMALL, BIG = group_norm._ON_SMALL_MAPS, group_norm._ON_BIG_MAPS
# Shape, groups, and the passes of half precision. Image by image goes what has 2**16 numbers
# forward and 2**17 backward, or is alone; the rest goes in tiles of several.
MAPS: dict[str, tuple[tuple[int, int, int, int], int, Any]] = {
    "tiles": ((6, 64, 9, 7), 32, SMALL),
    "one tile is not full": ((5, 128, 30, 30), 32, SMALL),
    "image by image forward": ((2, 256, 18, 17), 32, SMALL),
    "image by image": ((2, 256, 31, 31), 32, SMALL),
    "one image": ((1, 64, 13, 12), 32, SMALL),
    "big map": ((3, 64, 33, 32), 32, BIG),
    "rows of two tiles": ((1, 64, 100, 90), 32, BIG),
    "odd groups": ((3, 72, 11, 13), 24, SMALL),
}
STOCK = {  # maps that PyTorch's own passes are left to
    (name, torch.float32) for name in ("image by image forward", "image by image", "one image")
}
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def relative(actual: Tensor, expected: Tensor) -> float:
    difference = (actual.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Channels that differ in mean, as activations do, and are far from centred."""
    levels = 3 * torch.randn(shape[1], 1, 1) + 2
    return (torch.randn(shape) + levels).to(dtype).contiguous(memory_format=torch.channels_last)


def affine(channels: int) -> tuple[Tensor, Tensor]:
    return torch.rand(channels) + 0.5, torch.randn(channels)


def passes(norm: Any, *inputs: Tensor, upstream: Tensor) -> list[Tensor]:
    """What ``norm`` returns, and the gradient of each input."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = norm(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out.dtype))]


def ours(groups: int, eps: float = 1e-5) -> Any:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        result = group_norm.group_norm(x, groups, weight, bias, eps)
        assert result is not None
        return result

    return run


def exact(x: Tensor, weight: Tensor, bias: Tensor, upstream: Tensor, groups: int) -> list[Tensor]:
    inputs = (x.double().contiguous(), weight.double(), bias.double())
    return passes(lambda x, w, b: F.group_norm(x, groups, w, b), *inputs, upstream=upstream)


def test_stock_passes_are_taken_where_they_are_fast_enough() -> None:
    chosen = {
        (name, dtype): group_norm.choose(channels_last(*shape, dtype=dtype), groups)
        for name, (shape, groups, _) in MAPS.items()
        for dtype in ROUNDING
    }
    assert {case for case, kernels in chosen.items() if kernels is None} == STOCK


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in MAPS for dtype in ROUNDING if (name, dtype) not in STOCK],
)
def test_every_path_is_exact_to_the_rounding_of_its_dtype(
    name: str, dtype: torch.dtype, scale: float
) -> None:
    shape, groups, path = MAPS[name]
    x = (channels_last(*shape) * scale).to(dtype)
    weight, bias = affine(shape[1])
    upstream = channels_last(*shape, dtype=dtype)

    results = passes(ours(groups), x, weight, bias, upstream=upstream)

    expected = exact(x, weight, bias, upstream, groups)
    names = ("y", "dx", "dweight", "dbias")
    errors = dict(zip(names, map(relative, results, expected), strict=True))
    assert results[0].dtype == results[1].dtype == dtype
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    # Over thousands of pixels BatchNorm's sums cost float32 a little, and the squares that
    # PyTorch's forward pass adds up uncentred cost half precision a little.
    is_big = path is BIG
    of_map = 4e-6 if is_big and dtype == torch.float32 else ROUNDING[dtype]
    of_affine = 4e-6 if dtype == torch.float32 else 5e-5 if is_big else 5e-6
    assert errors["y"] < of_map and errors["dx"] < of_map, errors
    assert errors["dweight"] < of_affine and errors["dbias"] < 2e-6, errors


@pytest.mark.parametrize("name", MAPS)
def test_both_ways_through_memory_agree(name: str) -> None:
    shape, groups, _ = MAPS[name]
    x, upstream = channels_last(*shape), channels_last(*shape)
    weight, bias = affine(shape[1])

    whole = group_norm_cpu._normalize_by_image(x, groups, weight, bias, 1e-5)
    parts = group_norm_cpu._normalize_in_tiles(x, groups, weight, bias, 1e-5)
    mean, rstd = (moment.unsqueeze(2) for moment in parts[1:])
    whole_gradients = group_norm_cpu._gradients_by_image(upstream, x, mean, rstd, weight)
    part_gradients = group_norm_cpu._gradients_in_tiles(upstream, x, mean, rstd, weight)

    for pair in (
        *zip(whole, parts, strict=True),
        *zip(whole_gradients, part_gradients, strict=True),
    ):
        assert relative(*pair) < 3e-6


def test_the_mean_of_a_group_may_be_far_from_zero() -> None:
    x = (channels_last(6, 64, 9, 9) + 1000).contiguous(memory_format=torch.channels_last)
    weight, bias = affine(64)

    expected = F.group_norm(x.double(), 32, weight.double(), bias.double())

    assert relative(ours(32)(x, weight, bias), expected) < 3e-5
    stock = F.group_norm(x, 32, weight, bias)
    assert relative(stock, expected) > 1e-3, "what summing squares as they are would give"


def test_constant_maps_give_the_shift_and_finite_gradients() -> None:
    x = torch.full((4, 64, 8, 8), 300.0).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias = affine(64)

    results = passes(ours(32), x, weight, bias, upstream=torch.ones_like(x))

    assert all(bool(tensor.isfinite().all()) for tensor in results)
    assert relative(results[0], bias[:, None, None].expand(64, 8, 8)) < 2**-8


@pytest.mark.parametrize(("dtype", "shape", "groups", "expected"), [
    *((torch.bfloat16, shape, groups, path) for shape, groups, path in MAPS.values()),
    (torch.float16, (8, 64, 28, 28), 32, SMALL),
    (torch.float32, (8, 128, 28, 28), 32, SMALL),
    (torch.float32, (8, 64, 56, 56), 32, SMALL),
    (torch.float32, (8, 256, 28, 28), 32, None),  # as fast with 8 channels per group
    (torch.float64, (8, 64, 28, 28), 32, None),
    (torch.bfloat16, (8, 512, 28, 28), 32, None),  # as fast with 16 channels per group
    (torch.bfloat16, (2, 64, 7, 7), 32, None),  # too small
    (torch.bfloat16, (0, 64, 28, 28), 32, None),
    (torch.bfloat16, (64, 256, 1, 1), 32, None),  # any layout
])  # fmt: skip
def test_pytorchs_kernels_stay_where_they_are_as_fast(
    dtype: torch.dtype, shape: tuple[int, ...], groups: int, expected: Any
) -> None:
    x = torch.zeros(shape, dtype=dtype)

    assert group_norm.choose(x.contiguous(memory_format=torch.channels_last), groups) is expected
    assert group_norm.choose(x, groups) is None, "contiguous"


def test_other_layouts_stay_with_pytorch() -> None:
    x = torch.zeros(4, 64, 28, 56).bfloat16().contiguous(memory_format=torch.channels_last)

    assert group_norm.choose(x[..., ::2], 32) is None
    assert group_norm.choose(torch.zeros(4, 64, 28).bfloat16(), 32) is None
    volume = torch.zeros(2, 64, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    assert group_norm.choose(volume.bfloat16(), 32) is None


def test_the_layer_takes_the_path() -> None:
    norm = GroupNorm(64)
    x = channels_last(4, 64, 16, 16, dtype=torch.bfloat16)
    weight, bias = affine(64)
    norm.load_state_dict({"weight": weight, "bias": bias})

    out = norm(x.requires_grad_())

    assert type(out.grad_fn).__name__ == "_GroupNormBackward"
    assert torch.equal(out, ours(32)(x, weight, bias))
    assert GroupNorm(64, affine=False)(x).dtype == torch.bfloat16
    assert relative(BatchChannelNorm(64).eval()(x), F.group_norm(x.double(), 32)) < 2**-7


def test_a_gradient_of_another_layout_is_laid_out_anew() -> None:
    x = channels_last(4, 64, 16, 16, dtype=torch.bfloat16)
    weight, bias = affine(64)
    upstream = torch.randn(4, 64, 16, 16).bfloat16().transpose(2, 3)

    results = passes(ours(32), x, weight, bias, upstream=upstream)

    assert relative(results[1], exact(x, weight, bias, upstream, 32)[1]) < 2**-8


def test_autocast_changes_nothing() -> None:
    x = channels_last(4, 64, 16, 16, dtype=torch.bfloat16)
    weight, bias = affine(64)
    upstream = torch.randn_like(x)
    plain = passes(ours(32), x, weight, bias, upstream=upstream)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = passes(ours(32), x, weight, bias, upstream=upstream)

    assert all(map(torch.equal, plain, mixed))


def test_the_input_means_and_deviations_are_all_that_is_saved() -> None:
    norm = GroupNorm(64)
    x = channels_last(4, 64, 16, 16, dtype=torch.bfloat16).requires_grad_()
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        norm(x)

    memory = {tensor.untyped_storage().data_ptr(): tensor for tensor in saved}
    owned = {p.untyped_storage().data_ptr() for p in (x, *norm.parameters())}
    assert x.untyped_storage().data_ptr() in memory
    rest = [tensor for address, tensor in memory.items() if address not in owned]
    assert sum(tensor.untyped_storage().nbytes() for tensor in rest) <= 2 * 4 * 4 * 32


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_the_gradients_asked_for_come_back(wanted: tuple[int, ...]) -> None:
    inputs = [channels_last(4, 64, 16, 16), *affine(64)]
    for index in wanted:
        inputs[index].requires_grad_()

    ours(32)(*inputs).square().sum().backward()

    assert [index for index in range(3) if inputs[index].grad is not None] == [*wanted]


@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)])
def test_gradients_can_be_differentiated_again(frozen: tuple[int, ...]) -> None:
    def second(norm: Any, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(1)
        inputs = [tensor.to(dtype) for tensor in (channels_last(2, 64, 12, 11), *affine(64))]
        leaves = [
            tensor.detach().requires_grad_()
            for index, tensor in enumerate(inputs)
            if index not in frozen
        ]
        free = iter(leaves)
        given = [tensor if index in frozen else next(free) for index, tensor in enumerate(inputs)]
        first = torch.autograd.grad(norm(*given).pow(3).sum(), leaves, create_graph=True)
        total = torch.stack([gradient.square().sum() for gradient in first]).sum()
        return [*first, *torch.autograd.grad(total, leaves)]

    results = second(ours(32), torch.float32)

    expected = second(lambda x, w, b: F.group_norm(x, 32, w, b), torch.float64)
    for result, reference in zip(results, expected, strict=True):
        assert relative(result, reference) < 1e-5


def test_two_threads_share_no_buffers() -> None:
    inputs = [channels_last(8, 64, 28, 28, dtype=torch.bfloat16) for _ in range(2)]
    weight, bias = affine(64)
    expected = [passes(ours(32), x, weight, bias, upstream=x) for x in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            results = passes(ours(32), inputs[index], weight, bias, upstream=inputs[index])
            if not all(map(torch.equal, results, expected[index])):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_buffers_that_are_kept_stay_small_on_big_maps(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = group_norm_cpu._Scratch()
    monkeypatch.setattr(group_norm_cpu, "_scratch", scratch)
    x = channels_last(1, 64, 200, 300, dtype=dtype)

    passes(ours(32), x, *affine(64), upstream=x)

    assert scratch.memory.numel() <= 2 * group_norm_cpu._TILE


# Recording, transforming, copying


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_compute_the_same(again: Any) -> None:
    norm = GroupNorm(64)
    x = channels_last(4, 64, 16, 16, dtype=torch.bfloat16)

    assert torch.equal(again(norm)(x), norm(x))


@pytest.mark.parametrize("convert", [
    lambda norm, x: torch.fx.symbolic_trace(norm),
    lambda norm, x: torch.jit.script(norm),
    lambda norm, x: torch.jit.trace(norm, x),
    lambda norm, x: torch.export.export(norm, (x,)).module(),
    lambda norm, x: torch.export.export(norm, (x,), strict=True).module(),
    lambda norm, x: torch.compile(norm, fullgraph=True, backend="aot_eager"),
    lambda norm, x: torch.fx.experimental.proxy_tensor.make_fx(norm)(x),
], ids=["fx", "script", "trace", "export", "strict export", "compile", "make_fx"])  # fmt: skip
def test_recorded_norms_compute_the_same(convert: Any) -> None:
    norm = GroupNorm(64)
    x = channels_last(4, 64, 12, 12)

    with torch.no_grad():
        converted = convert(norm, x)
        assert relative(converted(x), norm(x)) < 1e-5


def test_a_recorded_norm_is_pytorchs_operator() -> None:
    x = channels_last(4, 64, 12, 12)

    program = torch.export.export(GroupNorm(64), (x,))

    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called == {"aten.group_norm.default"}


def test_function_transforms_differentiate_the_norm() -> None:
    x, (weight, bias) = channels_last(4, 64, 12, 12), affine(64)
    norm = GroupNorm(64)
    norm.load_state_dict({"weight": weight, "bias": bias})

    gradient = torch.func.grad(lambda given: norm(given).pow(3).sum())(x)

    (expected,) = torch.autograd.grad(norm(x.requires_grad_()).pow(3).sum(), x)
    assert relative(gradient, expected) < 1e-5


@pytest.mark.parametrize("device", ["meta", "fake"])
def test_maps_without_numbers_pass(device: str) -> None:
    with torch._subclasses.FakeTensorMode() if device == "fake" else torch.device("meta"):
        norm = GroupNorm(64)
        x = torch.empty(2, 64, 16, 16, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        norm(x).sum().backward()

    assert x.grad is not None and x.grad.shape == x.shape


@pytest.mark.parametrize("shape", [(0, 64, 16, 16), (2, 64, 1, 1), (1, 64, 16, 16)])
def test_odd_batches_pass(shape: tuple[int, ...]) -> None:
    x = channels_last(*shape, dtype=torch.bfloat16).requires_grad_()

    GroupNorm(64)(x).sum().backward()

    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_inference_mode_computes_the_same_and_training_may_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_norm_cpu, "_scratch", group_norm_cpu._Scratch())
    norm, x = GroupNorm(64), channels_last(4, 64, 16, 16, dtype=torch.bfloat16)

    with torch.inference_mode():
        out = norm(x.clone())

    trained = norm(x.requires_grad_())
    trained.sum().backward()
    assert torch.equal(out, trained)


def test_a_map_of_other_channels_gets_pytorchs_message() -> None:
    x = channels_last(4, 32, 28, 28, dtype=torch.bfloat16)

    with pytest.raises(RuntimeError, match="Expected weight to be a vector of size"):
        GroupNorm(64)(x)
    with pytest.raises(RuntimeError, match="divisible by num_groups"):
        nn.GroupNorm.forward(GroupNorm(64), x[:, :31])
    with pytest.raises(RuntimeError, match="divisible by num_groups"):
        GroupNorm(64, affine=False)(x[:, :31].contiguous(memory_format=torch.channels_last))


def test_a_norm_that_is_applied_twice_has_one_gradient_with_and_without_a_graph() -> None:
    torch.manual_seed(0)
    norm, x = GroupNorm(64), channels_last(2, 64, 12, 11)

    def found(create_graph: bool) -> tuple[Tensor, ...]:
        total = norm(torch.tanh(norm(x))).pow(3).sum()
        return torch.autograd.grad(total, [*norm.parameters()], create_graph=create_graph)

    for with_graph, without in zip(found(True), found(False), strict=True):
        assert relative(with_graph.detach(), without) < 1e-4
