"""What the stand-in for the Hub keeps: repositories of commits; and requests and answers."""

import json
from dataclasses import dataclass, field
from email.message import Message
from functools import lru_cache
from hashlib import sha1
from hashlib import sha256 as _sha256
from typing import Any, NamedTuple

Table = dict[str, Any]
FIRST_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


@lru_cache(maxsize=64)
def sha256(content: bytes) -> str:
    return _sha256(content).hexdigest()


@lru_cache(maxsize=64)
def git_oid(content: bytes) -> str:
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str, start: bytes) -> bool:
    return path.endswith(".safetensors") or b"\0" in start[:512]


class Answer(Exception):  # noqa: N818
    """What is sent; raised where it is a refusal, which the client knows by its ``code``."""

    def __init__(
        self, sent: Any, headers: Table | None = None, *, status: int = 200, code: str = ""
    ) -> None:
        self.content = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        self.headers = {"X-Error-Code": code} if code else {}
        self.headers |= headers or {}
        self.status = status


class Request(NamedTuple):
    """One that came in, at ``origin`` "hub" or "cdn"."""

    method: str
    path: str
    headers: Message
    origin: str
    body: bytes

    @property
    def sent(self) -> Any:
        return json.loads(self.body)


class Commit(NamedTuple):
    sha: str
    title: str
    files: dict[str, bytes]
    parent: str | None

    def entries(self) -> list[Table]:
        """What the Hub says of each file, by the several names that it has for the same."""
        found = []
        for path, data in sorted(self.files.items()):
            oid, size = git_oid(data), len(data)
            found.append({"type": "file", "path": path, "rfilename": path, "size": size})
            found[-1] |= {"oid": oid, "blobId": oid}
            if is_lfs(path, data):
                digest = sha256(data)
                lfs = {"oid": digest, "sha256": digest, "size": size, "pointerSize": 134}
                found[-1]["lfs"] = lfs
        return found


@dataclass
class Repo:
    name: str
    private: bool = False
    gated: bool | str = False  # nobody has been let in yet
    disabled: bool = False
    commits: list[Commit] = field(default_factory=list)  # of its one branch, main
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, files: dict[str, bytes]) -> Commit:
        parent = self.commits[-1].sha if self.commits else None
        text = f"{self.name} {parent} {title} {sorted((k, sha256(v)) for k, v in files.items())}"
        self.commits.append(Commit(sha1(text.encode()).hexdigest(), title, files, parent))
        return self.commits[-1]

    def upto(self, revision: str) -> list[Commit]:
        """The commits that lead to a tag, commit or main, which is the last."""
        sha = self.commits[-1].sha if revision == "main" else self.tags.get(revision, revision)
        shas = [commit.sha for commit in self.commits]
        if sha not in shas:
            told = {"error": f"Invalid rev id: {revision}"}
            raise Answer(told, status=404, code="RevisionNotFound")
        return self.commits[: shas.index(sha) + 1]

    def at(self, revision: str) -> Commit:
        return self.upto(revision)[-1]
