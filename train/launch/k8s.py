"""A TrainJob for Kubernetes."""

import click

from train.launch.inputs import (
    COUNT,
    IMAGE,
    KUBERNETES_MEMORY,
    LABEL,
    RESOURCE,
    job_name,
    mount_folders,
    text,
)
from train.launch.templates import fill, kubernetes_text, yaml_text
from train.launch.training import ENVIRONMENT, Training, renders_job_file

_DATA_VOLUME = """\
- name: data
  persistentVolumeClaim:
    claimName: {}"""
_DATA_MOUNT = """\
- name: data
  mountPath: {}
  readOnly: true"""


@click.command()
@renders_job_file
@click.option("--name", help="Of the job; by default that of the run's folder.")
@click.option("--namespace", type=LABEL, help="By default that of kubectl.")
@click.option("--image", type=IMAGE, required=True, help="With a checkout and what it needs.")
@click.option("--checkout", type=text, required=True, help="Its folder in the image.")
@click.option(
    "--runs-claim",
    type=RESOURCE,
    required=True,
    help="Claim of a volume that all nodes write, mounted at the folder above --out.",
)
@click.option("--data-claim", type=RESOURCE, help="Mounted at the folder above --data.")
@click.option("--cpus", type=COUNT, help="Cores per node; by default 8 per GPU.")
@click.option("--memory", type=KUBERNETES_MEMORY, default="256Gi", show_default=True)
@click.option("--shared-memory", type=KUBERNETES_MEMORY, default="64Gi", show_default=True)
@click.option("--runtime", type=RESOURCE, default="torch-distributed", show_default=True)
def k8s(
    training: Training,
    *,
    name: str | None,
    namespace: str | None,
    image: str,
    checkout: str,
    runs_claim: str,
    data_claim: str | None,
    cpus: int | None,
    memory: str,
    shared_memory: str,
    runtime: str,
) -> str:
    """A TrainJob for Kubernetes with Kubeflow Trainer, 2.2 or later."""
    check_paths(training, checkout, is_data_mounted=data_claim is not None)
    runs, data = mount_folders(training.out, training.data if data_claim else None)
    environment = {"PYTHONPATH": checkout, **ENVIRONMENT, **training.environment}
    job = job_name(name, training.out, LABEL)
    return fill(
        "trainjob.yaml",
        {
            **training.values(),
            "name": yaml_text(job),
            "rendezvous": job,
            "namespace": f"namespace: {yaml_text(namespace)}" if namespace else "",
            "runtime": yaml_text(runtime),
            "image": yaml_text(image),
            "training": "\n".join(
                f"- {kubernetes_text(word)}" for line in training.lines() for word in line
            ),
            "environment": "\n".join(
                f"- name: {key}\n  value: {kubernetes_text(value)}"
                for key, value in environment.items()
            ),
            "cpus": str(cpus or 8 * training.gpus),
            "memory": memory,
            "shared_memory": shared_memory,
            "runs_claim": yaml_text(runs_claim),
            "runs_folder": yaml_text(runs),
            "data_volume": _DATA_VOLUME.format(yaml_text(data_claim)) if data_claim else "",
            "data_volume_mount": _DATA_MOUNT.format(yaml_text(data)) if data else "",
        },
    )


def check_paths(training: Training, checkout: str, *, is_data_mounted: bool) -> None:
    """Refuse what depends on the working directory, which is the runtime's, and its variables.

    Raises:
        click.BadParameter: A path is relative, or a variable is Trainer's own.
    """
    if not checkout.startswith("/"):
        raise click.BadParameter(
            f"{checkout!r} is relative; write it like /opt/wszoo", param_hint="--checkout"
        )
    if not (is_data_mounted or training.data.startswith("/") or "://" in training.data):
        raise click.BadParameter(
            f"{training.data!r} is relative; write it like /data/imagenet", param_hint="--data"
        )
    for name in training.environment:
        if name.startswith("PET_"):
            raise click.BadParameter(f"Trainer sets {name} itself; remove it", param_hint="--env")
