"""The README's table of the bench, and a page on missed goals: ``python -m train.bench --help``.

``wszoo bench -o model_cards/benchmarks/cpu_resnet50`` measures it, in twenty minutes on two cores
that have nothing else to do.
"""

import json
import os
import sys
from pathlib import Path

import click

from wszoo.bench import GROUPS, Comparison, Row
from wszoo.bench.missed import HEADING, missed_page
from wszoo.bench.pictures import RATIOS, draw, peaks_by_kind
from wszoo.bench_cli import RESULTS
from wszoo.terminal import CHECK_FAILED, OneLineErrors

ROOT = Path(__file__).parent.parent
PAGE, BEGIN, END = ROOT / "README.md", "<!-- bench -->\n", "<!-- /bench -->"
MEASURED = ROOT / "model_cards" / "benchmarks" / "cpu_resnet50"
MISSED = "README.md"  # beside the results, where goals were missed
_VERDICTS = {None: "", True: ", met", False: ", **missed**"}


@click.command(cls=OneLineErrors)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=MEASURED,
    show_default=True,
    help="What `wszoo bench -o` wrote.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    default=PAGE,
    show_default=True,
    help="The file with the marks between which the table is.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if something would change.")
@click.option("--pictures", is_flag=True, help="Draw the pictures again, too.")
def main(results: Path, page: Path, check: bool, pictures: bool) -> None:
    """Write the table of the committed results into the README, and why goals were missed."""
    result = read(results / RESULTS)
    text = page.read_text(encoding="utf-8")
    table = markdown(result, os.path.relpath(results, page.parent))
    expected = {
        page: rendered(text, table, page),
        results / MISSED: missed_page(result.profiles, RESULTS) if result.profiles else None,
    }
    stale = [path for path, whole in expected.items() if _text_of(path) != whole]
    if check:
        for path in stale:
            click.echo(f"{path}: it is not that of the results; run python -m train.bench")
        sys.exit(CHECK_FAILED if stale else 0)
    for path in stale:
        _write(path, expected[path])
    if pictures:
        draw(result, results)


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")


def read(path: Path) -> Comparison:
    """What a run of the bench left.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; `wszoo bench -o DIR` writes one")
    try:
        return Comparison.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} holds {error}") from error


def rendered(text: str, table: str, page: Path = PAGE) -> str:
    """``text`` with ``table`` between its marks.

    Raises:
        ValueError: The marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no lines {BEGIN.strip()} and {END}; put them in")
    return f"{before}{BEGIN}{table}{END}{after}"


def markdown(result: Comparison, folder: str) -> str:
    """The rows that have a goal and those of the loader, with pictures and the machine.

    Args:
        result: What was measured.
        folder: Of its pictures, as links of the page have it.
    """
    shown = [row for row in result.rows if row.goal is not None or row.group == "loader"]
    lines = ["| ours over theirs, below 1 is better | against | ratio | goal |", "| --- " * 4 + "|"]
    for group, title in GROUPS.items():
        of_group = [row for row in shown if row.group == group]
        lines += [f"| **{title}** |  |  |  |"] * bool(of_group)
        lines += map(_line, of_group)
    rounds = sorted({row.rounds for row in result.rows if row.rounds})
    told = " to ".join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))
    first_peaks = [*peaks_by_kind(result)][:1]
    lines += [
        "",
        f"{result.model}, {result.clock}, {told} rounds, by [`wszoo bench`]({folder}/{RESULTS}) "
        f"on {result.machine}.",
        *(f"Beware: {warning}." for warning in result.warnings),
        *([f"[{HEADING}]({folder}/{MISSED})."] if result.profiles else []),
        "",
        f"![ratios beside their goals]({folder}/{RATIOS})",
        *(f"![peaks of memory against batch size]({folder}/{name})" for name in first_peaks),
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    goal = "" if row.goal is None else f"{row.goal:.2f}{_VERDICTS[row.met]}"
    return f"| {row.name} | {row.peer} | {row.ratio:.2f} | {goal} |"


if __name__ == "__main__":
    main()
