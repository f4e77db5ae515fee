"""A managed job for SkyPilot."""

import click

from train.launch.inputs import (
    ACCELERATOR,
    BUCKET,
    COUNT_OR_ZERO,
    LABEL,
    SKY_FOLDER,
    job_name,
    mount_folders,
    text,
)
from train.launch.templates import fill, shell_lines, yaml_text
from train.launch.training import ENVIRONMENT, Training, renders_job_file
from wszoo.terminal import STOPPED


@click.command()
@renders_job_file
@click.option("--name", help="Of the job; by default that of the run's folder.")
@click.option("--accelerator", type=ACCELERATOR, default="H100", show_default=True)
@click.option("--spot/--on-demand", default=True, show_default=True)
@click.option(
    "--runs-bucket", type=BUCKET, required=True, help="Mounted at the folder above --out."
)
@click.option("--data-bucket", type=BUCKET, help="Mounted at the folder above --data.")
@click.option(
    "--max-errors",
    type=COUNT_OR_ZERO,
    default=3,
    show_default=True,
    help="After which the job is given up; lost machines do not count.",
)
@click.option(
    "--setup",
    type=text,
    multiple=True,
    default=["pip install -e ."],
    show_default=True,
    help="A line of bash on every new node; may be repeated.",
)
def sky(
    training: Training,
    *,
    name: str | None,
    accelerator: str,
    spot: bool,
    runs_bucket: str,
    data_bucket: str | None,
    max_errors: int,
    setup: tuple[str, ...],
) -> str:
    """A managed job for SkyPilot on spot machines, with its checkpoints in a bucket."""
    runs, data = mount_folders(training.out, training.data if data_bucket else None)
    for folder in filter(None, (runs, data)):
        SKY_FOLDER(folder)
    job = job_name(name, training.out, LABEL)
    environment = {**ENVIRONMENT, **training.environment}
    return fill(
        "sky.yaml",
        {
            **training.values(),
            "name": yaml_text(job),
            "accelerators": yaml_text(f"{accelerator}:{training.gpus}"),
            "spot": str(spot).lower(),
            "max_errors": str(max_errors),
            "stopped": str(STOPPED),
            "runs_mount": f"{runs}:\n  source: {runs_bucket}\n  mode: MOUNT_CACHED",
            "data_mount": f"{data}:\n  source: {data_bucket}\n  mode: MOUNT" if data else "",
            "environment": "\n".join(
                f"{key}: {yaml_text(value)}" for key, value in environment.items()
            ),
            "setup": "\n".join(setup),
            "training": shell_lines(training.lines()),
            "rendezvous": job,
        },
    )
