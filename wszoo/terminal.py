"""What the commands share: names, reports, progress bars and one-line errors."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import timm
from torch import nn
from tqdm import tqdm

from wszoo.weights import find, record_of

CHECK_FAILED, BAD_DATA, STOPPED = 1, 3, 4  # exit codes; 2 is click's, for usage


class MainGroup(click.Group):
    """A group whose commands tell of mendable errors in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # click's own, which are RuntimeErrors
            raise
        except (ValueError, RuntimeError, FloatingPointError, OSError) as error:
            if isinstance(error, (BrokenPipeError, RecursionError, NotImplementedError)):
                raise
            fail(error, BAD_DATA)
        except KeyboardInterrupt:
            click.echo("wszoo: stopped", err=True)
            sys.exit(STOPPED)


def fail(error: Exception, code: int) -> None:
    """End the program with the first line of ``error``."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    click.echo(f"wszoo: {lines[0]}", err=True)
    sys.exit(code)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def report(as_json: bool, data: Any, text: Callable[[], str]) -> None:
    """Print ``data`` as JSON, or ``text``."""
    click.echo(json.dumps(data, indent=2) if as_json else text())


def progress(iterable: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """A bar on standard error where that is a terminal; nothing in log files."""
    bar: Iterable[Any] = tqdm(iterable, total=total, desc=label, disable=None, leave=False)
    return bar


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Plain columns under their names, with a dash where there is nothing."""
    cells = [[*columns]]
    cells += [["-" if row[key] is None else str(row[key]) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def check_name(name: str) -> str:
    """The full name of a set of weights, a variant, or any model that timm knows.

    Raises:
        click.BadParameter: There is no such name; the message lists those near it.
    """
    if ":" in name:
        return name  # hf-hub: and local-dir: are timm's to resolve
    model, _, tag = name.partition(".")
    is_ours = model in timm.list_models(module="ws_resnet")
    if timm.is_model(model) and not (is_ours and tag):
        record = record_of(name)
        return record.name if record else name
    try:
        return find(name).name
    except ValueError as error:
        raise click.BadParameter(f"{error}; `wszoo list` shows every variant") from error


name_argument = click.argument(
    "name", metavar="NAME", callback=lambda _context, _parameter, name: check_name(name)
)


def load(name: str, **kwargs: Any) -> nn.Module:
    """The model behind a checked name, in eval mode."""
    model: nn.Module = timm.create_model(name, **kwargs)
    return model.eval()
