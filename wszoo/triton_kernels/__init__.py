"""GroupNorm with ReLU and residual in one or two Triton kernels, for NVIDIA GPUs.

Nothing of this runs unless it is asked for or was measured to be faster, see ``FASTER``. Triton
comes with torch on Linux; without it, or without a GPU, everything here works through torch's own
operators. Each combination of channels per group, layout, dtype and flags is compiled when it is
first met (about a second each, then cached on disk).
"""

from wszoo.triton_kernels.choice import FASTER, Case, fits, usable, use
from wszoo.triton_kernels.operator import group_norm_act
from wszoo.triton_kernels.speed import Timing, compare_on_cuda

__all__ = [
    "FASTER",
    "Case",
    "Timing",
    "compare_on_cuda",
    "fits",
    "group_norm_act",
    "usable",
    "use",
]
