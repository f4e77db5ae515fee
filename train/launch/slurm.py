"""A batch script for Slurm."""

import shlex
from typing import Any

import click

from train.launch.inputs import (
    COUNT,
    COUNT_OR_ZERO,
    SLURM_LIST,
    SLURM_MEMORY,
    SLURM_NAME,
    TIME_LIMIT,
    job_name,
    seconds_of,
    text,
)
from train.launch.templates import fill, shell_lines
from train.launch.training import ENVIRONMENT, Training, renders_job_file
from wszoo.terminal import STOPPED

RESERVE = 30  # seconds of the grace that are left for the agents to end and for queueing again


@click.command()
@renders_job_file
@click.option("--name", help="Of the job; by default that of the run's folder.")
@click.option("--time", type=TIME_LIMIT, default="24:00:00", show_default=True)
@click.option("--cpus", type=COUNT, help="Cores per node; by default 8 per GPU.")
@click.option("--mem", type=SLURM_MEMORY, help="Per node; by default what the site gives.")
@click.option("--partition", type=SLURM_LIST)
@click.option("--account", type=SLURM_NAME)
@click.option("--qos", type=SLURM_NAME)
@click.option(
    "--grace",
    type=click.IntRange(min=2 * RESERVE),
    default=120,
    show_default=True,
    help="Seconds before the time limit at which the run is stopped and saved.",
)
@click.option("--max-requeues", type=COUNT_OR_ZERO, default=20, show_default=True)
@click.option(
    "--setup", type=text, multiple=True, help="A line of bash before the start; may be repeated."
)
def slurm(
    training: Training,
    *,
    name: str | None,
    time: str,
    cpus: int | None,
    grace: int,
    max_requeues: int,
    setup: tuple[str, ...],
    **directives: Any,
) -> str:
    """A batch script for Slurm, which is queued again until the run is done."""
    if seconds_of(time) <= grace:
        raise click.BadParameter(
            f"{time} is not longer than the --grace of {grace} s", param_hint="--time"
        )
    given = (f"#SBATCH --{option}={value}" for option, value in directives.items() if value)
    environment = {**ENVIRONMENT, **training.environment}
    return fill(
        "slurm.sh",
        {
            **training.values(),
            "name": job_name(name, training.out, SLURM_NAME),
            "cpus": str(cpus or 8 * training.gpus),
            "time": time,
            "grace": str(grace),
            "save_seconds": str(grace - RESERVE),
            "directives": "\n".join(given),
            "setup": "\n".join(setup),
            "environment": "\n".join(
                f"export {key}={shlex.quote(value)}" for key, value in environment.items()
            ),
            "training": shell_lines(training.lines()),
            "max_requeues": str(max_requeues),
            "stopped": str(STOPPED),
        },
    )
