"""Weight Standardization (WS): the operator, its six published formulas, and the convolution.

Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization", https://arxiv.org/abs/1903.10520
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wszoo.layers.kept import PASSING, KeepingConv2d
from wszoo.tangents import has_tangent

_TINY = 1e-34  # keeps the rstd of constant filters finite; far below any real variance
_group_norm = torch.ops.aten.native_group_norm.default
_group_norm_backward = torch.ops.aten.native_group_norm_backward.default


class WSFormula(NamedTuple):
    """What exactly "standardize" means; part of a checkpoint, never a matter of taste.

    Two formulas scale the filters of one layer differently, which GroupNorm does not undo:
    on real filter scales the logits of a ResNet-50 move by up to 50 %.

    Attributes:
        unbiased: Divide the sum of squares by fan-in minus one, not by fan-in.
        eps: Guard against constant filters.
        eps_inside: ``sqrt(variance + eps)`` if true, ``standard deviation + eps`` if false.
    """

    unbiased: bool
    eps: float
    eps_inside: bool


FORMULAS: dict[str, WSFormula] = {
    "jhu": WSFormula(unbiased=True, eps=1e-5, eps_inside=False),  # the authors' PyTorch, mmcv
    "tf": WSFormula(unbiased=False, eps=1e-5, eps_inside=False),  # the authors' TensorFlow
    "bcn": WSFormula(unbiased=True, eps=1e-5, eps_inside=True),  # the authors' BCN code
    "bit": WSFormula(unbiased=False, eps=1e-10, eps_inside=True),  # Google BiT
    "timm": WSFormula(unbiased=False, eps=1e-6, eps_inside=True),  # timm's StdConv2d default
    "timm_bit": WSFormula(unbiased=False, eps=1e-8, eps_inside=True),  # timm's BiT models
}


def to_formula(formula: "str | WSFormula") -> WSFormula:
    """Look a formula up by name, or check the one given.

    Raises:
        ValueError: No formula has that name; the message lists those that exist.
    """
    if isinstance(formula, str):
        if formula not in FORMULAS:
            raise ValueError(f"no WS formula {formula!r}; the formulas: {', '.join(FORMULAS)}")
        return FORMULAS[formula]
    formula = WSFormula(*formula)
    if not formula.eps > 0:
        raise ValueError(f"eps of a WS formula must be positive, got {formula.eps!r}")
    return formula


def formula_name(formula: WSFormula) -> str:
    """The short name of ``formula``, or its fields where it has none."""
    for name, known in FORMULAS.items():
        if known == formula:
            return name
    return str(tuple(formula))


def formula_key(formula: WSFormula) -> str | list[bool | float]:
    """The name of ``formula``, or its fields, as JSON takes them and ``to_formula`` reads them."""
    name = formula_name(formula)
    return name if name in FORMULAS else list(formula)


def _composite(filters: Tensor, unbiased: bool, eps: float, eps_inside: bool) -> Tensor:
    """The formula in plain operators: differentiable any number of times, and scriptable."""
    rows = filters.reshape(filters.shape[0], -1)
    centred = rows - rows.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (rows.shape[1] - int(unbiased))
    if eps_inside:
        rows = centred * (variance + eps).rsqrt()
    else:
        rows = centred / ((variance + 1e-30).sqrt() + eps)
    return rows.reshape(filters.shape)


class Measured(NamedTuple):
    """Standardized filters, and the statistics that their gradient takes."""

    filters: Tensor
    mean: Tensor
    rstd: Tensor
    inverse: Tensor | None  # of the divisor; None where rstd says it all


def _biased(fan_in: int, formula: WSFormula) -> float:
    """The biased deviation of a filter over the one that ``formula`` takes."""
    return float(((fan_in - int(formula.unbiased)) / fan_in) ** 0.5)


def _factors(filters: Tensor, factor: float) -> Tensor | None:
    """``factor`` for each filter, as GroupNorm takes it."""
    return None if factor == 1 else filters.new_full(filters.shape[:1], factor)


# GroupNorm with a group per filter takes statistics and normalizes while a filter is in cache.
def _measure(filters: Tensor, formula: WSFormula) -> Measured:
    count, fan_in = filters.shape[0], filters.numel() // filters.shape[0]
    rows, biased = filters.reshape(1, count, fan_in), _biased(fan_in, formula)
    if formula.eps_inside:
        weight, eps = _factors(filters, biased), formula.eps * biased**2
        result, mean, rstd = _group_norm(rows, weight, None, 1, count, fan_in, count, eps)
        return Measured(result.view(filters.shape), mean, rstd, None)
    result, mean, rstd = _group_norm(rows, None, None, 1, count, fan_in, count, _TINY)
    # To divide by deviation + eps is to multiply by rstd and this:
    scale = torch.rsub(rstd, 1 / biased, alpha=-formula.eps).reciprocal_()
    result.mul_(scale.unsqueeze(2))
    return Measured(result.view(filters.shape), mean, rstd, scale.mul_(rstd))


class _StandardizeFilters(torch.autograd.Function):
    """Filters standardized in few sweeps over memory, with the gradient in closed form.

    Memory traffic and, for small kernels, calls are all that it costs. Stock formulations take
    several times as long: ``var`` and ``std`` are slow on CPU, and autograd sweeps the kernel once
    per operator. Views are taken in here, where they are not recorded.
    """

    @staticmethod
    def forward(ctx: Any, filters: Tensor, formula: WSFormula, measured: Measured | None) -> Tensor:
        result, *statistics = _measure(filters, formula) if measured is None else measured
        ctx.formula = formula
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(filters, *statistics)
        return result if measured is None else result.detach()  # a tensor of its own in each graph

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        filters, mean, rstd, inverse = ctx.saved_tensors
        formula: WSFormula = ctx.formula
        if torch.is_grad_enabled():  # create_graph: the saved statistics carry no graph
            again = _composite(filters, *formula)
            return torch.autograd.grad(again, filters, grad, create_graph=True)[0], None, None
        # With c = filter - mean, d the divisor and n the fan-in, the gradient is
        #     1 / d * (grad - mean(grad) - c * sum(c * grad) * q / n),
        # where q = n / (freedom * d * deviation), or n / (freedom * d * d) with eps inside.
        # GroupNorm's kernel computes just that: it has rstd**2 for q and weight * rstd for 1 / d,
        # so those two are chosen to fit; with eps inside they do as they are.
        count, fan_in = filters.shape[0], filters.numel() // filters.shape[0]
        shape, biased = (1, count, fan_in), _biased(fan_in, formula)
        if inverse is None:
            weight = _factors(filters, biased)
        else:
            # The kernel takes c apart, and for all but constant filters would sum up rounding: the
            # last term, which is nothing beside others, keeps q from growing beyond that.
            rounding = (100 * torch.finfo(filters.dtype).eps) ** 2
            rstd = torch.mul(inverse, rstd).reciprocal_().mul_(biased)
            rstd = rstd.addcmul_(mean, mean, value=rounding).rsqrt_()
            weight = torch.div(inverse, rstd).view(-1)
        result, _, _ = _group_norm_backward(
            grad.reshape(shape),
            filters.reshape(shape),
            mean,
            rstd,
            weight,
            1,
            count,
            fan_in,
            count,
            [True, False, False],
        )
        return result.view(filters.shape), None, None


def _standardize_filters(filters: Tensor, formula: WSFormula) -> Tensor:
    # torch.func and dual tensors are differentiated by torch's own rules, and traced sizes are no
    # numbers to compute with.
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if traced or torch._C._are_functorch_transforms_active() or has_tangent(filters):
        return _composite(filters, *formula)
    if formula.eps_inside:  # which is GroupNorm itself
        count, fan_in = filters.shape[0], filters.numel() // filters.shape[0]
        biased = _biased(fan_in, formula)
        rows, eps = filters.reshape(1, count, fan_in), formula.eps * biased**2
        normalized = torch.group_norm(rows, count, _factors(filters, biased), None, eps)
        return normalized.view(filters.shape)
    if not (filters.requires_grad and torch.is_grad_enabled()):
        return _measure(filters, formula).filters
    result: Tensor = _StandardizeFilters.apply(filters, formula, None)
    return result


def _is_nhwc(weight: Tensor) -> bool:
    return not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def _filters(weight: Tensor) -> Tensor:
    # Half precision cannot hold the statistics; double must not lose them.
    exact = weight if weight.dtype == torch.float64 else weight.float()
    # Whichever way the weight lies in memory, its filters are rows of a view: nothing is copied.
    return exact.permute(0, 2, 3, 1) if _is_nhwc(weight) else exact


def _kernel(filters: Tensor, weight: Tensor) -> Tensor:
    laid_out = filters.permute(0, 3, 1, 2) if _is_nhwc(weight) else filters
    return laid_out.to(weight.dtype)


def _standardize(weight: Tensor, unbiased: bool, eps: float, eps_inside: bool) -> Tensor:
    filters = _filters(weight)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        result = _composite(filters, unbiased, eps, eps_inside)
    else:
        result = _standardize_filters(filters, WSFormula(unbiased, eps, eps_inside))
    return _kernel(result, weight)


torch.fx.wrap("_standardize")  # symbolic tracing keeps it as one call


def measure(weight: Tensor, formula: WSFormula) -> tuple[Tensor, Measured]:
    """The standardized kernel, without a graph, and what ``connect`` takes to make it one."""
    with torch.no_grad():
        measured = _measure(_filters(weight), formula)
        return _kernel(measured.filters, weight), measured


def connect(weight: Tensor, formula: WSFormula, measured: Measured) -> Tensor:
    """The kernel that ``measure`` found, with a gradient that reaches ``weight``."""
    result: Tensor = _StandardizeFilters.apply(_filters(weight), formula, measured)
    return _kernel(result, weight)


def _require_fan_in(weight_shape: torch.Size) -> None:
    if weight_shape[1:].numel() < 2:
        raise ValueError(
            f"cannot standardize a kernel of shape {tuple(weight_shape)}: each filter has one "
            f"element, so no deviation; keep this layer an nn.Conv2d"
        )


def standardize_weight(weight: Tensor, formula: str | WSFormula = "jhu") -> Tensor:
    """Give every output filter zero mean and unit standard deviation.

    Statistics are taken in float32 at least, whatever the dtype of ``weight``; the gradient is
    exact, finite on constant filters, and differentiable again.

    Args:
        weight: Kernel of shape ``(out_channels, in_channels // groups, kh, kw)``, contiguous or
            channels_last.
        formula: A name in ``FORMULAS`` or a ``WSFormula``.

    Returns:
        Tensor of the shape, dtype and memory format of ``weight``.

    Raises:
        ValueError: A filter has one element only, or no formula has that name.

    Example:
        >>> standardize_weight(torch.randn(8, 4, 3, 3)).mean(dim=(1, 2, 3)).abs().max() < 1e-6
        tensor(True)
    """
    _require_fan_in(weight.shape)
    return _standardize(weight, *to_formula(formula))


class WSConv2d(KeepingConv2d):
    """``nn.Conv2d`` that standardizes its kernel.

    Its state dict is that of ``nn.Conv2d``: the raw kernel is what is trained, stored and
    published.

    The kernel is standardized in every forward pass of training. In eval mode, where no gradient
    of it is asked for, it is standardized once and kept until the weight changes. Writes that
    PyTorch does not notice, such as those in place through ``weight.data`` or a NumPy array, need a
    call of ``wszoo.refresh``. ``wszoo.layers.keep_kernels`` turns keeping off, which gives back
    the memory. Compiled, exported, traced and scripted nets keep nothing; ``fold`` is for those.

    Args:
        formula: A name in ``FORMULAS`` or a ``WSFormula``; it belongs to the weights.
        *args, **kwargs: As for ``nn.Conv2d``.

    Raises:
        ValueError: A filter would have one element only, or no formula has that name.
    """

    formula: WSFormula

    def __init__(self, *args: Any, formula: str | WSFormula = "jhu", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _require_fan_in(self.weight.shape)
        self.formula = to_formula(formula)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, formula: str | WSFormula = "jhu") -> "WSConv2d":
        """A standardized convolution that shares the parameters and settings of ``conv``."""
        _require_fan_in(conv.weight.shape)
        twin = cls.__new__(cls)
        twin.__dict__ = {k: v for k, v in conv.__dict__.items() if k not in PASSING}
        twin.formula = to_formula(formula)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        kernel: Tensor | None = None
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            kernel = self._ready()
        if kernel is None:
            kernel = self._standardized()
        return self._conv_forward(x, kernel, self.bias)

    def _standardized(self) -> Tensor:
        formula = self.formula
        return _standardize(self.weight, formula.unbiased, formula.eps, formula.eps_inside)

    def fuse(self) -> nn.Conv2d:
        """A plain convolution with the standardized kernel, marked as folded.

        ``timm.utils.reparameterize_model`` calls it, too.
        """
        conv = nn.Conv2d.__new__(nn.Conv2d)
        conv.__dict__ = {
            k: v for k, v in self.__dict__.items() if k not in ("formula", "keep_kernel", *PASSING)
        } | {"folded": True}
        conv._parameters = dict(self._parameters)
        with torch.no_grad():
            kernel = standardize_weight(self.weight, self.formula)
        conv.weight = nn.Parameter(kernel, requires_grad=False)
        return conv.eval()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, formula={formula_name(self.formula)}"
