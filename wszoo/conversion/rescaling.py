"""Raw kernels rescaled so that another WS formula makes the same standardized ones of them."""

import torch
from torch import Tensor

from wszoo.layers import WSFormula, to_formula


def rescale_kernel(kernel: Tensor, formula: str | WSFormula, target: str | WSFormula) -> Tensor:
    """A raw kernel that ``target`` standardizes to what ``formula`` makes of ``kernel``.

    Only the scale of a filter tells the formulas apart. With ``v`` the biased variance of a filter
    and ``d`` what ``formula`` divides it by, its standardized filter has the variance ``v / d**2``,
    and a target ``1 / sqrt(variance + eps)`` gives the same for the variance
    ``v * eps / (d**2 - v)``. The difference ``d**2 - v`` is what remains of ``d`` without its main
    term, and is never computed by subtracting: it is often ``1e-5`` of ``v``.

    Args:
        kernel: ``(out_channels, in_channels // groups, kh, kw)``.
        formula: The formula that it was trained with.
        target: The formula it is to be used with: biased, with its eps inside the root.

    Returns:
        Centred filters in float64.

    Raises:
        ValueError: ``target`` is of another kind, or a name is unknown.
    """
    formula, target = to_formula(formula), to_formula(target)
    if target.unbiased or not target.eps_inside:
        raise ValueError(
            f"kernels can be rescaled for biased formulas with eps inside, not {target}"
        )
    filters = kernel.detach().double().flatten(1)
    fan_in = filters.shape[1]
    centred = filters - filters.mean(1, keepdim=True)
    squares = centred.square().sum(1, keepdim=True)
    freedom = fan_in - int(formula.unbiased)
    remainder = squares * int(formula.unbiased) / (fan_in * freedom)
    if formula.eps_inside:
        remainder += formula.eps
    else:
        remainder += 2 * formula.eps * (squares / freedom).sqrt() + formula.eps**2
    return (centred * torch.sqrt(target.eps / remainder)).reshape(kernel.shape)
