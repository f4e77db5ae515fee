"""What the runs of transfer show: a figure for each task and a page, from their rows alone."""

from collections.abc import Sequence
from pathlib import Path

from train.studies.figures import Plot, Series, write_figures
from train.studies.results import interval
from train.studies.transfer_tasks import TASKS, TransferTask
from wszoo.training.rows import Row, read_rows, replace_file

RESULTS = "results.jsonl"
PAGE = "README.md"
LABELS = {
    "published": "GN+WS, published weights",
    "random": "GN+WS, random weights",
    "bn_twin": "BN, twin's weights",
    "gn_twin": "GN+WS, weights of the twin's recipe",
}


def scores(rows: Sequence[Row], task: str, start: str, batch: int) -> list[float]:
    """The metric of one cell on test photos, by seed."""
    return [
        row["test"][TASKS[task].metric]
        for row in rows
        if (row["task"], row["start"], row["batch"]) == (task, start, batch)
    ]


def plots(out: Path) -> dict[str, Plot]:
    """One figure for each task that has rows."""
    rows, _ = read_rows(out / RESULTS)
    done = [name for name in TASKS if any(row["task"] == name for row in rows)]
    return {name: _plot(rows, name, TASKS[name]) for name in done}


def _plot(rows: Sequence[Row], name: str, task: TransferTask) -> Plot:
    series = []
    for start, label in LABELS.items():
        found = {size: scores(rows, name, start, size) for size in sorted(task.batches)}
        values = {size: interval(each) for size, each in found.items() if each}
        if values:
            means = [value.mean for value in values.values()]
            series.append(Series(name=label, x=[*values], y=means))
    settings = task.settings
    return Plot(
        title=f"{task.metric_name} against photos per step",
        x_label="photos per step",
        y_label=f"{task.metric_name} on test photos, %",
        series=series,
        x_log2=True,
        note=f"ResNet-18 with the head {settings['head']}, {settings['epochs']} epochs at "
        f"{settings['image_size']} pixels; means over seeds.",
    )


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "not run"
    each = ", ".join(f"{value:.1f}" for value in values)
    return f"{interval(values).mean:.1f} ({each})"


def _section(rows: Sequence[Row], name: str, task: TransferTask) -> str:
    sizes = sorted(task.batches)
    lines = [
        f"| | {' | '.join(f'{size} per step' for size in sizes)} |",
        f"| --- |{' --- |' * len(sizes)}",
    ]
    for start, label in LABELS.items():
        cells = [_cell(scores(rows, name, start, size)) for size in sizes]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    findings = "\n".join(_findings(rows, name, sizes))
    settings = ", ".join(f"{key} {value}" for key, value in task.settings.items())
    lr = f"learning rate {task.lr_per_photo:g} per photo of a step, at most {task.most_lr:g}"
    of_task = [row for row in rows if row["task"] == name]
    photos = of_task[0]["test"]["photos"]
    minutes = max(row["cpu_seconds"] for row in of_task) / 60
    return f"""## {task.metric_name}

{table}

{findings}

![{task.metric_name} against photos per step]({name}.png)

`{task.archive}`; {settings}; {lr}; AdamW. The epoch is chosen by photos held out; the figures, in
percent, are those of {photos} test photos: mean, and each seed in brackets. A run took up to
{minutes:.0f} CPU minutes."""


def _findings(rows: Sequence[Row], name: str, sizes: Sequence[int]) -> list[str]:
    """What came out against each other start, at each size where both have runs."""
    lines = []
    for size in sizes:
        ours = scores(rows, name, "published", size)
        for start in ("random", "bn_twin", "gn_twin"):
            theirs = scores(rows, name, start, size)
            if ours and theirs:
                lines.append(f"- {size} per step: {_verdict(ours, theirs, LABELS[start])}.")
    return lines


def _verdict(ours: Sequence[float], theirs: Sequence[float], label: str) -> str:
    gap = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    told = f"{abs(gap):.1f} points, of means over {len(ours)} and {len(theirs)} seeds"
    if min(ours) > max(theirs):
        return f"published GN+WS is above {label} with every seed ({told})"
    if max(ours) < min(theirs):
        return f"published GN+WS is **below** {label} with every seed ({told})"
    return f"published GN+WS and {label} are not told apart by these seeds ({told})"


def page(out: Path) -> str:
    """The page of the results in ``out``."""
    rows, _ = read_rows(out / RESULTS)
    sections = [
        _section(rows, name, task)
        for name, task in TASKS.items()
        if any(row["task"] == name for row in rows)
    ]
    commits = ", ".join(dict.fromkeys(row["code"] for row in rows))
    versions = ", ".join(dict.fromkeys(f"torch {r['torch']}, timm {r['timm']}" for r in rows))
    parts = [
        "# Transfer at small batches",
        "Backbones fine-tuned with few photos per step, as `wszoo finetune` does it, and the same "
        "net from random weights. The twin is timm's BatchNorm net by the recipe of "
        "`resnet18_gn_ws.e14_tin200`,\nwhich has half of the published weights' epochs "
        "([its card](../../resnet18.e14_tin200/README.md)).\nMade by `python -m "
        "train.study_transfer`; every figure is in "
        f"[{RESULTS}]({RESULTS}) with its settings, seed and loss.",
        *sections,
        f"Code {commits}; {versions}.",
    ]
    return "\n\n".join(parts) + "\n"


def write_page(out: Path) -> None:
    """Draw the figures and write the page of the results in ``out``, if there are any."""
    if read_rows(out / RESULTS)[0]:
        write_figures(out, plots(out))
        replace_file(out / PAGE, page(out).encode())
