"""What a run is, written down before it starts, and how it was started each time."""

import json
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from wszoo.training.rows import append_row, read_rows, replace_file

_RUN, _STARTS = "run.json", "starts.jsonl"


def declare(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write down what a run is before it starts, and hold a resumed one to it.

    Settings that were not declared before are added.

    Returns:
        The settings as they were first written, with ``hardware`` and ``code``.

    Raises:
        ValueError: The folder belongs to a run with other settings; each is named.
    """
    path = output / _RUN
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        facts = {**settings, "hardware": hardware(), "code": code_version()}
        replace_file(path, (json.dumps(facts, indent=2) + "\n").encode())
        return facts
    before: dict[str, Any] = json.loads(path.read_text())
    if new := {key: value for key, value in settings.items() if key not in before}:
        before |= new
        replace_file(path, (json.dumps(before, indent=2) + "\n").encode())
    differences = [
        f"{key} {old!r}, not {new!r}" for key, old, new in _compare("", before, settings)
    ]
    if differences:
        raise ValueError(
            f"{output} holds a run with {'; '.join(differences)}; resume it as it was, or name "
            f"another folder"
        )
    return before


def _compare(prefix: str, before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Names and values of the settings that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [(prefix, before, now)]
    found = []
    for key, value in now.items():
        found += _compare(f"{prefix}.{key}".lstrip("."), before.get(key), value)
    return found


def note_start(output: Path, *, ranks: int, step: int, **more: Any) -> list[str]:
    """Append how this process was started to starts.jsonl.

    Returns:
        What differs from the start before in a way that may change bits, though not the outcome.
    """
    facts = {
        "ranks": ranks,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "hardware": hardware(),
        "code": code_version(),
        **more,
    }
    path = output / _STARTS
    append_row(path, {"time": time.strftime("%F %T %z"), "step": step, **facts})
    rows, _ = read_rows(path)
    if len(rows) < 2:
        return []
    before = rows[-2]
    return [
        f"{key} was {before.get(key)} before and is {value} now"
        for key, value in facts.items()
        if before.get(key) != value
    ]


def hardware() -> str:
    """What the run computes on, for its card."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{threads} CPU thread{'s' * (threads > 1)} ({next(named, platform.machine())})"


def code_version() -> str:
    """Commit of this checkout, with ``-dirty`` where files differ from it."""
    here = Path(__file__)
    git = ("git", "-C", str(here.parent))
    try:  # an installed package may lie in the repository of another project
        ours = subprocess.run((*git, "ls-files", "--error-unmatch", here.name), capture_output=True)
        command = (*git, "describe", "--always", "--dirty", "--abbrev=12")
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return "unknown"
    return (ours.returncode == 0 and result.stdout.strip()) or "unknown"
