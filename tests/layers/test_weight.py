"""The WS operator against an obvious float64 reference, and the convolution around it."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wszoo.layers import FORMULAS, WSConv2d, WSFormula, formula_name, standardize_weight, to_formula

# What each formula divides a centred filter by, given its unbiased and its biased variance.
PUBLISHED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "jhu": lambda unbiased, biased: unbiased.sqrt() + 1e-5,
    "tf": lambda unbiased, biased: biased.sqrt() + 1e-5,
    "bcn": lambda unbiased, biased: (unbiased + 1e-5).sqrt(),
    "bit": lambda unbiased, biased: (biased + 1e-10).sqrt(),
    "timm": lambda unbiased, biased: (biased + 1e-6).sqrt(),
    "timm_bit": lambda unbiased, biased: (biased + 1e-8).sqrt(),
}
SHAPES = {
    "1x1": (8, 64, 1, 1),
    "3x3": (8, 16, 3, 3),
    "grouped": (32, 4, 3, 3),
    "7x7 stem": (8, 3, 7, 7),
    "depthwise": (12, 1, 3, 3),
}
FORMATS = (torch.contiguous_format, torch.channels_last)


def reference(weight: Tensor, name: str) -> Tensor:
    """One filter at a time, in float64."""
    filters = []
    for kernel in weight.double():
        elements = kernel.numel()
        centred = kernel - kernel.sum() / elements
        squares = (centred * centred).sum()
        filters.append(centred / PUBLISHED[name](squares / (elements - 1), squares / elements))
    return torch.stack(filters)


def make_weight(shape: tuple[int, ...], scale: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Filters off zero mean whose deviations lie within a factor of four around ``scale``."""
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=generator, dtype=dtype) + 0.3
    spread = torch.rand(shape[0], 1, 1, 1, generator=generator, dtype=dtype)
    return weight * scale * 4 ** (spread - 0.5)


def relative(actual: Tensor, expected: Tensor) -> float:
    difference = (actual.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-3])
@pytest.mark.parametrize("name", PUBLISHED)
def test_each_formula_is_the_published_arithmetic(
    name: str, scale: float, shape: tuple[int, ...]
) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        weight = make_weight(shape, scale, dtype)
        expected = reference(weight, name)
        for memory_format in FORMATS:
            laid_out = weight.to(memory_format=memory_format)

            result = standardize_weight(laid_out, name)

            assert result.dtype == dtype
            assert result.shape == weight.shape
            assert result.is_contiguous(memory_format=memory_format)
            assert relative(result, expected) <= tolerance


def test_every_formula_is_tested_here() -> None:
    assert set(FORMULAS) == set(PUBLISHED)


def test_formulas_differ_visibly_on_small_filters() -> None:
    weight = make_weight((8, 16, 3, 3), 1e-3)
    results = {name: standardize_weight(weight, name) for name in FORMULAS}

    for one, other in itertools.combinations(FORMULAS, 2):
        assert relative(results[one], results[other]) > 1e-3, (one, other)


def test_formula_timm_is_that_of_timms_own_layer() -> None:
    theirs = timm.layers.StdConv2d(16, 8, 3, padding=1).double()
    with torch.no_grad():
        theirs.weight.mul_(1e-3)
    ours = WSConv2d.from_conv(theirs, "timm")
    x = torch.randn(1, 16, 8, 8, dtype=torch.float64)

    assert relative(ours(x), theirs(x)) < 1e-12


@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-3])
@pytest.mark.parametrize("name", PUBLISHED)
def test_gradient_is_that_of_the_published_arithmetic(name: str, scale: float) -> None:
    for shape in SHAPES.values():
        upstream = torch.randn(shape)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
            weight = make_weight(shape, scale, dtype)
            exact = weight.double().requires_grad_()
            (expected,) = torch.autograd.grad(reference(exact, name), exact, upstream.double())
            for memory_format in FORMATS:
                leaf = weight.to(memory_format=memory_format).requires_grad_()

                (gradient,) = torch.autograd.grad(
                    standardize_weight(leaf, name), leaf, upstream.to(dtype)
                )

                assert gradient.dtype == dtype
                assert relative(gradient, expected) <= tolerance


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("eps", [1e-5, 0.3])  # the latter large enough to bend the derivatives
@pytest.mark.parametrize("eps_inside", [False, True])
@pytest.mark.parametrize("unbiased", [False, True])
def test_first_and_second_derivatives_pass_gradcheck(
    unbiased: bool, eps_inside: bool, eps: float, memory_format: torch.memory_format
) -> None:
    weight = make_weight((2, 2, 2, 2), 0.5, torch.float64)
    leaf = weight.to(memory_format=memory_format).requires_grad_()

    def standardize(w: Tensor) -> Tensor:
        return standardize_weight(w, WSFormula(unbiased, eps, eps_inside))

    assert torch.autograd.gradcheck(standardize, (leaf,))
    assert torch.autograd.gradgradcheck(standardize, (leaf,))


@pytest.mark.parametrize("name", PUBLISHED)
def test_gradient_is_the_same_with_and_without_a_graph_of_its_own(name: str) -> None:
    leaf = make_weight((8, 16, 3, 3), 1e-3, torch.float64).requires_grad_()
    upstream = torch.randn_like(leaf)

    (closed_form,) = torch.autograd.grad(standardize_weight(leaf, name), leaf, upstream)
    (differentiable,) = torch.autograd.grad(
        standardize_weight(leaf, name), leaf, upstream, create_graph=True
    )

    assert differentiable.requires_grad
    assert relative(closed_form, differentiable) < 1e-12


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -3e4, 1e15])
def test_constant_filters_stay_finite(value: float, name: str) -> None:
    leaf = torch.full((4, 512, 3, 3), value).requires_grad_()
    upstream = torch.randn_like(leaf)

    result = standardize_weight(leaf, name)
    (gradient,) = torch.autograd.grad(result, leaf, upstream)

    assert result.isfinite().all()
    assert gradient.isfinite().all()
    if value in (0.0, 1.0):  # of these the mean is exact, so that eps alone is left to divide by
        zero = torch.zeros((), dtype=torch.float64)
        centred = upstream.double() - upstream.double().mean(dim=(1, 2, 3), keepdim=True)
        assert not result.any()
        assert relative(gradient, centred / PUBLISHED[name](zero, zero)) < 1e-5


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("ratio", [1.0, 10.0, 1e2, 1e3, 1e4])
def test_filters_far_from_zero_lose_no_more_digits_than_their_means_take(
    ratio: float, name: str
) -> None:
    """Of float32 numbers with a mean of R deviations, R roundings are all that is known."""
    weight = 0.02 * (torch.randn(4, 64, 3, 3) + ratio)
    leaf, exact = weight.clone().requires_grad_(), weight.double().requires_grad_()
    upstream = torch.randn_like(weight)

    result, expected = standardize_weight(leaf, name), reference(exact, name)
    (gradient,) = torch.autograd.grad(result, leaf, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream.double())

    assert relative(result, expected) < 1e-6 * max(ratio, 1)
    assert relative(gradient, expected_gradient) < 1e-6 * max(ratio, 1)


def test_the_gradient_of_all_but_constant_filters_is_not_made_of_rounding() -> None:
    weight = torch.full((4, 64, 3, 3), 0.1)
    weight[:, 0] += 1e-8  # the next number up
    leaf, upstream = weight.requires_grad_(), torch.randn_like(weight)

    (gradient,) = torch.autograd.grad(standardize_weight(leaf), leaf, upstream)

    steepest = (upstream - upstream.mean(dim=(1, 2, 3), keepdim=True)) / 1e-5
    assert relative(gradient, steepest) < 0.05


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("exponent", range(-12, 16, 3))
def test_tiny_and_huge_filters_keep_their_accuracy(exponent: int, name: str) -> None:
    weight = make_weight((4, 512, 3, 3), 10.0**exponent)
    leaf, exact = weight.clone().requires_grad_(), weight.double().requires_grad_()
    upstream = torch.randn_like(weight)

    result, expected = standardize_weight(leaf, name), reference(exact, name)
    (gradient,) = torch.autograd.grad(result, leaf, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream.double())

    assert relative(result, expected) < 1e-5
    assert relative(gradient, expected_gradient) < 1e-5


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_zero_filter_stays_zero(name: str) -> None:
    weight = make_weight((8, 16, 3, 3), 0.02)
    weight[3] = 0

    result = standardize_weight(weight, name)

    assert not result[3].any()
    assert result[4].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_have_float32_statistics(dtype: torch.dtype) -> None:
    weight = make_weight((4, 512, 3, 3), 1e-3).to(dtype)

    for name in FORMULAS:
        result = standardize_weight(weight, name)

        assert result.dtype == dtype
        assert torch.equal(result, standardize_weight(weight.float(), name).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_have_float32_arithmetic(dtype: torch.dtype) -> None:
    weight = make_weight((4, 512, 3, 3), 0.02).to(dtype)
    upstream = torch.randn(weight.shape).to(dtype)
    leaf, exact = weight.clone().requires_grad_(), weight.float().requires_grad_()

    (gradient,) = torch.autograd.grad(standardize_weight(leaf), leaf, upstream)
    (expected,) = torch.autograd.grad(standardize_weight(exact), exact, upstream.float())

    assert torch.equal(gradient, expected.to(dtype))


def test_autocast_changes_neither_the_result_nor_the_gradient() -> None:
    leaf = make_weight((8, 16, 3, 3), 0.02).requires_grad_()
    upstream = torch.randn_like(leaf)
    expected = standardize_weight(leaf)
    (expected_gradient,) = torch.autograd.grad(expected, leaf, upstream)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = standardize_weight(leaf)
        (gradient,) = torch.autograd.grad(result, leaf, upstream)

    assert result.dtype == torch.float32
    assert torch.equal(result, expected)
    assert torch.equal(gradient, expected_gradient)


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_no_weight_is_copied_on_the_way(memory_format: torch.memory_format) -> None:
    weight = make_weight((8, 16, 3, 3), 0.02).to(memory_format=memory_format)

    with _Operators() as operators:
        standardize_weight(weight)

    copies = {"clone", "copy_", "_to_copy", "contiguous", "_reshape_copy"}
    assert not copies.intersection(operators.names)


def test_filters_have_zero_mean_and_unit_unbiased_deviation_by_default() -> None:
    weight = make_weight((8, 16, 3, 3), 0.5, torch.float64)
    deviation = weight.flatten(1).std(dim=1)

    rows = standardize_weight(weight).flatten(1)

    torch.testing.assert_close(rows.mean(dim=1), torch.zeros(8, dtype=torch.float64))
    torch.testing.assert_close(rows.std(dim=1), deviation / (deviation + 1e-5))


@pytest.mark.parametrize("name", FORMULAS)
def test_a_constant_added_to_a_filter_changes_nothing(name: str) -> None:
    weight = make_weight((8, 16, 3, 3), 0.02, torch.float64)
    offsets = torch.randn(8, 1, 1, 1, dtype=torch.float64)

    moved = standardize_weight(weight + offsets, name)

    assert relative(moved, standardize_weight(weight, name)) < 1e-11


def test_gradients_sum_to_zero_over_each_filter() -> None:
    leaf = make_weight((8, 16, 3, 3), 0.02, torch.float64).requires_grad_()

    (gradient,) = torch.autograd.grad(standardize_weight(leaf), leaf, torch.randn_like(leaf))

    sums = gradient.flatten(1).sum(dim=1)
    assert sums.abs().max() < 1e-12 * gradient.abs().max() * 144


def test_functional_gradients_work() -> None:
    weight = make_weight((8, 16, 3, 3), 0.02, torch.float64)
    upstream = torch.randn_like(weight)
    leaf = weight.clone().requires_grad_()
    (expected,) = torch.autograd.grad(standardize_weight(leaf), leaf, upstream)

    def loss(w: Tensor) -> Tensor:
        return (standardize_weight(w) * upstream).sum()

    assert relative(torch.func.grad(loss)(weight), expected) < 1e-12


def test_an_unknown_formula_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no WS formula 'jhu2'") as raised:
        WSConv2d(3, 8, 3, formula="jhu2")

    assert all(name in str(raised.value) for name in FORMULAS)


@pytest.mark.parametrize("eps", [0.0, -1e-5, float("nan")])
def test_a_formula_without_a_positive_eps_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match="eps of a WS formula must be positive"):
        standardize_weight(torch.randn(4, 2, 3, 3), WSFormula(False, eps, True))


def test_a_formula_of_ones_own_is_followed() -> None:
    own = WSFormula(unbiased=True, eps=1e-5, eps_inside=False)
    weight = make_weight((8, 16, 3, 3), 1e-3)

    assert torch.equal(standardize_weight(weight, own), standardize_weight(weight, "jhu"))
    other = standardize_weight(weight, own._replace(eps=1e-3))
    assert relative(other, standardize_weight(weight, "jhu")) > 0.1


def test_formulas_have_names_and_names_have_formulas() -> None:
    assert [formula_name(to_formula(name)) for name in FORMULAS] == list(FORMULAS)
    assert formula_name(WSFormula(True, 1e-4, True)) == "(True, 0.0001, True)"


@pytest.mark.parametrize("make", [
    lambda: WSConv2d(1, 8, 1),
    lambda: WSConv2d(8, 8, 1, groups=8),
    lambda: WSConv2d.from_conv(nn.Conv2d(8, 8, 1, groups=8)),
    lambda: standardize_weight(torch.randn(8, 1, 1, 1)),
])  # fmt: skip
def test_filters_of_one_element_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"kernel of shape \(8, 1, 1, 1\).*keep this layer"):
        make()


@pytest.mark.parametrize("name", FORMULAS)
def test_the_layer_convolves_with_the_standardized_kernel(name: str) -> None:
    layer = WSConv2d(16, 32, 3, stride=2, padding=1, groups=4, formula=name).double()
    with torch.no_grad():
        layer.weight.mul_(1e-2)
    x = torch.randn(2, 16, 9, 9, dtype=torch.float64)

    expected = F.conv2d(x, reference(layer.weight, name), layer.bias, 2, 1, groups=4)
    assert relative(layer(x), expected) < 1e-12


def test_the_layer_starts_and_is_saved_like_a_plain_convolution() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 8, 3)
    torch.manual_seed(0)
    standardized = WSConv2d(3, 8, 3)

    assert list(standardized.state_dict()) == ["weight", "bias"]
    assert torch.equal(standardized.weight, plain.weight)
    nn.Conv2d(3, 8, 3).load_state_dict(standardized.state_dict())
    standardized.load_state_dict(plain.state_dict())


def test_forward_leaves_the_state_dict_alone() -> None:
    layer = WSConv2d(3, 8, 3)
    before = copy.deepcopy(layer.state_dict())

    layer(torch.randn(2, 3, 8, 8)).sum().backward()
    layer.eval()(torch.randn(2, 3, 8, 8))

    assert list(layer.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[key]) for key, tensor in layer.state_dict().items())


@pytest.mark.parametrize("name", FORMULAS)
def test_the_scripted_layer_computes_the_same(name: str) -> None:
    layer = WSConv2d(16, 8, 3, formula=name)
    with torch.no_grad():
        layer.weight.mul_(1e-2)
    x = torch.randn(1, 16, 8, 8)

    assert relative(torch.jit.script(layer)(x), layer(x)) < 1e-6


@pytest.mark.parametrize("memory_format", FORMATS)
def test_fuse_gives_a_plain_convolution_with_the_very_same_output(
    memory_format: torch.memory_format,
) -> None:
    layer = WSConv2d(16, 8, 3, padding=1, padding_mode="reflect", formula="bit")
    layer = layer.to(memory_format=memory_format)
    raw = layer.weight.detach().clone()
    x = torch.randn(2, 16, 8, 8).to(memory_format=memory_format)

    fused = layer.fuse()

    assert type(fused) is nn.Conv2d
    assert torch.equal(fused(x), layer(x))
    assert torch.equal(layer.weight, raw)
    assert not hasattr(fused, "formula")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_keep_the_formula(again: Callable[[nn.Module], nn.Module]) -> None:
    layer = WSConv2d(16, 8, 3, formula="bcn")
    x = torch.randn(1, 16, 8, 8)

    twin = again(layer)

    assert isinstance(twin, WSConv2d)
    assert twin.formula == FORMULAS["bcn"]
    assert twin.weight is not layer.weight
    assert torch.equal(twin(x), layer(x))


def test_a_converted_layer_shares_the_parameters_and_keeps_the_settings() -> None:
    conv = nn.Conv2d(16, 8, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="circular")
    x = torch.randn(1, 16, 9, 9)
    before = conv(x)

    twin = WSConv2d.from_conv(conv, "tf")

    assert twin.weight is conv.weight
    assert twin.bias is conv.bias
    assert twin.formula == FORMULAS["tf"]
    conv.weight = nn.Parameter(reference(conv.weight, "tf").float())
    assert relative(conv(x), before) > 1e-3
    twin = WSConv2d.from_conv(nn.Conv2d(4, 4, 3))
    assert "formula=jhu" in repr(twin)
