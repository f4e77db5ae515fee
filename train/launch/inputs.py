"""What goes into a job file, checked when it is rendered: on the cluster it would fail hours later.

Names have the forms that the clusters take; all other text is quoted by ``templates``.
"""

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import click


def like(name: str, pattern: str, example: str, most: int = 253) -> Callable[[str], str]:
    """A type for click: texts all of which matches ``pattern``.

    Args:
        name: What it is, for messages.
        pattern: Regular expression.
        example: Shown where a text does not match.
        most: Characters.
    """

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise click.BadParameter(f"{value!r} is no {name}; write it like {example}")
        if len(value) > most:
            raise click.BadParameter(f"{value!r} has {len(value)} characters; {most} fit")
        return value

    check.__name__ = name.replace(" ", "_")  # which click shows as the type, in its help
    return check


def text(value: str) -> str:
    """A type for click: any one line, which will be quoted."""
    if not value or not value.isprintable():
        raise click.BadParameter(f"{value!r} is empty or not printable; choose another")
    return value


COUNT = click.IntRange(min=1)
COUNT_OR_ZERO = click.IntRange(min=0)

SLURM_NAME = like("name", r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "r50-in1k", 100)
SLURM_LIST = like("names", r"[A-Za-z0-9_][A-Za-z0-9_.,-]*", "gpu or gpu,gpu-long")
SLURM_MEMORY = like("memory", r"[1-9][0-9]*[KMGT]", "500G")
TIME_LIMIT = like("time", r"(?:[0-9]+-)?[0-9]{1,2}:[0-5][0-9]:[0-5][0-9]", "24:00:00")

ACCELERATOR = like("accelerator", r"[A-Za-z0-9][A-Za-z0-9-]*", "H100")
BUCKET = like("bucket", r"(?:s3|gs|r2|oci|cos|nebius)://[A-Za-z0-9][A-Za-z0-9._/-]*", "s3://runs")
# SkyPilot 0.14 puts the folder into shell commands as it stands.
SKY_FOLDER = like("folder for a bucket", r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)+", "/runs")

# RFC 1035; Kubernetes adds up to 20 characters for the names of pods, and 63 fit.
LABEL = like("name", r"[a-z](?:[a-z0-9-]*[a-z0-9])?", "r50-in1k", 40)
RESOURCE = like("name", r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", "imagenet")
KUBERNETES_MEMORY = like("memory", r"[1-9][0-9]*[MGT]i", "512Gi")
IMAGE = like("image", r"[a-z0-9][A-Za-z0-9._/:@-]*", "registry.example.org/wszoo:0.1", 500)


def seconds_of(time: str) -> int:
    """A ``TIME_LIMIT``, ``[D-]HH:MM:SS``, in seconds."""
    days, _, clock = time.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def job_name(given: str | None, out: str, form: Callable[[str], str]) -> str:
    """The name that was given, or else that of the run's folder.

    Raises:
        click.BadParameter: It is not of the form.
    """
    try:
        return form(given or PurePosixPath(out).name)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="--name") from error


def mount_folder(path: str, option: str) -> str:
    """The folder above ``path``, at which storage is mounted.

    Raises:
        click.BadParameter: Nothing can be mounted there.
    """
    folder = PurePosixPath(path).parent
    usable = folder.is_absolute() and len(folder.parts) > 1 and ".." not in folder.parts
    if not usable or ":" in path:
        raise click.BadParameter(
            f"{path!r} is in no folder that storage could be mounted at; "
            f"write it like /data/imagenet",
            param_hint=option,
        )
    return str(folder)


def mount_folders(out: str, data: str | None) -> tuple[str, str | None]:
    """Where the storage of runs is mounted, and that of the data, unless that is None.

    Raises:
        click.BadParameter: Nothing can be mounted there, or one would hide the other.
    """
    runs = mount_folder(out, "--out")
    if data is None:
        return runs, None
    images = mount_folder(data, "--data")
    first, second = PurePosixPath(runs), PurePosixPath(images)
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise click.BadParameter(
            f"one storage would be mounted at {runs}, one at {images}, and hide the other; "
            f"write them like /runs/r50 and /data/imagenet",
            param_hint="--out and --data",
        )
    return runs, images


def environment_of(
    _context: click.Context, _parameter: click.Parameter, settings: tuple[str, ...]
) -> dict[str, str]:
    """A callback for options ``NAME=VALUE``."""
    environment: dict[str, str] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", setting):
            raise click.BadParameter(f"{setting!r} is not like NAME=VALUE")
        if name in environment:
            raise click.BadParameter(f"{name} is given twice; keep one")
        environment[name] = value
    return environment


def check_options(
    _context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]
) -> tuple[str, ...]:
    """A callback for what is passed on to ``train.pretrain``."""
    if words and not words[0].startswith("-"):
        raise click.BadParameter(
            f"unexpected {words[0]!r}; options of train.pretrain go last, after ` -- `"
        )
    return tuple(map(text, words))


def through(check: Callable[[str], Any]) -> Callable[..., str]:
    """A callback that only looks at a value."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        check(value)
        return value

    return callback
