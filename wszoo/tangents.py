"""Derivatives taken forward, for which operators of our own have no rule."""

from torch import Tensor
from torch.autograd import forward_ad


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether any of ``tensors`` carries a forward derivative.

    An open level says too little: a backward pass inside it runs checkpoints and saved tensors of
    a forward pass outside, and has to take the same operators.
    """
    if forward_ad._current_level < 0:
        return False
    return any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
    )
