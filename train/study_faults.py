"""What a run survives: ``python -m train.study_faults --help``.

Every fault is done to a real run of two ranks, which is then let go on, by torchrun or by
repeating its command. Its final weights must have the bits of a run that was left alone.
"""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from train.faults.job import SAVE_EVERY
from train.faults.result import Result
from train.faults.scenarios import SCENARIOS, Study
from wszoo.terminal import CHECK_FAILED, OneLineErrors, table
from wszoo.training.declaration import code_version, hardware

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "wszoo" / "assets" / "clothing"
RESULTS = ROOT / "model_cards" / "studies" / "faults.json"
PAGE, BEGIN, END = ROOT / "train" / "README.md", "<!-- faults -->\n", "<!-- /faults -->"


@click.command(cls=OneLineErrors)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs.")
@click.option("--render", is_flag=True, help="Only write the table of train/README.md again.")
@click.option("--data", default=str(PHOTOS), show_default="packaged photos of clothing")
@click.option("--kills", default=50, show_default=True, help="Of a random worker.")
@click.option("--point-kills", default=3, show_default=True, help="At each point of a save.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", multiple=True, type=click.Choice([*SCENARIOS]), help="Some faults alone.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(
    out: Path | None,
    render: bool,
    data: str,
    kills: int,
    point_kills: int,
    seed: int,
    only: tuple[str, ...],
    results: Path,
) -> None:
    """Do every fault to real runs, and print how they took it."""
    if render:
        render_table()
        return
    if out is None:
        raise click.UsageError("give --out, a folder for the runs, or --render alone")
    marker = out / ".study-of-faults"
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise click.UsageError(f"{out} holds something else; name a new folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    marker.touch()
    study = Study(out, data, kills, point_kills, seed)
    study.alone(2)
    facts = {
        "hardware": hardware(),
        "code": code_version(),
        "photos": Path(data).name,
        "seed": seed,
    }
    for name in only or SCENARIOS:
        started = time.monotonic()
        try:
            result = SCENARIOS[name](study)
        except (RuntimeError, TimeoutError) as error:
            click.echo(error, err=True)
            result = Result(fault=name, same=[False], remark="FAILED")
        finally:
            study.end_all()
        took = round(time.monotonic() - started)
        keep(results, name, {**asdict(result), **facts, "took": took})
        click.echo(f"{name}, {took} s: {result.row()}")
    found = [Result.of(row) for row in json.loads(results.read_text())["results"].values()]
    click.echo(table([row.row() for row in found], [*found[0].row()]))
    if any(False in row.same or "NOT" in row.remark for row in found):
        raise SystemExit(CHECK_FAILED)


def markdown(found: dict[str, Any]) -> str:
    """The table for people, of a file of results."""
    rows = [Result.of(row).row() for row in found["results"].values()]
    lines = [[*rows[0]], ["---"] * len(rows[0])]
    lines += [["" if value is None else str(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_table() -> None:
    """Write the table of the committed results into train/README.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = markdown(json.loads(RESULTS.read_text()))
    PAGE.write_text(f"{before}{BEGIN}{table}\n{END}{after}", encoding="utf-8")


def keep(path: Path, name: str, row: dict[str, object]) -> None:
    """Put a row in its place among those of earlier studies, in the order of ``SCENARIOS``."""
    rows = json.loads(path.read_text())["results"] if path.exists() else {}
    rows[name] = row
    ordered = {key: rows[key] for key in SCENARIOS if key in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"save_every_steps": SAVE_EVERY, "results": ordered}, indent=2))


if __name__ == "__main__":
    main()
