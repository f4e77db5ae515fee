"""The command ``wszoo push``: weights of this zoo, and nets of runs, to the Hub."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wszoo.terminal import BAD_DATA, CHECK_FAILED, STOPPED, OneLineErrors, as_json, fail, report
from wszoo.weights import WEIGHTS, record_of

if TYPE_CHECKING:
    from wszoo.publish import Publication, PushReport, RunPublication

NAMESPACE = "WSZOO_HUB_NAMESPACE"


@click.command(cls=OneLineErrors)
@click.argument(
    "folder", required=False, metavar="[FOLDER]", type=click.Path(path_type=Path, file_okay=False)
)
@click.option(
    "--repo",
    "repository",
    metavar="NAMESPACE/NAME",
    help=f"The repository; where left out, ${NAMESPACE} and the folder's name (not of a run).",
)
@click.option("--all", "everything", is_flag=True, help="All weights of this zoo in FOLDER.")
@click.option("--dry-run", is_flag=True, help="Check, and list what would be sent; send nothing.")
@click.option("--private", is_flag=True, help="Make repositories that nobody else sees.")
@click.option("--collection", metavar="SLUG", help="Put the weights into this one, too.")
@click.option("--no-collection", is_flag=True, help="With --all: into no collection.")
@click.option("--yes", is_flag=True, help="Do not ask; nothing is asked where no terminal is.")
@as_json
def push(
    folder: Path | None,
    repository: str | None,
    everything: bool,
    dry_run: bool,
    private: bool,
    collection: str | None,
    no_collection: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Publish FOLDER on the Hub: model_cards/MODEL.TAG, or what `wszoo card RUN` wrote.

    One commit, which is fetched back, compared and then tagged; the record that pins it is
    printed, or how to load the net of a run. With --all, FOLDER is the one that holds all of them
    (model_cards), and the weights get into the collection "WS zoo". Repeating a push sends what
    changed, or what is missing.
    """
    if no_collection and (collection or not everything):
        raise click.UsageError("--no-collection goes with --all, and not with --collection")
    folders = _folders(folder, everything)
    targets = [_target(each, repository, everything) for each in folders]
    _say(f"checking {', '.join(each.name for each in folders)}")
    from wszoo.publish import check  # takes a second

    publications = [check(each) for each in folders]
    if not dry_run and not yes:
        _ask(targets, private)
    reports = _push(publications, targets, dry_run=dry_run, private=private)
    slug = None
    try:
        if not dry_run and (collection or (everything and not no_collection)):
            slug = _collect(reports, collection, private)
    finally:  # the pins are known from here alone
        data = {"pushed": [each.to_json() for each in reports], "collection": slug}
        lines = [*map(str, reports), *([f"collection {slug}"] if slug else [])]
        report(as_json, data, lambda: "\n".join(lines))


def _folders(folder: Path | None, everything: bool) -> list[Path]:
    if everything:
        home = folder or Path("model_cards")
        return [home / weights.name for weights in WEIGHTS if weights.origin is None]
    if folder is None:
        raise click.UsageError("name a folder, such as model_cards/MODEL.TAG, or give --all")
    return [folder]


def _target(folder: Path, repository: str | None, everything: bool) -> str:
    if repository and everything:
        raise click.UsageError(f"--repo names one repository; with --all, set {NAMESPACE}")
    namespace, name = os.environ.get(NAMESPACE), folder.resolve().name
    record = record_of(name)
    if not repository and (record is None or record.name != name):
        raise click.UsageError(
            f"no record is named {name!r}; name the repository with --repo NAMESPACE/NAME"
        )
    if not repository and not namespace:
        raise click.UsageError(
            f"name the repository with --repo NAMESPACE/NAME, or set {NAMESPACE}"
        )
    from wszoo.publish import check_repository

    try:
        return check_repository(repository or f"{namespace}/{name}")
    except ValueError as error:
        hint = "--repo" if repository else NAMESPACE
        raise click.BadParameter(str(error), param_hint=hint) from error


def _ask(targets: Sequence[str], private: bool) -> None:
    """Go on if the user wants to, or where there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    who = "for you alone" if private else "for everyone"
    try:
        agreed = click.confirm(f"Publish {who}: {', '.join(targets)}?", err=True)
    except click.Abort:  # Ctrl-C, or the end of input
        agreed = False
    if not agreed:
        fail("stopped; nothing was published", STOPPED)


def _push(
    publications: Sequence["Publication | RunPublication"],
    targets: Sequence[str],
    *,
    dry_run: bool,
    private: bool,
) -> list["PushReport"]:
    """Push one after the other; what stops it says which are published and which are not."""
    from wszoo.publish import VerificationError, publish

    done: list[PushReport] = []
    for publication, target in zip(publications, targets, strict=True):
        try:
            with _bars_on_terminals_only():
                report = publish(publication, target, dry_run=dry_run, private=private, echo=_say)
            done.append(report)
        except VerificationError as error:
            fail(f"{error}{_standing(done, targets)}", CHECK_FAILED)
        except KeyboardInterrupt as stop:
            told = str(stop) or f"stopped while pushing to {target}; repeat the command, it goes on"
            fail(f"{told}{_standing(done, targets)}", STOPPED)
        except (OSError, ValueError) as error:
            fail(f"{error}{_standing(done, targets)}", BAD_DATA)
    return done


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """The client draws its bars into log files, too."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _standing(done: Sequence["PushReport"], targets: Sequence[str]) -> str:
    """Of several: which are published, and which were not begun."""
    if len(targets) == 1:
        return ""
    published = ", ".join(report.repository for report in done) or "none"
    ahead = ", ".join(targets[len(done) + 1 :]) or "none"
    return f"; of the others, published: {published}, not begun: {ahead}"


def _collect(reports: Sequence["PushReport"], slug: str | None, private: bool) -> str:
    from wszoo.publish import collect

    _say("putting them into the collection")
    pushed = [(report.name if report.pin else None, report.repository) for report in reports]
    try:
        return collect(pushed, slug=slug, private=private)
    except KeyboardInterrupt as stop:
        fail(str(stop), STOPPED)
    except (OSError, ValueError) as error:
        way = "name none, or another one, with --collection" if slug else "or give --no-collection"
        fail(f"{error}; {way}", BAD_DATA)


def _say(line: str) -> None:
    click.echo(line, err=True)
