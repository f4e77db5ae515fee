"""Independent forwards of published formulas: what a conversion is proven against.

Nothing here comes from ``wszoo.layers`` or ``wszoo.ws_resnet``, or a fault in those would prove
itself right. Kernels are standardized beforehand by the plain arithmetic below and put into
torchvision's ResNet with ``nn.GroupNorm``, or into timm's own ResNetV2 with plain convolutions.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

Array = np.ndarray[Any, np.dtype[np.float64]]

# What the sum of squares `ss` of a centred filter of `n` elements is divided by; as published, see
# the table in `wszoo/layers/weight.py` for who published which.
_DIVISORS: dict[str, Callable[[Array, int], Array]] = {
    "jhu": lambda ss, n: np.sqrt(ss / (n - 1)) + 1e-5,
    "tf": lambda ss, n: np.sqrt(ss / n) + 1e-5,
    "bcn": lambda ss, n: np.sqrt(ss / (n - 1) + 1e-5),
    "bit": lambda ss, n: np.sqrt(ss / n + 1e-10),
    "timm": lambda ss, n: np.sqrt(ss / n + 1e-6),
    "timm_bit": lambda ss, n: np.sqrt(ss / n + 1e-8),
}

# Block, blocks per stage, groups, width per group: the arguments of torchvision's ResNet.
_LAYOUTS: dict[str, tuple[Any, tuple[int, int, int, int], int, int]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1), 1, 64),
    "resnet14": (Bottleneck, (1, 1, 1, 1), 1, 64),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet26": (Bottleneck, (2, 2, 2, 2), 1, 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 1, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 1, 64),
    "resnext26_32x4d": (Bottleneck, (2, 2, 2, 2), 32, 4),
    "resnext50_32x4d": (Bottleneck, (3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": (Bottleneck, (3, 4, 23, 3), 32, 4),
    "resnext101_32x8d": (Bottleneck, (3, 4, 23, 3), 32, 8),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": (Bottleneck, (3, 4, 23, 3), 1, 128),
}


class PublishedBatchChannelNorm(nn.Module):
    """Batch-Channel Normalization in evaluation, step by step as its authors wrote it.

    BatchNorm by running statistics, then each group of channels to zero mean and unit variance,
    then one scale and one shift per group. Parameters are named as in ``BatchChannelNorm``.
    """

    def __init__(self, num_channels: int, num_groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_channels, eps=eps)
        self.weight = nn.Parameter(torch.ones(1, num_groups, 1))
        self.bias = nn.Parameter(torch.zeros(1, num_groups, 1))
        self.num_groups, self.eps = num_groups, eps

    def forward(self, x: Tensor) -> Tensor:
        groups = self.bn(x).reshape(x.shape[0], self.num_groups, -1)
        centred = groups - groups.mean(2, keepdim=True)
        variance = (centred * centred).mean(2, keepdim=True)
        normed = centred / torch.sqrt(variance + self.eps)
        return (normed * self.weight + self.bias).reshape(x.shape)


def standardize_as_published(kernel: Tensor, formula: str) -> Tensor:
    """A kernel standardized by the published arithmetic of ``formula``, in float64.

    Args:
        kernel: ``(out_channels, in_channels // groups, kh, kw)``.
        formula: A name of ``wszoo.FORMULAS``.

    Raises:
        ValueError: That formula is not among the published ones.
    """
    if formula not in _DIVISORS:
        known = ", ".join(_DIVISORS)
        raise ValueError(f"no published arithmetic for the WS formula {formula!r}; known: {known}")
    filters = kernel.detach().double().numpy().reshape(len(kernel), -1)
    centred = filters - filters.sum(1, keepdims=True) / filters.shape[1]
    divisors = _DIVISORS[formula]((centred * centred).sum(1, keepdims=True), filters.shape[1])
    return torch.from_numpy(centred / divisors).reshape(kernel.shape)


def reference_net(
    architecture: str, state_dict: Mapping[str, Tensor], formula: str | None
) -> nn.Module:
    """A stock net that computes what ``state_dict`` means under ``formula``, in float64.

    Args:
        architecture: A variant of this zoo with a plain stem, ``"<resnet>_gn"`` for one without
            WS, or one of timm's ``"resnetv2_*_bit"``.
        state_dict: Raw weights under the keys of that architecture.
        formula: How their kernels are standardized; None where they are not.

    Raises:
        ValueError: There is no independent net of that architecture, or the weights do not fit.
    """
    classes = num_classes_of(state_dict)
    is_v2 = architecture.startswith("resnetv2_")
    with torch.device("meta"):  # every tensor is laid in from the weights
        net = (_plain_resnetv2 if is_v2 else torchvision_resnet)(architecture, classes)
    convs = {f"{path}.weight" for path, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    convs.discard("head.fc.weight")  # timm's classifier is a convolution
    ready = {
        key: standardize_as_published(value, formula) if formula and key in convs else value
        for key, value in state_dict.items()
    }
    return lay_in(net, ready, f"a plain {architecture}")


def lay_in(
    net: nn.Module, state_dict: Mapping[str, Tensor], name: str, missing: tuple[str, ...] = ()
) -> nn.Module:
    """A net made on the meta device, holding the tensors given, in eval mode and float64.

    Args:
        net: Changed in place.
        state_dict: Every tensor of it but those of ``missing``.
        name: What to call it in errors.
        missing: Keys that stay without values.

    Raises:
        ValueError: The tensors do not fit.
    """
    exact = {k: v.double() if v.is_floating_point() else v for k, v in state_dict.items()}
    places = net.state_dict()
    exact |= {key: places[key] for key in missing if key in places}
    try:
        net.load_state_dict(exact, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the weights do not fit {name}: {reason}") from error
    return net.eval()


def num_classes_of(state_dict: Mapping[str, Tensor]) -> int:
    """Rows of the classifier; 0 where there is none."""
    rows = (len(state_dict[key]) for key in ("fc.bias", "head.fc.bias") if key in state_dict)
    return next(rows, 0)


def torchvision_resnet(architecture: str, classes: int) -> nn.Module:
    """Torchvision's ResNet with ``nn.GroupNorm``, or with BCN; without classifier for 0 classes.

    Raises:
        ValueError: ``architecture`` has no plain stem, or another norm.
    """
    name, _, norm = architecture.removesuffix("_ws").rpartition("_")
    if name not in _LAYOUTS or norm not in ("gn", "bcn"):
        raise ValueError(
            f"there is no independent net to prove a {architecture!r} against; "
            f"there is one for {', '.join(_LAYOUTS)} with GN or BCN"
        )
    block, layers, groups, width = _LAYOUTS[name]
    norm_layer = PublishedBatchChannelNorm if norm == "bcn" else lambda c: nn.GroupNorm(32, c)
    net: nn.Module = ResNet(
        block, layers, classes or 1, groups=groups, width_per_group=width, norm_layer=norm_layer
    )
    if not classes:
        net.fc = nn.Identity()
    return net


def _plain_resnetv2(architecture: str, classes: int) -> nn.Module:
    """The net of timm with a plain convolution in place of each standardizing one."""
    net = timm.create_model(architecture, num_classes=classes)
    for path, conv in list(net.named_modules()):
        if isinstance(conv, StdConv2d):
            plain = nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                groups=conv.groups,
                bias=False,
            )
            net.set_submodule(path, plain)
    return net
