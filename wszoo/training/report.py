"""What a run leaves for people in its folder: curves.png and report.md."""

import io
import math
import os
import platform
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wszoo.training.rows import Row, columns_of, replace_file
from wszoo.visualize import draw_curves

BOOKKEEPING = ("epoch", "step", "pixels", "seconds", "lr")  # of an epoch; no results, not drawn
_LONGEST_TABLE = 50  # rows
_NUMBERS = re.compile(r"-?\d[\d.,]*(e[+-]?\d+)?|-?\b(nan|inf)\b")


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(42), duration(3 * 3600 + 290)
        ('42 s', '3 h 05 min')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def heading(key: str) -> str:
    """What people call a key of a row."""
    return "time" if key == "seconds" else key.replace("_", " ")


def shown(key: str, value: Any) -> str:
    """A value of a row as people read it."""
    if value is None:
        return "–"
    if key == "seconds":
        return duration(float(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def draw_epochs(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the losses and metrics of finished epochs: one picture per scale, one below the other.

    Nothing is drawn where no row has a number to show.

    Args:
        rows: One per epoch; what is None or not finite is left out.
        path: PNG file to write.
        title: Heading of the first picture.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for name in columns_of(rows):
        points = [(float(row["epoch"]), row[name]) for row in rows if _is_number(row.get(name))]
        if points and name not in BOOKKEEPING:
            series[name] = points
    if not series:
        return
    scales = _scales(series)
    with tempfile.TemporaryDirectory() as folder:
        pictures: list[Path] = []
        for scale in dict.fromkeys(scales.values()):
            names = [name for name in series if scales[name] == scale]
            pictures.append(Path(folder, f"{len(pictures)}.png"))
            draw_curves(
                {heading(name): series[name] for name in names},
                pictures[-1],
                x_label="epoch",
                y_label=heading(names[0]) if len(names) == 1 else _PLURALS[scale],
                title=None if len(pictures) > 1 else title,
            )
        replace_file(path, _stack(pictures))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _scales(series: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, str]:
    """What series must have in common to share a picture; losses stay together."""
    largest = {name: max(abs(y) for _, y in points) for name, points in series.items()}
    highest_loss = max((y for name, y in largest.items() if "loss" in name), default=0.0)
    scales = {}
    for name, height in largest.items():
        if (highest_loss if "loss" in name else height) <= 1:
            scales[name] = "share"
        elif "loss" in name:
            scales[name] = "loss"
        else:
            scales[name] = "percent" if height <= 100 else "above"
    return scales


_PLURALS = {"loss": "losses", "share": "metrics", "percent": "metrics", "above": "metrics"}


def _stack(pictures: Sequence[Path]) -> bytes:
    opened = [Image.open(path) for path in pictures]
    page = Image.new(
        "RGB", (max(p.width for p in opened), sum(p.height for p in opened)), color="white"
    )
    top = 0
    for picture in opened:
        page.paste(picture, (0, top))
        top += picture.height
        picture.close()
    data = io.BytesIO()
    page.save(data, format="PNG", optimize=True)
    return data.getvalue()


def render_report(
    title: str,
    *,
    plan: Mapping[str, str],
    epochs: Sequence[Row],
    events: Sequence[Row],
    summary: Mapping[str, Any],
    curves: str | None,
) -> str:
    """The report of a run, in Markdown, for someone who has not seen it.

    Args:
        title: Name of the run.
        plan: What was to be done, by what it is about.
        epochs: One row per finished epoch; ``seconds`` are those since the start of the run.
        events: What was warned of: ``time``, ``step`` and ``event``.
        summary: What came out. Its entry ``commands``, if there is one, maps what can be done
            next to the command that does it.
        curves: File name of the curves beside the report; None where there are none.
    """
    results = {key: value for key, value in summary.items() if key != "commands"}
    commands = {"go on, where it was stopped before its end": command_line()}
    commands |= summary.get("commands", {})
    sections = {
        "Result": _facts(results),
        "Curves": f"![losses and metrics by epoch]({curves})" if curves else "None were drawn.",
        "Plan": _facts(plan),
        "Epochs": _epochs(epochs),
        "Events": _events(events),
        "Environment": "Of the process that ended the run.\n\n" + _facts(environment()),
        "Commands": "\n\n".join(
            f"To {what}:\n\n```\n{command}\n```" for what, command in commands.items()
        ),
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items())
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"# {title}\n\nA training run of wszoo; this report was written {written}.\n\n{body}\n"


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return "None were given."
    return _markdown_table(
        ("", ""), [(heading(key), shown(key, value)) for key, value in facts.items()]
    )


def _epochs(rows: Sequence[Row]) -> str:
    """The table of epochs, thinned where it would be long."""
    if not rows:
        return "None was finished."
    stride = math.ceil(len(rows) / _LONGEST_TABLE)
    chosen = [row for index, row in enumerate(rows, 1) if index % stride == 0 or row is rows[-1]]
    columns = {key: _column(key, [row.get(key) for row in chosen]) for key in columns_of(rows)}
    text = _markdown_table(
        [heading(key) for key in columns], zip(*columns.values(), strict=True), "---:"
    )
    note = "Losses are means over an epoch, time is since the start of the run."
    if len(chosen) < len(rows):
        note += f" {len(chosen)} of {len(rows)} epochs; `metrics.csv` has them all."
    return f"{note}\n\n{text}"


def _column(key: str, values: Sequence[Any]) -> list[str]:
    """Cells under one another: all numbers with as many decimals as the longest has, or four."""
    numbers = [value for value in values if isinstance(value, float)]
    if key == "seconds" or not all(1e-3 < abs(number) < 1e6 for number in numbers if number):
        return [shown(key, value) for value in values]
    decimals = max(
        (len(f"{number:.4f}".rstrip("0").split(".")[1]) for number in numbers), default=0
    )
    return [
        f"{value:.{decimals}f}" if isinstance(value, float) else shown(key, value)
        for value in values
    ]


def _events(rows: Sequence[Row]) -> str:
    """How often each kind of event came; events that differ in numbers only are of one kind."""
    if not rows:
        return "None: nothing was skipped, passed over or warned of."
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(_NUMBERS.sub("#", row["event"]), []).append(row)
    note = f"{len(rows)} in all; `events.jsonl` has each with its time and details."
    if len(kinds) > _LONGEST_TABLE:
        note += f" The last {_LONGEST_TABLE} of {len(kinds)} kinds:"
    table = _markdown_table(
        ("times", "first after step", "last after step", "the last one"),
        [
            [str(len(group)), str(group[0]["step"]), str(group[-1]["step"]), group[-1]["event"]]
            for group in list(kinds.values())[-_LONGEST_TABLE:]
        ],
    )
    return f"{note}\n\n{table}"


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "---") -> str:
    lines = [heads, [rule] * len(heads), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def environment() -> dict[str, str]:
    """Versions and hardware of this process."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    packages = ("wszoo", "torch", "torchvision", "timm")
    return {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads per process": str(torch.get_num_threads()),
        "GPUs of this machine": ", ".join(gpus) or "none",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def command_line() -> str:
    """The command that started this run, for a shell; torchrun's where that started it."""
    words = sys.orig_argv[1:]
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return shlex.join(["python", *words])
    nodes = os.environ["GROUP_WORLD_SIZE"]
    start = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
    if nodes != "1":
        start += ["--nnodes", nodes, "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:PORT"]
    return shlex.join([*start, *words[words[0] == "-u" :]])
