"""What every job file starts, and the options by which it is told."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from train.launch.inputs import (
    COUNT,
    COUNT_OR_ZERO,
    check_options,
    environment_of,
    text,
    through,
)
from train.recipes import RECIPES
from wszoo.terminal import check_name

# Workers share the cores with the processes that read images: threads would only get in their way.
# WARN names the rank, the peer and the call when communication breaks.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "NCCL_DEBUG": "WARN"}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of ``train.pretrain`` on a cluster.

    Attributes:
        model: Variant to train.
        recipe: Key of ``train.recipes.RECIPES``.
        data: Path or URL, as the nodes see it.
        out: Folder of the run, which all nodes share.
        options: Further words for ``train.pretrain``.
        nodes: Machines.
        gpus: Per node; each has a worker.
        max_restarts: Of all workers together, within one start of the job.
        environment: Variables beside, or in place of, those of ``ENVIRONMENT``.
    """

    model: str
    recipe: str
    data: str
    out: str
    options: tuple[str, ...]
    nodes: int
    gpus: int
    max_restarts: int
    environment: dict[str, str]

    def lines(self) -> list[list[str]]:
        """Module and arguments, in lines as a reader would break them."""
        given = ["--recipe", self.recipe], ["--data", self.data], ["--out", self.out]
        more = [[*self.options]] if self.options else []
        return [["train.pretrain", self.model], *given, *more]

    def values(self) -> dict[str, str]:
        """What all templates name."""
        gpus = f"{self.nodes} x {self.gpus} GPUs"
        return {
            "title": f"{self.model} by the recipe {self.recipe}, on {gpus}",
            "nodes": str(self.nodes),
            "gpus": str(self.gpus),
            "max_restarts": str(self.max_restarts),
        }


_PARAMETERS = (
    click.argument("model", type=text, callback=through(check_name)),
    click.argument(
        "options",
        nargs=-1,
        type=click.UNPROCESSED,
        metavar="[-- OPTIONS OF train.pretrain]",
        callback=check_options,
    ),
    click.option("--recipe", type=click.Choice(sorted(RECIPES)), required=True),
    click.option("--data", type=text, required=True, help="Images, as the nodes see them."),
    click.option("--out", type=text, required=True, help="Folder of the run, shared."),
    click.option("--nodes", type=COUNT, default=1, show_default=True),
    click.option("--gpus", type=COUNT, default=8, show_default=True, help="Per node."),
    click.option(
        "--max-restarts",
        type=COUNT_OR_ZERO,
        default=3,
        show_default=True,
        help="Of all workers together, within one start of the job.",
    ),
    click.option(
        "--env",
        "environment",
        metavar="NAME=VALUE",
        type=text,
        multiple=True,
        callback=environment_of,
        help="A variable for the workers; may be repeated.",
    ),
    click.option("--print", "is_printed", is_flag=True, help="The default: print the job file."),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write the job file here instead.",
    ),
)


def renders_job_file(command: Callable[..., str]) -> Callable[..., None]:
    """A command around a function of a ``Training`` and of options of its own."""

    @wraps(command)
    def rendered(is_printed: bool, output: Path | None, **options: Any) -> None:
        training = Training(**{field.name: options.pop(field.name) for field in fields(Training)})
        text = command(training, **options)
        if output is not None:
            if output.exists():
                raise ValueError(f"{output} exists; remove it, or name another file after -o")
            output.write_text(text)
        if output is None or is_printed:
            click.echo(text, nl=False)

    for parameter in reversed(_PARAMETERS):
        rendered = parameter(rendered)
    return rendered
