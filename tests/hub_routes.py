"""The answers of the stand-in for the Hub: the routes that the client has for models.

What the real Hub answers is known from the code of that client, and no further.
"""

import json
import re
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.hub_repos import FIRST_FILES, Answer, Commit, Repo, Request, Table, is_lfs, sha256

DATE = "2026-01-01T00:00:00.000Z"
YAML_LINE = re.compile(r"\s*$|\s*#|\s*-(\s|$)|\s*[\w./ -]+:(\s|$)|\s+\S")


def _refs(kind: str, found: dict[str, str]) -> list[Table]:
    return [{"name": k, "ref": f"refs/{kind}/{k}", "targetCommit": v} for k, v in found.items()]


class Hub:
    """All that is kept, and the routes to it."""

    token, user, endpoint, cdn = "hf_test", "tester", "", ""
    part_size = 0  # bytes; a larger file is uploaded in parts of so many, where it is not 0

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, Table] = {}
        self.objects: dict[str, bytes] = {}  # large files, by sha256
        self.parts: dict[tuple[str, str], bytes] = {}  # of those that are being uploaded

    def publish(self, name: str, files: dict[str, bytes], title: str = "Publish") -> Commit:
        """Put files into a repository, made if missing, behind the client's back."""
        repo = self.repos.setdefault(name, Repo(name))
        if not repo.commits:
            repo.commit("initial commit", FIRST_FILES)
        self.objects |= {sha256(data): data for path, data in files.items() if is_lfs(path, data)}
        return repo.commit(title, repo.commits[-1].files | files)

    def answer(self, request: Request) -> Any:
        """Of one request; a KeyError where there is no such route, or nothing of that name."""
        path = request.path.partition("?")[0]
        ask = request.method.replace("HEAD", "GET"), *map(unquote, path[1:].split("/"))
        match ask:
            case method, "api", "models", owner, name, *rest:
                repo = self._repo(f"{owner}/{name}", request)
                return self._of_repo(request, repo, method, *rest)
            case "POST", owner, name, "info", "lfs", *rest if name.endswith(".git"):
                repo = self._repo(f"{owner}/{name.removesuffix('.git')}", request)
                return self._lfs(repo, request.sent, *rest)
            case "GET", owner, name, "resolve", revision, *rest:
                repo = self._repo(f"{owner}/{name}", request)
                return self._resolve(repo.at(revision), "/".join(rest))
            case method, "lfs", oid, *rest:
                return self._of_cdn(request, oid, method, *rest)
            case "POST", "api", "collections":
                return self._collect(request.sent)
            case "POST", "api", "collections", owner, name, "items":
                return self._put_into(self.collections[f"{owner}/{name}"], request.sent)
            case "GET", "api", "collections", owner, name:
                return self.collections[f"{owner}/{name}"]
            case "GET", "api", "whoami-v2":
                return {"type": "user", "name": self.user, "orgs": [], "auth": {}}
            case "POST", "api", "validate-yaml":
                return self._check_front_matter(request.sent["content"])
            case "POST", "api", "repos", "create":
                return self._create(request.sent)
            case "DELETE", "api", "repos", "delete":
                name = f"{request.sent['organization'] or self.user}/{request.sent['name']}"
                return {"deleted": self.repos.pop(self._repo(name, request).name).name}
        raise KeyError(f"no route {request.method} {path}")

    def _repo(self, name: str, request: Request) -> Repo:
        """The repository, if who asks may see it."""
        repo, status = self.repos.get(name), 404 if request.headers["Authorization"] else 401
        if repo is None or (repo.private and status == 401):
            raise Answer({"error": "Repository not found"}, status=status, code="RepoNotFound")
        if repo.disabled:
            told = "Access to this resource is disabled."
            raise Answer({}, {"X-Error-Message": told}, status=403)
        if repo.gated and "/resolve/" in request.path:
            told = f"Access to {name} is restricted."
            raise Answer({"error": told}, status=status, code="GatedRepo")
        return repo

    def _create(self, sent: Table) -> Table:
        owner = sent.get("organization") or self.user
        name = f"{owner}/{sent['name']}"
        url = {"url": f"{self.endpoint}/{name}"}
        if owner != self.user:
            told = f"You don't have the rights to create a model under {owner}"
            raise Answer({"error": told}, status=403)
        if name in self.repos:
            raise Answer({"error": "You already created this model repo"} | url, status=409)
        is_private = sent.get("private") or sent.get("visibility") == "private"
        self.repos[name] = Repo(name, private=bool(is_private))
        self.repos[name].commit("initial commit", FIRST_FILES)
        return url

    def _check_front_matter(self, content: str) -> Table:
        """Plain ``key: value`` lines and lists are enough to tell a slip from a header."""
        front = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        for line in front[1].splitlines() if front else []:
            if not YAML_LINE.match(line):
                told = f"bad indentation or missing colon: {line}"
                raise Answer({"errors": [{"message": told}]}, status=400)
        return {"warnings": [], "errors": []}

    def _collect(self, sent: Table) -> Table:
        name = re.sub(r"[^a-z0-9]+", "-", sent["title"].lower())
        slug = f"{sent['namespace']}/{name}-{'0' * 24}"
        if slug in self.collections:
            raise Answer({"error": "This collection already exists", "slug": slug}, status=409)
        plain = {"theme": "blue", "position": 0, "upvotes": 0, "lastUpdated": DATE, "items": []}
        texts = {"title": sent["title"], "description": sent.get("description"), "slug": slug}
        rights = {"owner": {"name": sent["namespace"]}, "private": bool(sent.get("private"))}
        self.collections[slug] = plain | texts | rights
        return self.collections[slug]

    def _put_into(self, collection: Table, sent: Table) -> Table:
        items = collection["items"]
        if sent["item"]["id"] in [item["id"] for item in items]:
            raise Answer({"error": "This item is already in the collection"}, status=409)
        more = {"_id": str(len(items)), "position": len(items), "note": {"text": sent.get("note")}}
        items.append(sent["item"] | more)
        return collection

    def _of_repo(self, request: Request, repo: Repo, *ask: str) -> Any:
        """Answers of /api/models/NAMESPACE/NAME."""
        match ask:
            case ("GET",) | ("GET", "revision", _):
                return self._info(repo, repo.at(ask[-1] if ask[1:] else "main"))
            case "GET", "tree", revision:
                return repo.at(revision).entries()
            case "POST", "paths-info", revision:
                wanted = parse_qs(request.body.decode())["paths"]
                return [each for each in repo.at(revision).entries() if each["path"] in wanted]
            case "GET", "commits", revision:
                who = {"authors": [{"user": self.user}], "date": DATE, "message": ""}
                line = reversed(repo.upto(revision))
                return [{"id": commit.sha, "title": commit.title, **who} for commit in line]
            case "GET", "refs":
                branches = _refs("heads", {"main": repo.at("main").sha})
                return {"converts": [], "branches": branches, "tags": _refs("tags", repo.tags)}
            case "POST", "tag", revision:
                if request.sent["tag"] in repo.tags:
                    raise Answer({"error": "Tag already exists"}, status=409)
                repo.tags[request.sent["tag"]] = repo.at(revision).sha
                return {}
            case "DELETE", "tag", name:
                return {"deleted": repo.tags.pop(name)}
            case "PUT", "settings":
                repo.gated = request.sent.get("gated", repo.gated)
                if "visibility" in request.sent:
                    repo.private = request.sent["visibility"] == "private"
                return {}
            case "POST", "preupload", revision:
                files = request.sent["files"]
                return {"files": [self._wanted(repo.at(revision), each) for each in files]}
            case "POST", "commit", "main":
                return self._commit(repo, request.body)
        raise KeyError(f"no route {ask}")

    def _info(self, repo: Repo, at: Commit) -> Table:
        names = {"id": repo.name, "modelId": repo.name, "author": repo.name.split("/")[0]}
        rights = {"private": repo.private, "gated": repo.gated}
        times = {"lastModified": DATE, "createdAt": DATE}
        return {**names, **rights, **times, "sha": at.sha, "tags": [], "siblings": at.entries()}

    def _wanted(self, at: Commit, file: Table) -> Table:
        """How a file has to be sent, and what is there of that name."""
        held = {entry["path"]: entry for entry in at.entries()}.get(file["path"], {})
        large = is_lfs(file["path"], b64decode(file["sample"]))
        oid = held.get("lfs", held).get("oid")
        mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        return {"path": file["path"], "oid": oid, **mode}

    def _commit(self, repo: Repo, sent: bytes) -> Table:
        header, *operations = [json.loads(line) for line in sent.splitlines() if line]
        last = repo.at("main")
        if header["value"].get("parentCommit") not in (None, last.sha):
            told = "A commit has happened since. Please refresh and try again."
            raise Answer({"error": told}, status=412)
        files = dict(last.files)
        for operation in operations:
            what, value = operation["key"], operation["value"]
            if what == "file":
                files[value["path"]] = b64decode(value["content"])
            elif what == "lfsFile" and value["oid"] in self.objects:
                files[value["path"]] = self.objects[value["oid"]]
            elif what == "deletedFile":
                del files[value["path"]]
            else:
                raise Answer({"error": f"cannot commit {what} {value['path']}"}, status=400)
        sha = repo.commit(header["value"]["summary"], files).sha
        return {"commitOid": sha, "commitUrl": f"{self.endpoint}/{repo.name}/commit/{sha}"}

    def _resolve(self, at: Commit, path: str) -> Answer:
        told = {"X-Repo-Commit": at.sha}
        if path not in at.files:
            raise Answer({"error": "Entry not found"}, told, status=404, code="EntryNotFound")
        (entry,) = (each for each in at.entries() if each["path"] == path)
        if "lfs" not in entry:
            return Answer(at.files[path], told | {"ETag": f'"{entry["oid"]}"'})
        oid, size = entry["lfs"]["oid"], str(entry["size"])
        told |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": size}
        return Answer(b"", told | {"Location": f"{self.cdn}/lfs/{oid}?sign=1"}, status=302)

    def _lfs(self, repo: Repo, sent: Table, *ask: str) -> Table:
        """Where to send large files, and whether one has come."""
        if ask == ("verify",) and len(self.objects[sent["oid"]]) == sent["size"]:
            return {}
        found: list[Table] = []
        verify = {"href": f"{self.endpoint}/{repo.name}.git/info/lfs/verify"}
        for oid, size in ((each["oid"], each["size"]) for each in sent["objects"]):
            found.append({"oid": oid, "size": size})
            href = f"{self.cdn}/lfs/{oid}"
            upload: Table = {"href": f"{href}?sign=1"}
            if 0 < self.part_size < size:
                numbers = range(1, -(-size // self.part_size) + 1)
                parts = {str(number): f"{href}/{number}?sign=1" for number in numbers}
                upload["header"] = {"chunk_size": str(self.part_size), **parts}
            if oid not in self.objects:
                found[-1]["actions"] = {"upload": upload, "verify": verify}
        return {"objects": found}

    def _of_cdn(self, request: Request, oid: str, *ask: str) -> Any:
        """Large files: fetched, or sent whole, or in parts that a last request puts together."""
        match ask:
            case ("GET",):
                return Answer(self.objects[oid], {"ETag": f'"{oid}"'})
            case "PUT", number:
                self.parts[oid, number] = request.body
                return Answer(b"", {"ETag": f'"{sha256(request.body)}"'})
            case ("POST",) | ("PUT",):
                content = request.body if ask == ("PUT",) else self._joined(oid, request.sent)
                if sha256(content) != oid:
                    raise Answer({"error": "the content has another sha256"}, status=400)
                self.objects[oid] = content
                return {}
        raise KeyError(f"no route {ask}")

    def _joined(self, oid: str, sent: Table) -> bytes:
        content = b""
        for part in sent["parts"]:
            piece = self.parts.pop((oid, str(part["partNumber"])))
            if sha256(piece) != part["etag"].strip('"'):
                raise Answer({"error": "a part has another ETag"}, status=400)
            content += piece
        return content
