"""What the page tells of each model: one row per set of weights, or per variant without any."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import timm
import torch

from wszoo.describe import is_checked, list_rows, macs, norm_name, parameter_count, where
from wszoo.layers import formula_name
from wszoo.weights import PUBLISHED, WEIGHTS, Weights
from wszoo.ws_resnet import WSResNet

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # iterable, total, label
NO_WEIGHTS = "no weights yet"
_KEYS = {"Tiny ImageNet val": "tin200", PUBLISHED: "in1k"}
_DEFAULT_SIZE = (3, 224, 224)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One set of weights, or one variant that has none.

    Attributes:
        model: The variant.
        weights: Its record; None where there are no weights yet.
        norm: ``GN`` or ``BCN``.
        formula: Name of the WS formula.
        parameters: Number of learned values, the classifier's among them.
        macs: Multiply-accumulates of one image of ``pixels``.
        channels: Of each feature map.
        strides: Of each feature map.
    """

    model: str
    weights: Weights | None
    norm: str
    formula: str
    parameters: int
    macs: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.weights.name if self.weights else self.model

    @property
    def pixels(self) -> int:
        """Side of the image that ``macs`` and the accuracies are of."""
        return self.weights.input_size[-1] if self.weights else _DEFAULT_SIZE[-1]

    @property
    def macs_text(self) -> str:
        """``macs`` in billions, or millions where that is more to the point."""
        count = self.macs
        return f"{count / 1e9:.2f} G" if count >= 1e8 else f"{count / 1e6:.0f} M"

    @property
    def family(self) -> str:
        """Which of the four kinds of nets it is."""
        if self.model.startswith("wide_"):
            return "Wide ResNet"
        if self.model.startswith("resnext"):
            return "ResNeXt"
        return "ResNet-D" if re.match(r"resnet\d+d_", self.model) else "ResNet"

    @property
    def label(self) -> str:
        """The name without what all names share, for the plot."""
        return re.sub(r"_(gn|bcn)_ws$", "", self.model)

    @property
    def accuracies(self) -> dict[str, dict[str, float]]:
        """``{data: {metric: percent}}`` as the record has it."""
        return self.weights.metrics if self.weights else {}

    @property
    def top1(self) -> dict[str, float]:
        """``{key of the data: percent}``."""
        return {data_key(d): m["top1"] for d, m in self.accuracies.items() if "top1" in m}

    @property
    def location(self) -> str:
        """Where the file is, in a word or two."""
        return where(self.weights) if self.weights else NO_WEIGHTS

    @property
    def checked(self) -> bool | None:
        """As ``wszoo.describe.is_checked`` says; None without weights."""
        return is_checked(self.weights) if self.weights else None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Data on which accuracies can be compared with each other, and with no others.

    Attributes:
        key: What stands for it in the page's address.
        title: As the records name it.
        note: Who measured.
    """

    key: str
    title: str
    note: str


def data_key(title: str) -> str:
    """A short name of a data set, for addresses."""
    return _KEYS.get(title) or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def collect(pattern: str = "*") -> list[Row]:
    """The rows of ``wszoo list`` with all that the page tells of them.

    Args:
        pattern: Glob that the name must match, with its tag or without.

    Raises:
        ValueError: Nothing matches.
    """
    records = {weights.name: weights for weights in WEIGHTS}
    rows = [_row(row["model"], records.get(row["name"])) for row in list_rows(pattern)]
    if not rows:
        raise ValueError(f"nothing matches {pattern!r}; `wszoo list` shows all")
    return rows


def data_sets(rows: Iterable[Row]) -> list[DataSet]:
    """The data that ``rows`` have accuracies on, in their order of ``WEIGHTS``."""
    present = {
        title for row in rows for title, scores in row.accuracies.items() if "top1" in scores
    }
    ordered = dict.fromkeys(title for weights in WEIGHTS for title in weights.metrics)
    return [
        DataSet(key=data_key(title), title=title, note=_note(title))
        for title in ordered
        if title in present
    ]


def _note(title: str) -> str:
    if title == PUBLISHED:
        return "as the authors of the weights published it; not measured by this zoo"
    return "measured by this zoo"


def _row(variant: str, weights: Weights | None) -> Row:
    with torch.device("meta"):
        model = timm.create_model(variant, num_classes=weights.num_classes if weights else 1000)
    assert isinstance(model, WSResNet)
    size = weights.input_size if weights else _DEFAULT_SIZE
    maps: Any = model.feature_info  # timm gives it no types
    return Row(
        model=variant,
        weights=weights,
        norm=norm_name(model),
        formula=weights.formula if weights else formula_name(model.formula),
        parameters=parameter_count(model),
        macs=macs(model, size),
        channels=tuple(info["num_chs"] for info in maps),
        strides=tuple(info["reduction"] for info in maps),
    )
