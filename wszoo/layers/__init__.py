"""Weight-standardized convolutions, the norms that go behind them, and module surgery."""

from wszoo.layers.accumulation import Once, standardized_once
from wszoo.layers.freezing import FrozenWSConv2d, freeze, unfreeze
from wszoo.layers.kept import keep_kernels, refresh
from wszoo.layers.norm import BatchChannelNorm, EstimatedBatchNorm, GroupNorm, groups_for
from wszoo.layers.surgery import (
    Report,
    convs_with_norms,
    fold,
    is_folded,
    refuse_folded,
    standardize_convs,
    to_group_norm,
)
from wszoo.layers.weight import (
    FORMULAS,
    WSConv2d,
    WSFormula,
    formula_key,
    formula_name,
    standardize_weight,
    to_formula,
)

__all__ = [
    "FORMULAS",
    "BatchChannelNorm",
    "EstimatedBatchNorm",
    "FrozenWSConv2d",
    "GroupNorm",
    "Once",
    "Report",
    "WSConv2d",
    "WSFormula",
    "convs_with_norms",
    "fold",
    "formula_key",
    "formula_name",
    "freeze",
    "groups_for",
    "is_folded",
    "keep_kernels",
    "refresh",
    "refuse_folded",
    "standardize_convs",
    "standardize_weight",
    "standardized_once",
    "to_formula",
    "to_group_norm",
    "unfreeze",
]
