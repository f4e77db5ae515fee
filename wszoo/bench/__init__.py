"""How fast and lean the zoo is beside its peers, as ratios from one interleaved run."""

from wszoo.bench.nets import PEERS, make_twin, paper_standardize, timm_standardize
from wszoo.bench.result import GROUPS, Comparison, Row
from wszoo.bench.run import DEVICES, compare
from wszoo.bench.timing import interleave, to_row

__all__ = [
    "DEVICES",
    "GROUPS",
    "PEERS",
    "Comparison",
    "Row",
    "compare",
    "interleave",
    "make_twin",
    "paper_standardize",
    "timm_standardize",
    "to_row",
]
