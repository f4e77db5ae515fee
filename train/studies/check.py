"""Whether figures and pages are what the results give: ``python -m train.studies.check``."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from train import study_accumulation, study_inside, study_invariance, study_memory
from train.studies import batch_size_page, grid, seed_page, transfer_page
from train.studies.figures import PLOTTED, Plot, differences
from train.studies.results import STUDIES
from wszoo.terminal import CHECK_FAILED, OneLineErrors, as_json, report


class Study(NamedTuple):
    """How a folder of results is turned into figures and a page.

    Attributes:
        plotted: What its figures show, by their names.
        page: Its text.
        write: Writes both.
        made_from: The file of the results.
    """

    plotted: Callable[[Path], dict[str, Any]]
    page: Callable[[Path], str]
    write: Callable[[Path], None]
    made_from: str


def _shown(plots: Callable[[Path], dict[str, Plot]]) -> Callable[[Path], dict[str, Any]]:
    return lambda out: {name: plot.to_json() for name, plot in plots(out).items()}


CHECKED = {
    "batch_size": Study(
        _shown(batch_size_page.plots),
        batch_size_page.page,
        batch_size_page.write_page,
        grid.RESULTS,
    ),
    "transfer": Study(
        _shown(transfer_page.plots),
        transfer_page.page,
        transfer_page.write_page,
        transfer_page.RESULTS,
    ),
    "accumulation": Study(
        _shown(study_accumulation.plots),
        study_accumulation.page,
        study_accumulation.write_page,
        study_accumulation.RESULTS,
    ),
    "inside": Study(
        _shown(study_inside.plots), study_inside.page, study_inside.write_page, study_inside.RESULTS
    ),
    "invariance": Study(
        study_invariance.plotted,
        study_invariance.page,
        study_invariance.write_page,
        study_invariance.RESULTS,
    ),
    "memory": Study(
        _shown(study_memory.plots), study_memory.page, study_memory.write_page, study_memory.RESULTS
    ),
    "seed": Study(_shown(seed_page.plots), seed_page.page, seed_page.write_page, seed_page.RESULTS),
}
PAGE = "README.md"


def check(name: str, studies: Path = STUDIES) -> list[str]:
    """What is not as the results of one study give it; nothing where it was not run."""
    study, out = CHECKED[name], studies / name
    if not (out / study.made_from).exists():
        return []
    expected = study.plotted(out)
    if not expected:
        return []
    found = []
    if not (out / PLOTTED).exists():
        return [f"{name}: no {PLOTTED}; run `python -m train.studies.check --render`"]
    plotted = json.loads((out / PLOTTED).read_text(encoding="utf-8"))
    found += [f"{name}: {line}" for line in differences(plotted, expected)]
    found += [f"{name}: no {each}.png" for each in expected if not (out / f"{each}.png").exists()]
    if not (out / PAGE).exists() or (out / PAGE).read_text(encoding="utf-8") != study.page(out):
        found.append(f"{name}: {PAGE} is not what the results give")
    return found


@click.command(cls=OneLineErrors)
@click.option(
    "--studies",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=STUDIES,
    show_default=True,
)
@click.option("--render", is_flag=True, help="First draw and write all of it again.")
@as_json
def main(studies: Path, render: bool, as_json: bool) -> None:
    """Compare the figures and pages of all studies with their results."""
    present = [name for name in CHECKED if (studies / name / CHECKED[name].made_from).exists()]
    if render:
        for name in present:
            CHECKED[name].write(studies / name)
    found = {name: check(name, studies) for name in present}
    lines = [line for each in found.values() for line in each]
    report(as_json, found, lambda: "\n".join([*lines, f"{', '.join(present)}: checked"]))
    if lines:
        sys.exit(CHECK_FAILED)


if __name__ == "__main__":
    main()
