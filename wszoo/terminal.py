"""What the commands share: names, reports, progress bars and one-line errors."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import click
import timm
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm

from wszoo.weights import find, record_of

CHECK_FAILED, BAD_DATA, STOPPED = 1, 3, 4  # exit codes; 2 is click's, for usage
_TRAINED = "`wszoo list --pretrained` shows those with weights"


class OneLineErrors(click.Command):
    """A command that tells of mendable errors in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click ends quietly on it
            raise
        except (ValueError, FloatingPointError, OSError, SafetensorError) as error:
            fail(error, BAD_DATA)
        except KeyboardInterrupt:
            click.echo("wszoo: stopped", err=True)
            sys.exit(STOPPED)


class MainGroup(OneLineErrors, click.Group):
    """A group of which that is true for every command."""


def fail(error: Exception | str, code: int) -> NoReturn:
    """End the program with the first line of ``error``, and the second if the first announces it.

    ``Error(s) in loading state_dict for ResNet:`` alone would tell nothing.
    """
    lines = [*map(str.strip, str(error).strip().splitlines())] or [type(error).__name__]
    click.echo(f"wszoo: {' '.join(lines[: 1 + lines[0].endswith(':')])}", err=True)
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
    ours = timm.list_models(module="ws_resnet")
    if not timm.is_model(model):
        near = get_close_matches(model, ours, cutoff=0.8)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise click.BadParameter(f"no model {model!r}; {hint}`wszoo list` shows every variant")
    if model in ours and tag:
        try:
            return find(name).name
        except ValueError as error:
            raise click.BadParameter(f"{error}; {_TRAINED}") from error
    record = record_of(name)
    return record.name if record else name


def check_ours(name: str) -> str:
    """The full name of a variant of this zoo or of its weights.

    Raises:
        click.BadParameter: It is another model.
    """
    checked = check_name(name)
    if checked.partition(".")[0] not in timm.list_models(module="ws_resnet"):
        raise click.BadParameter(f"{name!r} is not of this zoo; see `wszoo list`")
    return checked


def check_trained(name: str) -> str:
    """The full name of weights, as far as can be told before anything is loaded.

    Raises:
        click.BadParameter: The model has none.
    """
    checked = check_name(name)
    if ":" in name or record_of(checked) or timm.is_model_pretrained(checked):
        return checked
    raise click.BadParameter(f"{name!r} has no weights; {_TRAINED}")


def check_foldable(name: str) -> str:
    """The full name of weights of this zoo; what a folder or a repository holds comes out later."""
    return check_trained(name if ":" in name else check_ours(name))


def checked_by(check: Callable[[str], str]) -> Callable[..., Any]:
    """A callback for click that runs a parameter, if given, through ``check``."""
    return lambda _context, _parameter, name: name and check(name)


def data_location(text: str) -> Path | str:
    """Where data lie: an address as it is, else a path."""
    return text if "://" in text else Path(text)


def name_argument(check: Callable[[str], str]) -> Callable[..., Any]:
    """The argument NAME, run through ``check``."""
    return click.argument("name", metavar="NAME", callback=checked_by(check))


def load(name: str, **kwargs: Any) -> nn.Module:
    """The model behind a checked name, in eval mode.

    Raises:
        ValueError: It cannot be loaded. timm says so with RuntimeErrors, which elsewhere are bugs.
    """
    try:
        model: nn.Module = timm.create_model(name, **kwargs)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # such as NotImplementedError
            raise
        raise ValueError(str(error)) from error
    return model.eval()
