"""Weight-standardized convolutions, the norms that go behind them, and module surgery."""

from wszoo.layers.norm import BatchChannelNorm, EstimatedBatchNorm, GroupNorm, groups_for
from wszoo.layers.weight import (
    FORMULAS,
    WSConv2d,
    WSFormula,
    formula_name,
    standardize_weight,
    to_formula,
)

__all__ = [
    "FORMULAS",
    "BatchChannelNorm",
    "EstimatedBatchNorm",
    "GroupNorm",
    "WSConv2d",
    "WSFormula",
    "formula_name",
    "groups_for",
    "standardize_weight",
    "to_formula",
]
