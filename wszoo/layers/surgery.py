"""Surgery on whole models, ours or foreign: standardize, replace BatchNorm, fold."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from timm.layers import (
    BatchNormAct2d,
    BlurPool2d,
    FrozenBatchNormAct2d,
    GroupNormAct,
    SyncBatchNormAct,
)
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from wszoo.layers.norm import BatchChannelNorm, EstimatedBatchNorm, GroupNorm
from wszoo.layers.weight import WSConv2d, WSFormula

Module = TypeVar("Module", bound=nn.Module)

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    FrozenBatchNorm2d,
    FrozenBatchNormAct2d,
    BatchChannelNorm,
)
_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d, FrozenBatchNormAct2d)
_TRANSPARENT = (
    nn.Sequential,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    BlurPool2d,
)  # between a conv and its norm
_ATTENTION = re.compile(
    r"Attention|Attn|Squeeze|Excit|SE(?:Module|Block|$)|Cbam|Eca[A-Z]|GlobalContext"
)


@dataclass(frozen=True)
class Report:
    """What a piece of surgery changed and what it left alone.

    Attributes:
        converted: Paths of the layers that were replaced.
        left: Path to reason, for each layer of the kind that stays as it was.
        noted: Path to remark, for layers that were replaced by something unusual.
    """

    converted: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    noted: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"converted {len(self.converted)}, left {len(self.left)}"]
        lines += [f"  left {path}: {reason}" for path, reason in self.left.items()]
        lines += [f"  note {path}: {remark}" for path, remark in self.noted.items()]
        return "\n".join(lines)


def convs_with_norms(root: nn.Module) -> Iterator[tuple[str, nn.Conv2d, nn.Module | None]]:
    """Every ``nn.Conv2d`` under ``root`` with the norm that is registered right behind it.

    The order of registration is all that a module tells without being run; in torchvision, timm
    and segmentation_models_pytorch it is the order of execution.
    """
    leaves = list(_leaves(root, ""))
    for index, (path, leaf) in enumerate(leaves):
        if isinstance(leaf, nn.Conv2d):
            behind = (m for _, m in leaves[index + 1 :] if not isinstance(m, _TRANSPARENT))
            successor = next(behind, None)
            fits = isinstance(successor, NORMS) and _width(successor) == leaf.out_channels
            yield path, leaf, successor if fits else None


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, (*NORMS, nn.Conv2d)) or not any(module.children()):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _width(norm: Any) -> int:
    if isinstance(norm, BatchChannelNorm):
        return norm.bn.num_features
    if isinstance(norm, nn.GroupNorm):
        return norm.num_channels
    if isinstance(norm, nn.LayerNorm):
        return norm.normalized_shape[-1]
    if isinstance(norm, (FrozenBatchNorm2d, FrozenBatchNormAct2d)):
        affine: Any = norm.weight  # a buffer, untyped
        return len(affine)
    return int(norm.num_features)


def standardize_convs(root: nn.Module, formula: str | WSFormula = "jhu") -> Report:
    """Turn every convolution that has a norm behind it into a ``WSConv2d``, in place.

    Only those may be standardized: behind any other, activations would explode, since a
    standardized kernel has unit deviation whatever its fan-in. Pretrained kernels lose their
    scale, so a pretrained net has to be trained again; our own variants are made with WS.

    Args:
        root: Any model; its parameters are shared by the new layers, optimizers stay valid.
        formula: A name in ``FORMULAS`` or a ``WSFormula``.

    Raises:
        ValueError: ``root`` is a bare convolution, or a folded net.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 2, 1))
        >>> print(standardize_convs(net))
        converted 1, left 1
          left 2: no norm behind it
    """
    refuse_folded(root, "standardized")
    if isinstance(root, nn.Conv2d):
        raise ValueError("cannot replace a bare convolution in place; use WSConv2d.from_conv")
    report = Report()
    for path, conv, norm in list(convs_with_norms(root)):
        reason = _reason_to_leave(root, path, conv, norm)
        if reason is not None:
            report.left[path] = reason
        else:
            root.set_submodule(path, WSConv2d.from_conv(conv, formula))
            report.converted.append(path)
    return report


def _reason_to_leave(
    root: nn.Module, path: str, conv: nn.Conv2d, norm: nn.Module | None
) -> str | None:
    if isinstance(conv, WSConv2d):
        return "standardized already"
    if type(conv) is not nn.Conv2d:
        return f"a {type(conv).__name__}, not a plain convolution"
    parts = path.split(".")
    parents = (root.get_submodule(".".join(parts[:end])) for end in range(1, len(parts)))
    if any(_ATTENTION.search(type(parent).__name__) for parent in parents):
        return "attention"
    if norm is None:
        return "no norm behind it"
    if conv.weight[0].numel() < 2:
        return "one element per filter"
    return None


def to_group_norm(root: nn.Module, num_groups: int = 32) -> Report:
    """Replace every two-dimensional BatchNorm by a ``GroupNorm``, in place.

    Scale and shift are kept and running statistics are dropped, so a net that was trained with
    BatchNorm has to be trained again: it does not keep its accuracy.

    Args:
        root: Any model.
        num_groups: Groups wanted; where they do not divide a width, fewer, which is noted.

    Raises:
        ValueError: ``root`` is itself a norm.
    """
    if isinstance(root, _BATCH_NORMS):
        raise ValueError("cannot replace a bare BatchNorm in place; use GroupNorm")
    report = Report()
    own = [m.bn for m in root.modules() if isinstance(m, BatchChannelNorm)]
    made: dict[nn.Module, nn.GroupNorm] = {}  # a norm registered twice stays one
    for path, norm in list(root.named_modules(remove_duplicate=False)):
        if not isinstance(norm, _BATCH_NORMS):
            continue
        if any(norm is part for part in own) or isinstance(norm, EstimatedBatchNorm):
            report.left[path] = "part of Batch-Channel Normalization"
        elif isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm3d)):
            report.left[path] = f"a {type(norm).__name__}, which normalizes no images"
        else:
            group_norm = made.setdefault(norm, _group_norm_like(norm, num_groups))
            root.set_submodule(path, group_norm)
            report.converted.append(path)
            if group_norm.num_groups != num_groups:
                report.noted[path] = f"{group_norm.num_groups} groups of {_width(norm)} channels"
    return report


def _group_norm_like(norm: Any, num_groups: int) -> nn.GroupNorm:
    plain = GroupNorm(_width(norm), num_groups, eps=norm.eps, affine=norm.weight is not None)
    result: Any = plain
    if isinstance(norm, (BatchNormAct2d, SyncBatchNormAct, FrozenBatchNormAct2d)):
        affine = norm.weight is not None
        result = GroupNormAct(_width(norm), plain.num_groups, eps=norm.eps, affine=affine)
        result.drop, result.act = norm.drop, norm.act
    if norm.weight is not None:
        result = result.to(device=norm.weight.device, dtype=norm.weight.dtype)
        with torch.no_grad():
            result.weight.copy_(norm.weight)
            result.bias.copy_(norm.bias)
        result.requires_grad_(norm.weight.requires_grad)
    return result.train(norm.training)


def fold(module: Module) -> Module:
    """Bake standardization into plain convolutions, in place, for inference and export.

    The outputs stay the same and the cost of WS is gone, and so are the raw kernels. The result
    is in eval mode, its kernels take no gradient, and it is marked with ``folded = True``: the
    training loop and ``WSResNet.train`` refuse it, and a file that ``wszoo fold`` wrote is not
    loaded into a standardized net. Its bare state dict carries no mark.

    Args:
        module: A model with ``WSConv2d`` in it, or one such layer.

    Returns:
        ``module`` itself; a new ``nn.Conv2d`` where ``module`` is a ``WSConv2d``.

    Raises:
        ValueError: There is no ``WSConv2d`` in it.
    """
    if isinstance(module, WSConv2d):
        return module.fuse()  # type: ignore[return-value]
    layers = {
        path: layer
        for path, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, WSConv2d)
    }
    if not layers:
        state = "is folded already" if is_folded(module) else "has no WSConv2d"
        raise ValueError(f"nothing to fold: this {type(module).__name__} {state}")
    fused = {layer: layer.fuse() for layer in layers.values()}  # shared ones once
    for path, layer in layers.items():
        module.set_submodule(path, fused[layer])
    setattr(module, "folded", True)  # noqa: B010  nn.Module declares no such attribute
    return module.eval()


def is_folded(module: nn.Module) -> bool:
    """Whether ``module`` or any layer in it was made by ``fold``."""
    return any(getattr(layer, "folded", False) for layer in module.modules())


def refuse_folded(module: nn.Module, verb: str) -> None:
    """Raise ``ValueError`` where a folded net is about to be trained or published."""
    if is_folded(module):
        raise ValueError(
            f"a folded {type(module).__name__} cannot be {verb}: its raw kernels are gone; "
            f"load the net again"
        )
