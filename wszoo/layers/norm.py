"""GroupNorm as the zoo uses it, and Batch-Channel Normalization (BCN).

Sources: Wu and He, "Group Normalization", https://arxiv.org/abs/1803.08494; Qiao et al.,
"Rethinking Normalization and Elimination Singularity in Neural Networks",
https://arxiv.org/abs/1911.09738
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.layers.group_norm import group_norm
from wszoo.tangents import has_tangent


def groups_for(num_channels: int, num_groups: int = 32) -> int:
    """The largest divisor of ``num_channels`` up to ``num_groups`` with two channels per group.

    A group of one channel is instance normalization, which erases what that channel's mean says.
    One channel, or a prime number of them, makes one group.
    """
    fitting = (
        groups
        for groups in range(min(num_groups, num_channels // 2), 1, -1)
        if num_channels % groups == 0
    )
    return next(fitting, 1)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` with the channels first, as timm passes them, and float32 statistics.

    The result keeps the dtype of the input, under CUDA autocast, too, where ``nn.GroupNorm`` makes
    and saves float32 maps. Half precision on CUDA and channels_last maps on the CPU take paths of
    their own where PyTorch's operator is slow or large, see ``wszoo.layers.group_norm``.

    Args:
        num_channels: Channels of the input.
        num_groups: Groups wanted; fewer where they do not divide the channels or would hold one
            channel each, see ``groups_for``.
        eps: Added to the variance.
        affine: Learn a scale and a shift per channel.

    Shape:
        ``(N, num_channels, *)`` to the same.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        groups = groups_for(num_channels, num_groups)
        super().__init__(groups, num_channels, eps=eps, affine=affine, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return _group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def _group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    result: Tensor | None = None
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        result = group_norm(x, num_groups, weight, bias, eps)
    if result is not None:
        return result
    if x.dtype == torch.float32 or x.dtype == torch.float64:
        return F.group_norm(x, num_groups, weight, bias, eps)
    # A half-precision affine would drag mean and deviation down to half precision too.
    weight = weight.float() if weight is not None else None
    bias = bias.float() if bias is not None else None
    # This kernel alone mixes dtypes, and has no tangents of mixed ones.
    mixes = x.device.type == "cpu" and weight is not None
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        mixes = mixes and not _is_transformed(x, weight, bias)
    if mixes:
        return F.group_norm(x, num_groups, weight, bias, eps)
    return F.group_norm(x.float(), num_groups, weight, bias, eps).to(x.dtype)


def _is_transformed(*tensors: Tensor | None) -> bool:
    return torch._C._are_functorch_transforms_active() or has_tangent(*tensors)


torch.fx.wrap("_group_norm")  # symbolic tracing cannot follow the branches


class EstimatedBatchNorm(nn.BatchNorm2d):
    """BatchNorm that normalizes by its running estimates while training, too.

    A batch of one then sees the statistics of many. The estimates move first, by ``momentum``,
    and no gradient passes through them.
    """

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        momentum = self.momentum
        assert momentum is not None
        if self.training:
            with torch.no_grad():
                statistics = x.detach().to(self.running_mean.dtype)
                mean = statistics.mean(dim=(0, 2, 3))
                # About the old estimate of the mean, as in the authors' code.
                centred = statistics - self.running_mean[:, None, None]
                second_moment = centred.square().mean(dim=(0, 2, 3))
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(second_moment, momentum)
        # Copies: the next micro-batch moves the estimates before this one's backward pass.
        mean, var = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)


class BatchChannelNorm(nn.Module):
    """Normalize per channel over batches, then per group of channels in each image.

    State-dict keys are the authors': ``bn.*`` for the first step, ``weight`` and ``bias`` of
    shape ``(1, groups, 1)`` for the second, whose affine is per group and not per channel.

    Args:
        num_channels: Channels of the input.
        num_groups: Groups wanted, see ``groups_for``.
        eps: Added to both variances.
        estimate: Normalize by running estimates in training (for micro-batches) instead of by
            the batch's own statistics (for large batches).
        momentum: How far each batch moves the estimates. The authors give no value for
            micro-batches; 0.1 is BatchNorm's.

    Shape:
        ``(N, num_channels, H, W)`` to the same.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        *,
        estimate: bool = False,
        momentum: float = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        kind = EstimatedBatchNorm if estimate else nn.BatchNorm2d
        self.bn = kind(num_channels, eps=eps, momentum=momentum, device=device, dtype=dtype)
        self.num_groups = groups_for(num_channels, num_groups)
        self.eps = eps
        shape = (1, self.num_groups, 1)
        self.weight = nn.Parameter(torch.ones(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        per_group = x.shape[1] // self.num_groups
        weight = self.weight.flatten().repeat_interleave(per_group)
        bias = self.bias.flatten().repeat_interleave(per_group)
        return _group_norm(x, self.num_groups, weight, bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.bn.num_features}, num_groups={self.num_groups}, eps={self.eps}"
