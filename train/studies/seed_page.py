"""The page and the figure of the study of the seed document."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from train.studies.figures import Plot, Series, write_figures
from train.studies.results import STUDIES, declared
from train.studies.seed_probes import FORMS
from train.studies.seed_systems import SYSTEMS
from wszoo.training.rows import Row, read_rows, replace_file

OUT = STUDIES / "seed"
RESULTS, PAGE = "results.jsonl", "README.md"
SHOWN = ("pytorch", "attempt", "plain", "tensorflow", "gn", "gn_ws")  # two of one colour
HELD = "the attempt, kernels held still to be tested"
_TEXT = Path(__file__).parent / "seed_page.md"
_KERNELS = ("first", "second")


def _runs(rows: Sequence[Row], system: str, rate: float | None = None) -> list[Row]:
    own = [row for row in rows if row["what"] == "run" and row["system"] == system]
    return [row for row in own if rate is None or row["rate"] == rate]


def top1s(rows: Sequence[Row], system: str, rate: float) -> list[float]:
    """The test accuracies of a system at one rate, one for each seed."""
    return [row["top1"] for row in _runs(rows, system, rate)]


def held_still(rows: Sequence[Row], rate: float) -> list[float]:
    """Those of the attempt, with the kernels that training would use next and does not move."""
    return [row["pushed"][0]["top1"] for row in _runs(rows, "attempt", rate)]


def best_rate(rows: Sequence[Row], system: str) -> float:
    """The rate of the highest median of test accuracies."""
    rates = dict.fromkeys(row["rate"] for row in _runs(rows, system))
    return max(rates, key=lambda rate: median(top1s(rows, system, rate)))


def _range(values: Sequence[float], form: str = ".1f") -> str:
    """The median, and between which values it lies."""
    if not values:
        return "not run"
    low, high = (f"{each:{form}}" for each in (min(values), max(values)))
    return f"{median(values):{form}}" + (f" ({low}–{high})" if low != high else "")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in rows)


def _agreement_table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        if row["what"] != "agreement":
            continue
        same = FORMS[row["form"]] == row["formula"]
        name = {"pytorch": "PyTorch `Conv2d`", "tensorflow": "TensorFlow lines"}[row["form"]]
        values = [f"{row[key]:.1e}" for key in ("kernels", "gradients", "trained")]
        lines.append((not same, [f"{name}, `{row['formula']}`", row["dtype"], *values]))
    head = ["form, formula", "arithmetic", "kernels", "their gradients", "net after 100 steps"]
    return _table(head, [line for _, line in sorted(lines, key=lambda each: each[0])])


def _accuracy_table(rows: Sequence[Row], rates: Sequence[float]) -> str:
    lines = []
    for name, system in SYSTEMS.items():
        cells = [_range(top1s(rows, name, rate)) for rate in rates]
        lines.append([system.label, *cells])
        if name == "attempt":
            lines.append([HELD, *(_range(held_still(rows, rate)) for rate in rates)])
    return _table(["", *(f"rate {rate:g}" for rate in rates)], lines)


def _gradient_table(rows: Sequence[Row]) -> str:
    lines = []
    for at, kernel in enumerate(_KERNELS):
        probes = [each for row in rows for each in row["gradients"]]
        values = [[float(each[key][at]) for each in probes] for key in ("cosine", "kept", "length")]
        cells = [_range(found, ".4f") for found in values]
        lines.append([f"{kernel} convolution", *cells])
    head = ["", "cosine to the true gradient", "cosine of the moves left", "ratio of their lengths"]
    return _table(head, lines)


def _spread_table(attempts: Sequence[Row], right: Sequence[Row]) -> str:
    lines = []
    cases = [
        ("as initialized", attempts, "spread_before"),
        ("the attempt, trained", attempts, "spread"),
        ("WS, trained", right, "spread"),
    ]
    for at, kernel in enumerate(_KERNELS):
        for name, own, key in cases:
            found = [row[key][at] for row in own]
            cells = [
                _between([value for each in found for value in each[which]])
                for which in ("filters", "inputs", "means")
            ]
            lines.append([f"{kernel}, {name}", *cells])
    head = ["kernels", "deviation of a filter", "of an input channel", "mean of a filter"]
    return _table(head, lines)


def _between(values: Sequence[float]) -> str:
    low, high = (
        f"{value + 0.0:.3f}".replace("-0.000", "0.000") for value in (min(values), max(values))
    )
    return low if low == high else f"{low} to {high}"


def _pushed_table(attempts: Sequence[Row]) -> str:
    lines = []
    for each in zip(*(row["pushed"] for row in attempts), strict=True):
        moved = _range([100 * one["moved"] for one in each])
        lines.append([f"{each[0]['passes']}", moved, _range([one["top1"] for one in each])])
    return _table(["forward passes", "kernels moved by, %", "test accuracy then, %"], lines)


def _whole(rows: Sequence[Row], plan: dict[str, Any]) -> bool:
    return all(
        len(top1s(rows, name, rate)) == len(plan["seeds"])
        for name in SYSTEMS
        for rate in plan["rates"]
    )


def plots(out: Path) -> dict[str, Plot]:
    """The figure of the study; none before all was trained."""
    rows, _ = read_rows(out / RESULTS)
    plan = declared(out)["plan"]
    if not _whole(rows, plan):
        return {}
    series = [
        Series(
            name=SYSTEMS[name].line,
            x=plan["rates"],
            y=[median(top1s(rows, name, rate)) for rate in plan["rates"]],
            dashed=name == "tensorflow",
        )
        for name in SHOWN
    ]
    note = f"{plan['images']} images of Fashion-MNIST seen once, medians of {len(plan['seeds'])} "
    note += "seeds; the attempt is tested as it is written. 10 % is chance."
    return {
        "accuracy": Plot(
            title="A standardized kernel wants a norm after it",
            x_label="learning rate",
            y_label="test accuracy, %",
            series=series,
            x_log2=True,
            note=note,
        )
    }


def _said(rows: Sequence[Row], plan: dict[str, Any], best: dict[str, float]) -> dict[str, Any]:
    """The numbers of the running text."""
    attempts = _runs(rows, "attempt", best["attempt"])
    cosines = [float(v) for row in attempts for each in row["gradients"] for v in each["cosine"]]
    filters = [v for row in attempts for each in row["spread"] for v in each["filters"]]
    moved = [each["moved"] for row in attempts for each in row["pushed"] if each["passes"] == 100]
    said: dict[str, Any] = {
        "images": f"{plan['images']:,}",
        "seeds": len(plan["seeds"]),
        "steps": plan["images"] // plan["batch"],
        "batch": plan["batch"],
        "momentum": plan["momentum"],
        "cosines": _range(cosines, ".2f"),
        "filters": f"{min(filters):.2f}–{max(filters):.2f}",
        "moved": f"{100 * median(moved):.0f}",
        "attempt_rate": f"{best['attempt']:g}",
    }
    for name in SYSTEMS:
        said[name] = {f"{rate:g}": _range(top1s(rows, name, rate)) for rate in plan["rates"]}
        said[f"{name}_best"] = _range(top1s(rows, name, best[name]))
        said[f"{name}_median"] = f"{median(top1s(rows, name, best[name])):.1f}"
    return said


def page(out: Path) -> str:
    """The page about the rows of ``out``."""
    rows, _ = read_rows(out / RESULTS)
    facts = declared(out)
    best = {name: best_rate(rows, name) for name in SYSTEMS}
    attempts = _runs(rows, "attempt", best["attempt"])
    machines = dict.fromkeys(f"{r['hardware']}; torch {r['torch']}; code {r['code']}" for r in rows)
    return _TEXT.read_text(encoding="utf-8").format(
        **_said(rows, facts["plan"], best),
        test=f"{facts['photos']['test']['images']:,}",
        agreement=_agreement_table(rows),
        accuracy=_accuracy_table(rows, facts["plan"]["rates"]),
        gradients=_gradient_table(attempts),
        spread=_spread_table(attempts, _runs(rows, "gn_ws", best["gn_ws"])),
        pushed=_pushed_table(attempts),
        cpu=f"{sum(row.get('cpu_seconds', 0) for row in rows) / 60:.0f}",
        machine="\n".join(machines),
    )


def write_page(out: Path) -> None:
    """Draw and write what the rows of ``out`` show; nothing before all was trained."""
    if found := plots(out):
        write_figures(out, found)
        replace_file(out / PAGE, page(out).encode())
