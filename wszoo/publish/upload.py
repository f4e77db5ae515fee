"""One push: one commit, fetched back and compared, and only then tagged."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from wszoo.publish.failures import NOTHING, VerificationError, explained
from wszoo.publish.files import PublishedFile, is_publishable
from wszoo.publish.folder import Publication, check_folder
from wszoo.publish.over_xet import sent
from wszoo.publish.run_folder import RunPublication, check_run_folder, is_run_folder
from wszoo.publish.verification import verify_published
from wszoo.weights import WEIGHTS_FILE

_VERSION = re.compile(r"v([1-9]\d*)")
_REPEAT = "repeat the command, it goes on from there"


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """What a push did.

    Attributes:
        name: ``model.tag``, or what the card of a run calls its net.
        repository: ``namespace/name``.
        files: What the repository holds, or would.
        outcome: ``"published"``, ``"unchanged"`` where it held all this before, or ``"dry run"``.
        commit: The verified one, 40 hex digits; None of a dry run.
        tag: Its tag; None of a dry run.
        pin: The commit that the record should name; None of a run, which has none. An earlier one
            that it names already is kept where weights and ``config.json`` are the same: the card
            shows what the record names, so that it would change with every push, and every push
            with it.
        loading: How to get the net of a run.
    """

    name: str
    repository: str
    files: tuple[PublishedFile, ...]
    outcome: str
    commit: str | None = None
    tag: str | None = None
    pin: str | None = None
    loading: str | None = None

    @property
    def pinned(self) -> str | None:
        """The line that a record of ``wszoo/weights_table.py`` takes."""
        return f'hub="{self.repository}@{self.pin}",' if self.pin else None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "repository": self.repository,
            "outcome": self.outcome,
            "commit": self.commit,
            "tag": self.tag,
            "record": self.pinned,
            "loading": self.loading,
            "files": [file.to_json() for file in self.files],
        }

    def __str__(self) -> str:
        lines = [f"{self.name} -> {self.repository}: {self.outcome}"]
        width = max(len(file.name) for file in self.files)
        lines += [
            f"  {file.name:<{width}}  {file.bytes:>11,} bytes  sha256 {file.sha256[:12]}…"
            for file in self.files
        ]
        if self.commit:
            lines.append(f"  commit {self.commit}, verified, tagged {self.tag}")
        if self.pinned:
            lines.append(f"  for its record in wszoo/weights_table.py: {self.pinned}")
        if self.loading:
            lines.append(f"  to load it: {self.loading}")
        return "\n".join(lines)


def check(folder: Path) -> Publication | RunPublication:
    """Everything that ``folder``, of a record or of a run, publishes; no request is made.

    Raises:
        FileNotFoundError, ValueError: As for ``check_folder`` and ``check_run_folder``.
    """
    return check_run_folder(folder) if is_run_folder(folder) else check_folder(folder)


def push(
    folder: Path,
    repository: str,
    *,
    dry_run: bool = False,
    private: bool = False,
    echo: Callable[[str], None] = lambda line: None,
) -> PushReport:
    """Check a folder, of a record or of a run, and publish it, as ``publish`` does.

    Raises:
        FileNotFoundError, ValueError: The folder is not fit to be published, or as for ``publish``.
    """
    return publish(check(folder), repository, dry_run=dry_run, private=private, echo=echo)


def publish(
    publication: Publication | RunPublication,
    repository: str,
    *,
    dry_run: bool = False,
    private: bool = False,
    echo: Callable[[str], None] = lambda line: None,
) -> PushReport:
    """Make a repository of the Hub hold exactly the files of ``publication``, in one commit.

    The commit is then fetched back and compared, and only if nothing differs tagged: ``v1`` is the
    first one that was verified, each other content gets the next number, and no tag ever moves.
    Nothing is committed where nothing changed; what an earlier push left undone is done.

    Args:
        repository: ``namespace/name``; made if there is none.
        dry_run: Only say what would be published; no request is made.
        private: Nobody else is to see the repository.
        echo: Told what is being done.

    Raises:
        ValueError: ``repository`` is no such name, is public where ``private`` is asked, holds
            files of others, or the Hub does not take what was sent.
        VerificationError: What was published is not what was sent; it has no tag.
        PermissionError, ConnectionError, FileNotFoundError, OSError: As the Hub or the network
            would have it; the message says what is published then.
        KeyboardInterrupt: With a message that says so, too.
    """
    check_repository(repository)
    done = PushReport(
        name=publication.name,
        repository=repository,
        files=publication.files,
        outcome="dry run",
    )
    if dry_run:
        return done
    # token=True: nothing is sent by a client that has no token
    api = HfApi(token=True, library_name="wszoo", library_version=version("wszoo"))
    parent, held = _prepare(api, repository, private=private)
    commit = _commit(api, done, parent, held, echo)
    echo(f"verifying {repository}@{commit}")
    _verify(api, repository, commit, publication)
    tag = _tag(api, repository, commit)
    outcome = "unchanged" if commit == parent else "published"
    done = replace(done, outcome=outcome, commit=commit, tag=tag)
    if isinstance(publication, RunPublication):
        return replace(done, loading=publication.loading(repository, commit))
    return replace(done, pin=_pin(api, repository, commit, publication.weights.hub))


def check_repository(repository: str) -> str:
    """``repository``, if it is named as the Hub names them.

    Raises:
        ValueError: It is not.
    """
    try:
        validate_repo_id(repository)
        is_sound = repository.count("/") == 1
    except HFValidationError:
        is_sound = False
    if not is_sound:
        raise ValueError(
            f"{repository!r} is no repository; write NAMESPACE/NAME, of letters, digits, '-', '_' "
            f"and '.'"
        )
    return repository


def _prepare(api: HfApi, repository: str, *, private: bool) -> tuple[str | None, list[str]]:
    """The commit that the next one follows, and the files of earlier pushes that it holds."""
    with explained(repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository)
    if private and not info.private:
        raise ValueError(
            f"{repository} is public already; make it private in its settings, or leave out "
            f"--private; {NOTHING}"
        )
    held = [file.rfilename for file in info.siblings or [] if file.rfilename != ".gitattributes"]
    foreign = sorted(name for name in held if not is_publishable(name))
    if foreign:
        raise ValueError(
            f"{repository} holds {', '.join(foreign)}, which no push puts there; delete what is "
            f"not wanted, or name another --repo; {NOTHING}"
        )
    return info.sha, held


def _commit(
    api: HfApi,
    plan: PushReport,
    parent: str | None,
    held: list[str],
    echo: Callable[[str], None],
) -> str:
    """Upload the files, then commit them all at once; the commit, or ``parent`` if it is that."""
    additions = [
        CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.path) for file in plan.files
    ]
    gone = sorted({*held} - {file.name for file in plan.files})
    deletions = [CommitOperationDelete(path_in_repo=name) for name in gone]
    for addition, file in zip(additions, plan.files, strict=True):
        echo(f"sending {file.name} ({file.bytes:,} bytes) to {plan.repository}")
        with explained(plan.repository):
            # One at a time: of several, threads would go on after Ctrl-C until all are sent.
            sent(partial(api.preupload_lfs_files, plan.repository, [addition], free_memory=False))
    unanswered = "whether it was published is not known: repeat the command, it finds out"
    with explained(plan.repository, unanswered=unanswered):
        made = api.create_commit(
            plan.repository,
            [*additions, *deletions],
            commit_message=f"Publish {plan.name}",
            parent_commit=parent,
        )
    return made.oid


def _verify(
    api: HfApi, repository: str, commit: str, publication: Publication | RunPublication
) -> None:
    left = f"published as {commit}, but not tagged"
    try:
        with explained(repository, f"{left}, since not verified: {_REPEAT}"):
            verify_published(api, repository, commit, publication)
    except VerificationError as error:
        raise VerificationError(
            f"{error}; {left}: repeat the command, and if it fails again, delete the repository; "
            f"no record may name this commit"
        ) from error


def _tag(api: HfApi, repository: str, commit: str) -> str:
    """The tag of a verified commit, which it has from before, or is given now."""
    with explained(repository, f"published and verified as {commit}, but not tagged: {_REPEAT}"):
        versions = {
            int(match[1]): tag.target_commit
            for tag in api.list_repo_refs(repository).tags
            if (match := _VERSION.fullmatch(tag.name))
        }
        for number, target in sorted(versions.items()):
            if target == commit:
                return f"v{number}"
    tag = f"v{max(versions, default=0) + 1}"
    left = f"published and verified as {commit}"
    unanswered = f"{left}, whether it was tagged is not known: repeat the command, it finds out"
    with explained(repository, f"{left}, but not tagged: {_REPEAT}", unanswered=unanswered):
        api.create_tag(repository, tag=tag, revision=commit, tag_message="Verified after the push")
    return tag


def _pin(api: HfApi, repository: str, commit: str, named: str | None) -> str:
    """The commit that the record names, if that loads the same net; else the new one."""
    before, _, earlier = (named or "").partition("@")
    if before != repository or earlier == commit:
        return commit
    left = f"published, verified and tagged as {commit}, the record's commit not looked at"
    with explained(repository, f"{left}: {_REPEAT}"):
        try:
            is_same = _loaded(api, repository, earlier) == _loaded(api, repository, commit)
        except RevisionNotFoundError:  # of a repository that was deleted since
            is_same = False
    return earlier if is_same else commit


def _loaded(api: HfApi, repository: str, revision: str) -> dict[str, str]:
    """Digests of what a net is made of."""
    found = api.get_paths_info(repository, [WEIGHTS_FILE, "config.json"], revision=revision)
    return {file.path: file.blob_id for file in found if isinstance(file, RepoFile)}
