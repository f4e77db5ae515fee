"""What is told when the Hub or the way there fails: ``python -m train.study_hub --help``.

Every fault is done to the real client, against a stand-in for the Hub on this machine.
"""

import json
import logging
import re
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import huggingface_hub
import timm
import torch

from train.hub_cases import READS, Case
from train.hub_push_cases import PUSHES, repository_state
from train.hub_scene import Scene, scene
from train.hub_xet_cases import XET_PUSHES, XET_READS, can_run
from wszoo.terminal import CHECK_FAILED, OneLineErrors, as_json, report
from wszoo.training.declaration import code_version, hardware

RESULTS = Path(__file__).parent.parent / "model_cards" / "studies" / "hub_faults.json"
PAGE = RESULTS.with_suffix(".md")
XET = {**XET_READS, **XET_PUSHES}
ALL = {**READS, **PUSHES, **XET}
WORKS, NOT_RUN = "works", "not run"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault, what the user reads, how long that takes, and what is left."""

    fault: str
    message: str
    seconds: float
    state: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.seconds} s, {self.state}\n    {self.message}"

    @property
    def is_sound(self) -> bool:
        """One line, and nothing that is half there."""
        return "\n" not in self.message and "FAILS" not in self.state


class _Warnings(logging.Handler):
    """Keeps what the library warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run(fault: str) -> Row:
    """Do one fault to a fresh cache and repository."""
    if fault in XET and not can_run():
        told = f"{NOT_RUN}: `hf_xet` is not here, or takes no folder for a server"
        return Row(fault=fault, message=told, seconds=0.0, state=NOT_RUN)
    heard = _Warnings()
    logging.getLogger("wszoo").addHandler(heard)
    try:
        with scene(xet=fault in XET) as around:
            told = _outcome(ALL[fault], around)
            seconds = round(time.monotonic() - around.started, 1)
            said = [*(f"warning: {line}" for line in heard.lines), told]
            message = _without_places(" / ".join(said), around)
            pushes = fault in PUSHES or fault in XET_PUSHES
            state = repository_state(around) if pushes else around.state()
    finally:
        logging.getLogger("wszoo").removeHandler(heard)
    return Row(fault=fault, message=message, seconds=seconds, state=state)


def _outcome(case: Case, around: Scene) -> str:
    try:
        case(around)
    except KeyboardInterrupt as stop:
        return str(stop) or "stopped"
    except (OSError, ValueError) as error:
        return str(error)
    return WORKS


def _without_places(message: str, around: Scene) -> str:
    """Ports, folders and digests are others in each run."""
    for place, name in (
        (around.hub.endpoint, "https://HUB"),
        (around.hub.cdn, "https://CDN"),
        ("http://127.0.0.1:9", "https://HUB"),
        (str(around.home / "home"), "HF_HOME"),
        (str(around.home), "FOLDER"),
    ):
        message = message.replace(place, name)
    return re.sub(r"\b(?=[a-f]*\d)[0-9a-f]{12,64}\b", "DIGEST", message)


def markdown(found: dict[str, Any]) -> str:
    """The page for people, of a file of results."""
    rows = [Row(**row) for row in found["results"]]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        "# When the Hub fails",
        "",
        "Each fault is done to the real client, against a stand-in for the Hub on the same machine",
        "(`tests/hub_server.py`): what the real Hub does is known from its client alone.",
        "`python -m train.study_hub` does it again; `--render` writes this page from",
        "`hub_faults.json`. Where nothing else is said, weights are asked for by a registered name",
        "with a pinned commit, and the cache is empty; `hf-hub: name` is one of the Hub, given to",
        "`timm.create_model` without a commit. The next use is one without the fault. Rows of Xet",
        "have a folder as storage server, which `hf_xet` takes for tests of its own: that its",
        "servers break off within a file is not among them.",
        "",
        f"{found['hardware']}; {versions}; code {found['code']}.",
        "",
        "| fault | message | seconds | state afterwards |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.fault} | {row.message.replace('|', chr(92) + '|')} | {row.seconds} | {row.state} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


@click.command(cls=OneLineErrors)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--only", multiple=True, type=click.Choice([*ALL]), help="Some faults alone.")
@click.option("--render", is_flag=True, help="Only write the page of --out again.")
@as_json
def main(out: Path, only: tuple[str, ...], render: bool, as_json: bool) -> None:
    """Do every fault, print what is told, and keep it."""
    if not render:
        # Shells have what they start in the background ignore Ctrl-C, which is one of the faults.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rows = [_told(run(fault), as_json) for fault in only or ALL]
        found = {
            "hardware": hardware(),
            "code": code_version(),
            "versions": {
                "huggingface_hub": huggingface_hub.__version__,
                "timm": timm.__version__,
                "torch": torch.__version__.partition("+")[0],
            },
            "results": _merged(out if only else None, rows),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    found = json.loads(out.read_text(encoding="utf-8"))
    out.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    rows = [Row(**row) for row in found["results"]]
    report(as_json, found, lambda: "\n".join(map(str, rows)))
    if not all(row.is_sound for row in rows):
        raise SystemExit(CHECK_FAILED)


def _merged(path: Path | None, rows: list[Row]) -> list[dict[str, Any]]:
    """All rows in the order of the faults, those of an earlier study among them."""
    old = json.loads(path.read_text(encoding="utf-8"))["results"] if path and path.exists() else []
    by_fault = {row["fault"]: row for row in [*old, *map(asdict, rows)]}
    return [by_fault[fault] for fault in ALL if fault in by_fault]


def _told(row: Row, quiet: bool) -> Row:
    if not quiet:
        click.echo(f"{row.fault}: {row.seconds} s", err=True)
    return row


if __name__ == "__main__":
    main()
