"""Whose weights a file holds, where the names of its tensors fit several sources."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from wszoo.convert.records import SOURCES, Source

_LICENSE_OF_GUESS = "not known: the source was guessed from names; say with --from whose they are"
# Kernels drawn at random have means of 0.67 (see mean_of_filters). WS takes all means off, so that
# weight decay alone acts on the stored ones and they shrink; plain kernels keep and use theirs.
_LARGEST_WITH_WS, _SMALLEST_PLAIN = 0.5, 0.2


class _File(NamedTuple):
    """A published file: its name, the first digits of its sha256 where known, and its source."""

    name: str
    digits: str | None
    source: str


# Those alone whose tensors do not tell their source. Mirrors carry the digits in their names.
_FILES = (
    *(_File(f"{net}-GN-WS.pth.tar", None, "jhu") for net in ("R-50", "R-101", "X-50", "X-101")),
    *(
        _File(f"{net}-GN-WS.pkl", None, "jhu_detectron")
        for net in ("R-50", "R-101", "X-50", "X-101")
    ),
    *(_File(f"{net}-GN.pkl", None, "detectron") for net in ("R-50", "R-101")),
    *(
        _File(f"{stem}-{digits}.pth", digits, source)
        for stem, digits, source in (
            ("resnet50_gn_ws", "15beedd8", "openmmlab"),
            ("resnet101_gn_ws", "3e3c308c", "openmmlab"),
            ("resnext50_32x4d_gn_ws", "0d87ac85", "openmmlab"),
            ("resnext101_32x4d_gn_ws", "34ac1a9e", "openmmlab"),
            ("resnext50_32x4d_gn", "c7e8b754", "openmmlab_gn"),
            ("resnext101_32x4d_gn", "ac3bb84e", "openmmlab_gn"),
            ("resnet50_gn_thangvubk", "ad1730dd", "openmmlab_gn"),
            ("resnet50_gn", "9186a21c", "openmmlab_detectron"),
            ("resnet101_gn", "cac0ab98", "openmmlab_detectron"),
            ("resnet50_gn_a1h2", "8fe6c4d0", "timm"),
        )
    ),
)


def source_of_file(name: str, sha256: str | None = None) -> str | None:
    """Whose weights a published file holds, where its tensors alone do not tell.

    A file is known by the first digits of its sha256, whatever it is called now. Where no digits
    were published, or ``sha256`` is None, the name alone decides.

    Args:
        name: Of the file, without its folder.
        sha256: Of its content, in hexadecimal.

    Returns:
        A key of ``SOURCES``; None where the file is none that is known.

    Raises:
        ValueError: The name promises digits that ``sha256`` does not begin with.
    """
    for file in _FILES:
        if sha256 is not None and file.digits is not None and sha256.startswith(file.digits):
            return file.source
    for file in _FILES:
        if name == file.name:
            if file.digits is not None and sha256 is not None:
                raise ValueError(
                    f"{name} has sha256 {sha256[:8]}…, not {file.digits}… as its name says: "
                    f"download it again, or say whose weights they are with --from"
                )
            return file.source
    return None


@dataclass(frozen=True)
class Attribution:
    """A source and what it was chosen by.

    Attributes:
        source: Whose weights they are, or are taken for.
        chosen_by: The user; the file, by ``source_of_file``; names that no other source has; or
            names that ``source.lookalikes`` have, too, which is a guess.
    """

    source: Source
    chosen_by: Literal["user", "file", "names", "guess"]

    @property
    def license(self) -> str:
        """Of the weights; of a guess it is not known."""
        return _LICENSE_OF_GUESS if self.chosen_by == "guess" else self.source.license

    def notes(self, state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
        """What a user has to know, a sentence or more each.

        Args:
            state_dict: The weights, under our names.
        """
        how = {"file": self._known, "guess": self._guessed}.get(self.chosen_by, "")
        return tuple(
            filter(None, [self.source.note, how, self._doubt(mean_of_filters(state_dict))])
        )

    @property
    def _known(self) -> str:
        has_digits = any(f.digits is not None for f in _FILES if f.source == self.source.name)
        by = "its sha256" if has_digits else "its name alone, since no sha256 of it was published"
        return f"The source, {self.source.name}, is that of a published file, known by {by}."

    @property
    def _guessed(self) -> str:
        others = ", ".join(_described(SOURCES[name]) for name in self.source.lookalikes)
        return (
            f"The source was guessed from names: {_described(self.source)}. Its names and shapes "
            f"are those of {others}, too: no tensor tells, and with the wrong source the net "
            f"computes something else. Choose with --from."
        )

    def _doubt(self, means: float) -> str:
        if self.source.formula is not None and means > _LARGEST_WITH_WS:
            reason = "which WS and weight decay seldom leave"
        elif self.source.formula is None and means < _SMALLEST_PLAIN:
            reason = "as WS and weight decay leave them and plain kernels seldom are"
        else:
            return ""
        return (
            f"Filters have means of {means:.2g} standard errors (0.67 before training), "
            f"{reason}. It proves nothing, but look again whether {self.source.name} is the source."
        )


def _described(source: Source) -> str:
    kernels = "plain kernels" if source.formula is None else "WS"
    return f"{source.name} ({kernels}, {source.card.channels})"


def mean_of_filters(state_dict: Mapping[str, Tensor]) -> float:
    """How large the means of filters are, in standard errors, which is what chance makes them.

    Args:
        state_dict: Tensors under our names; of a detector, only the backbone counts.

    Returns:
        ``|mean| * sqrt(n) / std`` over the n weights of a filter: its median over the filters of
        a layer, and of these the median over layers. Kernels drawn at random have 0.67. NaN where
        there are no kernels, or none with values.
    """
    body = {key: t for key, t in state_dict.items() if key.startswith("backbone.body.")}
    kernels = [
        kernel.flatten(1).float()
        for key, kernel in (body or state_dict).items()
        if kernel.ndim == 4 and key != "head.fc.weight" and not kernel.is_meta
    ]
    if not kernels:
        return math.nan
    layers = [
        (k.mean(1).abs() * math.sqrt(k.shape[1]) / k.std(1, correction=0)).nanmedian()
        for k in kernels
    ]
    return float(torch.stack(layers).nanmedian())
