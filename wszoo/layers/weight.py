"""Weight Standardization (WS): the operator, its six published formulas, and the convolution.

Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization", https://arxiv.org/abs/1903.10520
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Stands in for the deviation of constant filters where it divides; far below any real one.
_TINY = 1e-20


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


def _divisor(deviation: Tensor, formula: WSFormula) -> Tensor:
    """What centred filters are divided by."""
    if formula.eps_inside:
        return (deviation.square() + formula.eps).sqrt_()
    return deviation + formula.eps


def _composite(rows: Tensor, unbiased: bool, eps: float, eps_inside: bool) -> Tensor:
    """The formula in plain operators: differentiable any number of times, and scriptable."""
    fan_in = rows.shape[1]
    centred = rows - rows.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (fan_in - int(unbiased))
    if eps_inside:
        return centred * (variance + eps).rsqrt()
    return centred / ((variance + 1e-30).sqrt() + eps)


class _StandardizeRows(torch.autograd.Function):
    """Rows standardized in few sweeps over memory, with the gradient in closed form.

    Memory traffic is all that it costs. Stock formulations take several times as long: ``var``
    and ``std`` are slow on CPU, and autograd sweeps the kernel once per operator.
    """

    @staticmethod
    def forward(rows: Tensor, formula: WSFormula) -> tuple[Tensor, Tensor, Tensor]:
        mean = rows.mean(dim=1, keepdim=True)
        centred = rows - mean
        freedom = rows.shape[1] - int(formula.unbiased)
        deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / freedom**0.5
        return centred.div_(_divisor(deviation, formula)), mean, deviation

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, WSFormula], output: Any) -> None:
        rows, ctx.formula = inputs
        _, mean, deviation = output
        ctx.mark_non_differentiable(mean, deviation)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, mean, deviation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        if grad is None:
            return None, None
        rows, mean, deviation = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the saved statistics carry no graph
            again = _composite(rows, *ctx.formula)
            return torch.autograd.grad(again, rows, grad, create_graph=True)[0], None
        # With c = rows - mean, d the divisor and n the fan-in, the gradient is
        #     1 / d * (grad - mean(grad) - c * sum(c * grad) * q / n),
        # where q = n / (freedom * d * deviation), or n / (freedom * d * d) with eps inside.
        # BatchNorm's kernel computes just that in one sweep: it has invstd**2 for q and
        # weight * invstd for 1 / d, so those two are chosen to fit.
        fan_in = rows.shape[1]
        freedom = fan_in - int(ctx.formula.unbiased)
        divisor = _divisor(deviation, ctx.formula)
        other = divisor if ctx.formula.eps_inside else deviation.clamp(min=_TINY)
        std = (divisor * other * (freedom / fan_in)).sqrt_()
        result, _, _ = torch.ops.aten.native_batch_norm_backward(
            grad.unsqueeze(0),
            rows.unsqueeze(0),
            (std / divisor).flatten(),
            None,
            None,
            mean.flatten(),
            std.reciprocal().flatten(),
            True,
            0.0,
            [True, False, False],
        )
        return result.squeeze(0), None


def _standardize(weight: Tensor, unbiased: bool, eps: float, eps_inside: bool) -> Tensor:
    out_channels = weight.shape[0]
    # Half precision cannot hold the statistics; double must not lose them.
    exact = weight if weight.dtype == torch.float64 else weight.float()
    # Whichever way the weight lies in memory, its filters are rows of a view: nothing is copied.
    is_nhwc = not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
    filters = exact.permute(0, 2, 3, 1) if is_nhwc else exact
    rows = filters.reshape(out_channels, -1)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        rows = _composite(rows, unbiased, eps, eps_inside)
    else:
        rows = _StandardizeRows.apply(rows, WSFormula(unbiased, eps, eps_inside))[0]
    result = rows.reshape(filters.shape)
    if is_nhwc:
        result = result.permute(0, 3, 1, 2)
    return result.to(weight.dtype)


torch.fx.wrap("_standardize")  # symbolic tracing keeps it as one call


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


class WSConv2d(nn.Conv2d):
    """``nn.Conv2d`` that standardizes its kernel on every forward pass.

    Its state dict is that of ``nn.Conv2d``: the raw kernel is what is trained, stored and
    published; the standardized one exists inside ``forward`` only.

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
        twin.__dict__ = conv.__dict__.copy()
        twin.formula = to_formula(formula)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        formula = self.formula
        weight = _standardize(self.weight, formula.unbiased, formula.eps, formula.eps_inside)
        return self._conv_forward(x, weight, self.bias)

    def fuse(self) -> nn.Conv2d:
        """A plain convolution with the standardized kernel, marked as folded.

        ``timm.utils.reparameterize_model`` calls it, too.
        """
        conv = nn.Conv2d.__new__(nn.Conv2d)
        conv.__dict__ = {k: v for k, v in self.__dict__.items() if k != "formula"} | {
            "folded": True
        }
        conv._parameters = dict(self._parameters)
        with torch.no_grad():
            kernel = standardize_weight(self.weight, self.formula)
        conv.weight = nn.Parameter(kernel, requires_grad=False)
        return conv.eval()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, formula={formula_name(self.formula)}"
