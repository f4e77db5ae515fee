"""Where the kernels can run, and where they do."""

import os
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from wszoo.tangents import has_tangent
from wszoo.triton_kernels.launch import in_channels_last
from wszoo.triton_kernels.plan import MOST_PER_GROUP

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SWITCH = "WSZOO_TRITON"
_HAS_TRITON = find_spec("triton") is not None and torch.version.hip is None
# Triton's own switch, for trying kernels without a GPU; it counts when Triton is imported.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_MOST_VALUES = 2**31 - 1  # of one image: offsets within it are 32 bits wide


@dataclass(frozen=True, kw_only=True)
class Case:
    """Inputs for which the kernels were measured to be faster than torch.

    Attributes:
        capability: Of the GPU, major and minor: (9, 0) is an H100.
        dtype: Of the data.
        channels_last: The layout.
        per_group: Channels of one group.
        values: Fewest and most elements of the input.
    """

    capability: tuple[int, int]
    dtype: torch.dtype
    channels_last: bool
    per_group: int
    values: tuple[int, int]

    def covers(self, x: Tensor, num_groups: int) -> bool:
        """Whether ``x``, a tensor on a GPU, is such an input."""
        gpu = torch.cuda.get_device_properties(x.device)
        return (
            self.capability == (gpu.major, gpu.minor)
            and self.dtype == x.dtype
            and self.channels_last == in_channels_last(x)
            and self.per_group * num_groups == x.shape[1]
            and self.values[0] <= x.numel() <= self.values[1]
        )


FASTER: tuple[Case, ...] = ()
"""The measured cases, and so where the kernels run by themselves: nowhere yet.

They are tested in Triton's interpreter and compile for an H100, but no GPU has timed them. Until
``compare_on_cuda`` has, they run only where ``use(True)`` or ``WSZOO_TRITON=1`` asks for it.
"""


def _from_environment() -> bool | None:
    value = os.environ.get(SWITCH, "")
    if value not in ("", "0", "1"):
        raise ValueError(
            f"{SWITCH} is {value!r}: 1 turns the Triton kernels on, 0 off; unset, they run where "
            "they were measured to be faster"
        )
    return None if value == "" else value == "1"


_wanted = _from_environment()


def use(wanted: bool | None) -> bool | None:
    """Turn the kernels on wherever they fit, or off everywhere; None goes by ``FASTER``.

    The environment variable ``WSZOO_TRITON`` (1 or 0) does the same from the start.

    Returns:
        What held before.
    """
    global _wanted
    before, _wanted = _wanted, wanted
    return before


def fits(x: Tensor, num_groups: int) -> bool:
    """Whether the kernels can compute this: device, dtype, layout and shape.

    They need Triton and an NVIDIA GPU of compute capability 8.0 (or ``TRITON_INTERPRET=1`` and a
    CPU), and bfloat16, float16 or float32 in ``(N, C, *)``, contiguous or channels_last. Traced
    and exported graphs keep torch's own operators, since they run elsewhere.
    """
    if not _HAS_TRITON or _is_recording():
        return False
    if x.dtype not in DTYPES or x.dim() < 2 or x.shape[1] % num_groups:
        return False
    if x.shape[1] // num_groups > MOST_PER_GROUP:
        return False
    if x.numel() == 0 or x.numel() // x.shape[0] > _MOST_VALUES:
        return False
    if not (x.is_contiguous() or in_channels_last(x)):
        return False
    if x.is_cuda:
        # Not initialized: a fake tensor, which stands for whatever GPU there may be.
        return (
            not torch.cuda.is_initialized() or torch.cuda.get_device_properties(x.device).major >= 8
        )
    return _INTERPRETED and x.device.type == "cpu"


def _is_recording() -> bool:
    if torch.compiler.is_compiling():  # Dynamo cannot follow the question after tracing
        return torch.compiler.is_exporting()
    scripting: bool = torch.jit.is_scripting()  # type: ignore[attr-defined]
    # These have no rule for operators of our own.
    transformed: bool = torch._C._are_functorch_transforms_active()
    return scripting or torch._C._is_tracing() or transformed


def usable(x: Tensor, num_groups: int, *others: Tensor | None) -> bool:
    """Whether ``group_norm_act`` runs the kernels for ``x``: they fit, and are wanted.

    Args:
        x: ``(N, C, *)``.
        num_groups: Groups of channels.
        *others: What the operator takes beside it; a tangent of any is more than it can.
    """
    if has_tangent(x, *others):
        return False
    if _wanted is False or not (_wanted or FASTER):
        return False
    if not fits(x, num_groups):
        return False
    if _wanted:
        return True
    return x.is_cuda and any(case.covers(x, num_groups) for case in FASTER)
