"""What the stand-in for the Hub keeps: repositories of commits, large files, collections."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

FIRST_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class Refused(Exception):  # noqa: N818
    """An error for an answer: its status, the code that the client goes by, more for the body."""

    def __init__(
        self,
        status: int,
        code: str = "",
        message: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.more = status, message, more
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self.headers = {key: text for key, text in told.items() if text} | dict(headers or {})


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    files: dict[str, bytes]
    parent: str | None


@dataclass
class Repo:
    """A repository of one branch. Nobody has been let into a ``gated`` one yet."""

    name: str
    private: bool = False
    gated: bool = False
    disabled: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, files: dict[str, bytes]) -> Commit:
        parent = self.commits[-1].sha if self.commits else None
        text = f"{self.name} {parent} {title} {sorted((k, sha256(v)) for k, v in files.items())}"
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), title, dict(files), parent)
        self.commits.append(made)
        return made

    def at(self, revision: str) -> Commit:
        sha = self.commits[-1].sha if revision == "main" else self.tags.get(revision, revision)
        for commit in self.commits:
            if commit.sha == sha:
                return commit
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")


@dataclass
class Hub:
    """All that is kept. ``objects`` are the large files, by sha256."""

    token: str
    user: str
    endpoint: str = ""
    cdn: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def publish(self, name: str, files: dict[str, bytes], title: str = "Publish") -> Commit:
        """Put files into a repository, made if missing, behind the client's back."""
        repo = self.repos.setdefault(name, Repo(name))
        if not repo.commits:
            repo.commit("initial commit", FIRST_FILES)
        self.objects |= {sha256(data): data for path, data in files.items() if is_lfs(path, data)}
        return repo.commit(title, repo.commits[-1].files | files)


@lru_cache(maxsize=64)
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str, start: bytes) -> bool:
    return path.endswith(".safetensors") or b"\0" in start[:512]
