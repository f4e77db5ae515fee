"""What a run of the bench found: rows of ours beside theirs, and the table of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wszoo.bench.machine import Machine
from wszoo.bench.missed import Profile, missed_lines

GROUPS = {
    "operator": "Weight Standardization of all kernels, forward and backward",
    "inference": "Forward pass without gradients",
    "training": "Training step: forward, backward, SGD with momentum",
    "memory": "Memory of training",
    "import": "Import in a fresh interpreter",
    "loader": "Photos read and augmented by one process",
}
_VERDICTS = {None: "", True: "met", False: "missed"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of ours beside theirs.

    Attributes:
        group: One of ``GROUPS``.
        what: What was measured.
        peer: What it was compared with.
        unit: Of ``ours`` and ``theirs``.
        ours: Median over the rounds.
        theirs: Likewise of the peer.
        ratio: Of times or bytes, ours over theirs, median over the rounds: below 1 is better.
        quartiles: Of that ratio over the rounds; None where it is no matter of rounds.
        goal: What the ratio should not exceed; None where the row only informs.
        rounds: How often both sides had their turn; None as for ``quartiles``.
        batch: Images at a time, where it takes images.
        precision: ``"fp32"`` or ``"bf16"`` (autocast), where it matters.
        layout: ``"contiguous"`` or ``"channels_last"``, likewise.
    """

    group: str
    what: str
    peer: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    quartiles: tuple[float, float] | None = None
    goal: float | None = None
    rounds: int | None = None
    batch: int | None = None
    precision: str | None = None
    layout: str | None = None

    @property
    def name(self) -> str:
        """What was measured, and on what."""
        batch = None if self.batch is None else f"batch {self.batch}"
        kind = " ".join(filter(None, (self.precision, self.layout)))
        return ", ".join(filter(None, (self.what, batch, kind)))

    @property
    def met(self) -> bool | None:
        """Whether the ratio is within the goal; None where there is no goal."""
        return None if self.goal is None else self.ratio <= self.goal

    def to_json(self) -> dict[str, Any]:
        """The fields, with ``name`` and ``met``, as JSON takes them."""
        return {"name": self.name, **asdict(self), "met": self.met}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Row":
        """The reverse."""
        fields = {key: value for key, value in data.items() if key not in ("name", "met")}
        quartiles = fields.pop("quartiles")
        return cls(**fields, quartiles=quartiles and tuple(quartiles))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows of one run.

    Attributes:
        model: The variant.
        device: ``"cpu"`` or ``"cuda"``.
        clock: What times are.
        machine: Where it ran.
        rows: What was measured.
        warnings: What stands against the figures, one line each.
        profiles: Of the rows that took longer than their goals.
    """

    model: str
    device: str
    clock: str
    machine: Machine
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()

    @property
    def met(self) -> bool:
        """Whether no goal was missed."""
        return not any(row.met is False for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The fields, and for each row whether its goal is met, as JSON takes them."""
        return {**asdict(self), "rows": [row.to_json() for row in self.rows]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Comparison":
        """The reverse.

        Raises:
            ValueError: ``data`` is of something else.
        """
        try:
            rows = tuple(map(Row.from_json, data["rows"]))
            machine, warnings = Machine(**data["machine"]), tuple(data["warnings"])
            profiles = tuple(Profile(**each) for each in data.get("profiles", ()))
            fields = dict(rows=rows, machine=machine, warnings=warnings, profiles=profiles)
            return cls(**{**data, **fields})
        except (TypeError, KeyError) as error:
            raise ValueError(
                "no result of `wszoo bench`; `wszoo bench -o DIR` writes one"
            ) from error

    def __str__(self) -> str:
        head = (f"{self.model}: ours over theirs, below 1 is better; {self.clock}", self.machine)
        lines = [*map(str, head), *(f"warning: {line}" for line in self.warnings)]
        return "\n".join([*lines, "", *_table(self.rows), *missed_lines(self.profiles)])


def _table(rows: Sequence[Row]) -> list[str]:
    groups = [group for group in GROUPS if any(row.group == group for row in rows)]
    heads = ("", "against", "ours", "theirs", "", "ratio", "quartiles", "goal", "")
    cells = {group: [_cells(row) for row in rows if row.group == group] for group in groups}
    every = [heads, *(line for lines in cells.values() for line in lines)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines = [_line(heads, widths)]
    for group, found in cells.items():
        lines += [GROUPS[group], *(_line(each, widths) for each in found)]
    return lines


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = (0, 1, 4, 8)  # columns of words; numbers end where their heads do
    padded = (
        text.ljust(width) if place in left else text.rjust(width)
        for place, (text, width) in enumerate(zip(cells, widths, strict=True))
    )
    return ("  " + "  ".join(padded)).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    quartiles = "" if row.quartiles is None else "{:.2f}..{:.2f}".format(*row.quartiles)
    goal = "" if row.goal is None else f"{row.goal:.2f}"
    values = (f"{row.ours:.1f}", f"{row.theirs:.1f}", row.unit, f"{row.ratio:.2f}")
    return (row.name, row.peer, *values, quartiles, goal, _VERDICTS[row.met])
