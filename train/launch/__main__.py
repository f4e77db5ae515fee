"""Render job files for clusters: ``python -m train.launch --help``."""

import click

from train.launch.k8s import k8s
from train.launch.sky import sky
from train.launch.slurm import slurm
from wszoo.terminal import MainGroup


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Render the job file that trains a variant on a cluster. Nothing is submitted.

    The job starts train.pretrain on every GPU, stops and saves it when the cluster wants its
    machines back, and goes on when it has machines again.
    """


for command in (slurm, sky, k8s):
    main.add_command(command)

if __name__ == "__main__":
    main()
