"""Counting the norms and convolutions of a net, and saying what is amiss."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from wszoo.layers import BatchChannelNorm, WSConv2d, convs_with_norms, formula_name, is_folded
from wszoo.layers.surgery import NORMS

_NORM_NAME = re.compile(r"Norm(Act)?(1d|2d|3d)?$")  # of classes that derive from none of torch's
_GROUPS = 32
_SHOWN = 3  # paths of one kind of finding in the text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One remark about one layer.

    Attributes:
        level: ``"error"``, or ``"note"`` for what may well be intended.
        path: Of the layer; empty for the whole net.
        text: What there is to say.
    """

    level: Literal["error", "note"]
    path: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Lint:
    """What a net is made of and what is amiss.

    Attributes:
        norms: Class name to count; the parts of a ``BatchChannelNorm`` are not counted.
        standardized: Name of a WS formula to the number of ``WSConv2d`` that use it.
        plain: Number of plain ``nn.Conv2d``.
        other: Class name to count, for every other convolution.
        findings: Errors first.
    """

    norms: dict[str, int] = field(default_factory=dict)
    standardized: dict[str, int] = field(default_factory=dict)
    plain: int = 0
    other: dict[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The fields and ``ok``, as JSON takes them."""
        return {**asdict(self), "findings": [asdict(f) for f in self.findings], "ok": self.ok}

    def __str__(self) -> str:
        convs = {f"standardized ({name})": count for name, count in self.standardized.items()}
        convs |= {"plain": self.plain} if self.plain else {}
        lines = [f"norms  {_counts(self.norms)}", f"convs  {_counts(convs | self.other)}"]
        alike: dict[tuple[str, str], list[str]] = {}
        for finding in self.findings:
            alike.setdefault((finding.level, finding.text), []).append(finding.path)
        for (level, text), paths in alike.items():
            shown = ", ".join(path or "the net" for path in paths[:_SHOWN])
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            lines.append(f"{level:<6} {shown}{more}: {text}")
        return "\n".join([*lines, "ok" if self.ok else "not ok"])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def lint(module: nn.Module) -> Lint:
    """Take the census of a net and look for what spoils training with small batches.

    Only the structure is looked at: ``module`` may be on the meta device. Which norm is behind a
    convolution is told by the order of registration, see ``wszoo.layers.convs_with_norms``.

    Args:
        module: Any net, ours or foreign.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
        >>> print(lint(net))
        norms  1 BatchNorm2d
        convs  1 plain
        error  1: BatchNorm left, which depends on the batch
        not ok
    """
    norms = list(_norms(module, ""))
    convs = [m for m in module.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    formulas = Counter(formula_name(m.formula) for m in convs if isinstance(m, WSConv2d))
    plain = [m for m in convs if type(m) is nn.Conv2d]
    others = [m for m in convs if type(m) is not nn.Conv2d and not isinstance(m, WSConv2d)]
    findings = [
        *_whole(module, formulas),
        *_about_norms(norms),
        *_about_convs(module, has_ws=bool(formulas)),
    ]
    return Lint(
        norms=dict(Counter(type(norm).__name__ for _, norm in norms)),
        standardized=dict(formulas),
        plain=len(plain),
        other=dict(Counter(type(conv).__name__ for conv in others)),
        findings=tuple(sorted(findings, key=lambda finding: finding.level != "error")),
    )


def _norms(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Every norm under ``module``, without the norms it is made of."""
    if _is_norm(module):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _norms(child, f"{path}.{name}" if path else name)


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, NORMS):
        return True
    layers = (nn.Linear, nn.modules.conv._ConvNd)  # a block such as ConvNorm is no norm
    is_block = any(isinstance(part, layers) for part in module.modules())
    return _NORM_NAME.search(type(module).__name__) is not None and not is_block


def _whole(module: nn.Module, formulas: Counter[str]) -> Iterator[Finding]:
    if len(formulas) > 1:
        counts = _counts(dict(formulas))
        yield Finding(level="error", path="", text=f"mixed WS formulas: {counts}")
    if is_folded(module):
        text = "folded: for inference only, it can be neither trained nor published"
        yield Finding(level="note", path="", text=text)


def _about_norms(norms: list[tuple[str, nn.Module]]) -> Iterator[Finding]:
    for path, norm in norms:
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            text = "BatchNorm left, which depends on the batch"
            yield Finding(level="error", path=path, text=text)
        elif isinstance(norm, FrozenBatchNorm2d) or "FrozenBatchNorm" in type(norm).__name__:
            text = "frozen BatchNorm: independent of the batch, but its statistics stay as they are"
            yield Finding(level="note", path=path, text=text)
        elif isinstance(norm, nn.GroupNorm):
            yield from _about_groups(path, norm.num_groups, norm.num_channels)
        elif isinstance(norm, BatchChannelNorm):
            yield from _about_groups(path, norm.num_groups, norm.bn.num_features)


def _about_groups(path: str, groups: int, channels: int) -> Iterator[Finding]:
    if groups == channels:
        text = f"one channel per group ({channels}), which erases what its mean says"
        yield Finding(level="error", path=path, text=text)
    elif groups != _GROUPS:
        text = f"{groups} groups of {channels} channels, not {_GROUPS}"
        yield Finding(level="note", path=path, text=text)


def _about_convs(module: nn.Module, *, has_ws: bool) -> Iterator[Finding]:
    for index, (path, conv, norm) in enumerate(convs_with_norms(module)):
        if isinstance(conv, WSConv2d):
            if norm is None:
                text = "standardized with no norm behind it, so its outputs grow with the fan-in"
                yield Finding(level="error", path=path, text=text)
        elif has_ws and norm is not None and type(conv) is nn.Conv2d and not is_folded(conv):
            yield from _about_plain(path, conv, is_stem=index == 0)


def _about_plain(path: str, conv: nn.Conv2d, *, is_stem: bool) -> Iterator[Finding]:
    if conv.weight[0].numel() < 2:
        text = "plain: one element per filter cannot be standardized"
        yield Finding(level="note", path=path, text=text)
    elif is_stem and conv.in_channels != 3:
        text = f"plain stem over {conv.in_channels} channels: intended where they are not 3"
        yield Finding(level="note", path=path, text=text)
    else:
        text = "plain with a norm behind it, though the net has WS elsewhere"
        yield Finding(level="error", path=path, text=text)
