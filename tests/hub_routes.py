"""The answers of the stand-in for the Hub: the routes that the client has for models.

What the real Hub answers is known from the code of that client, and no further.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tests.hub_repos import FIRST_FILES, Hub, Refused, Repo, git_oid, is_lfs, sha256

DATE = "2026-01-01T00:00:00.000Z"
YAML_LINE = re.compile(r"\s*$|\s*#|\s*-(\s|$)|\s*[\w./ -]+:(\s|$)|\s+\S")


@dataclass(frozen=True)
class Answer:
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Route:
    """A function of the hub, the repository if there is one, parts of the path, and the body."""

    method: str
    pattern: re.Pattern[str]
    function: Callable[..., Any]
    of_repository: bool


ROUTES: list[Route] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """ID stands for a repository, X for one part of the path, ALL for what is left of it."""
    parts = {"ID": "([^/]+/[^/]+?)", "X": "([^/]+)", "ALL": "(.+)"}
    regex = re.sub(r"\b(ID|X|ALL)\b", lambda match: parts[match[1]], pattern)

    def keep(function: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.append(Route(method, re.compile(regex), function, "ID" in pattern))
        return function

    return keep


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, body: bytes) -> dict[str, Any]:
    return {
        "type": "user",
        "name": hub.user,
        "orgs": [],
        "auth": {"accessToken": {"role": "write"}},
    }


@route("POST", "/api/repos/create")
def create_repo(hub: Hub, body: bytes) -> dict[str, Any]:
    sent = json.loads(body)
    owner = sent.get("organization") or hub.user
    if owner != hub.user:
        raise Refused(403, message=f"You don't have the rights to create a model under {owner}")
    name = f"{owner}/{sent['name']}"
    url = {"url": f"{hub.endpoint}/{name}"}
    if name in hub.repos:
        raise Refused(409, message="You already created this model repo", url=url["url"])
    is_private = sent.get("private") or sent.get("visibility") == "private"
    hub.repos[name] = Repo(name, private=bool(is_private))
    hub.repos[name].commit("initial commit", FIRST_FILES)
    return url


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, body: bytes) -> dict[str, Any]:
    """Plain ``key: value`` lines and lists are enough to tell a slip from a header."""
    front = re.match(r"---\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
    bad = [line for line in (front[1].splitlines() if front else []) if not YAML_LINE.match(line)]
    if bad:
        raise Refused(400, errors=[{"message": f"bad indentation or missing colon: {bad[0]}"}])
    return {"warnings": [], "errors": []}


@route("POST", "/api/models/ID/preupload/X")
def preupload(hub: Hub, repo: Repo, revision: str, body: bytes) -> dict[str, Any]:
    there, found = repo.at(revision).files, []
    for file in json.loads(body)["files"]:
        path, large = file["path"], is_lfs(file["path"], base64.b64decode(file["sample"]))
        known = (sha256 if large else git_oid)(there[path]) if path in there else None
        mode = "lfs" if large else "regular"
        found.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known})
    return {"files": found}


@route("POST", "/ID.git/info/lfs/objects/batch")
def lfs_batch(hub: Hub, repo: Repo, body: bytes) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for wanted in json.loads(body)["objects"]:
        found.append({"oid": wanted["oid"], "size": wanted["size"]})
        if wanted["oid"] not in hub.objects:
            upload = {"href": f"{hub.cdn}/lfs/{wanted['oid']}"}
            verify = {"href": f"{hub.endpoint}/{repo.name}.git/info/lfs/verify"}
            found[-1]["actions"] = {"upload": upload, "verify": verify}
    return {"transfer": "basic", "objects": found}


@route("PUT", "/lfs/X")
def lfs_upload(hub: Hub, oid: str, body: bytes) -> dict[str, Any]:
    if sha256(body) != oid:
        raise Refused(400, message="the content has another sha256")
    hub.objects[oid] = body
    return {}


@route("POST", "/ID.git/info/lfs/verify")
def lfs_verify(hub: Hub, repo: Repo, body: bytes) -> dict[str, Any]:
    sent = json.loads(body)
    if len(hub.objects.get(sent["oid"], b"")) != sent["size"]:
        raise Refused(404, message="no such object")
    return {}


@route("GET", "/lfs/X")
def lfs_download(hub: Hub, oid: str, body: bytes) -> Answer:
    if oid not in hub.objects:
        raise Refused(404, message="no such object")
    return Answer(hub.objects[oid], {"ETag": f'"{oid}"'})


@route("POST", "/api/models/ID/commit/X")
def commit(hub: Hub, repo: Repo, revision: str, body: bytes) -> dict[str, Any]:
    header, *operations = [json.loads(line) for line in body.splitlines() if line.strip()]
    head, files = repo.at(revision), dict(repo.at(revision).files)
    if header["value"].get("parentCommit") not in (None, head.sha):
        raise Refused(412, message="A commit has happened since. Please refresh and try again.")
    for operation in operations:
        value = operation["value"]
        if operation["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile" and value["oid"] in hub.objects:
            files[value["path"]] = hub.objects[value["oid"]]
        elif operation["key"] == "deletedFile":
            del files[value["path"]]
        else:
            raise Refused(400, message=f"cannot commit {operation['key']} {value['path']}")
    made = repo.commit(header["value"]["summary"], files)
    url = f"{hub.endpoint}/{repo.name}/commit/{made.sha}"
    return {"success": True, "commitOid": made.sha, "commitUrl": url}


def file_info(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    lfs = {"oid": sha256(content), "sha256": sha256(content), "size": len(content)}
    return entry | ({"lfs": lfs | {"pointerSize": 134}} if is_lfs(path, content) else {})


@route("GET", "/api/models/ID/tree/X")
def tree(hub: Hub, repo: Repo, revision: str, body: bytes) -> list[dict[str, Any]]:
    return [file_info(path, data) for path, data in sorted(repo.at(revision).files.items())]


@route("POST", "/api/models/ID/paths-info/X")
def paths_info(hub: Hub, repo: Repo, revision: str, body: bytes) -> list[dict[str, Any]]:
    asked = parse_qs(body.decode())["paths"]
    return [entry for entry in tree(hub, repo, revision, b"") if entry["path"] in asked]


@route("GET", "/api/models/ID/revision/X")
def revision_info(hub: Hub, repo: Repo, revision: str, body: bytes) -> dict[str, Any]:
    at = repo.at(revision)
    names = {"id": repo.name, "modelId": repo.name, "author": repo.name.split("/")[0]}
    entries = [file_info(path, data) for path, data in at.files.items()]
    siblings = [{**e, "rfilename": e["path"], "blobId": e["oid"]} for e in entries]
    rights = {"private": repo.private, "gated": "manual" if repo.gated else False}
    times = {"lastModified": DATE, "createdAt": DATE}
    return {**names, **rights, **times, "sha": at.sha, "tags": [], "siblings": siblings}


@route("GET", "/api/models/ID")
def model_info(hub: Hub, repo: Repo, body: bytes) -> dict[str, Any]:
    return revision_info(hub, repo, "main", body)


@route("GET", "/api/models/ID/refs")
def refs(hub: Hub, repo: Repo, body: bytes) -> dict[str, Any]:
    def ref(kind: str, name: str, sha: str) -> dict[str, str]:
        return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}

    branches = [ref("heads", "main", repo.commits[-1].sha)]
    tags = [ref("tags", *tag) for tag in repo.tags.items()]
    return {"branches": branches, "tags": tags, "converts": []}


@route("GET", "/api/models/ID/commits/X")
def commits(hub: Hub, repo: Repo, revision: str, body: bytes) -> list[dict[str, Any]]:
    upto = repo.commits[: repo.commits.index(repo.at(revision)) + 1]
    who = {"authors": [{"user": hub.user}], "date": DATE, "message": ""}
    return [{"id": made.sha, "title": made.title, **who} for made in reversed(upto)]


@route("POST", "/api/models/ID/tag/X")
def create_tag(hub: Hub, repo: Repo, revision: str, body: bytes) -> dict[str, Any]:
    name = json.loads(body)["tag"]
    if name in repo.tags:
        raise Refused(409, message=f"Tag {name} already exists")
    repo.tags[name] = repo.at(revision).sha
    return {}


@route("DELETE", "/api/models/ID/tag/X")
def delete_tag(hub: Hub, repo: Repo, name: str, body: bytes) -> dict[str, Any]:
    if name not in repo.tags:
        raise Refused(404, "RevisionNotFound", f"no tag {name}")
    del repo.tags[name]
    return {}


@route("GET", "/ID/resolve/X/ALL")
def resolve(hub: Hub, repo: Repo, revision: str, path: str, body: bytes) -> Answer:
    at = repo.at(revision)
    headers = {"X-Repo-Commit": at.sha}
    if path not in at.files:
        raise Refused(404, "EntryNotFound", "Entry not found", headers=headers)
    content = at.files[path]
    if not is_lfs(path, content):
        return Answer(content, headers | {"ETag": f'"{git_oid(content)}"'})
    oid = sha256(content)
    linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
    return Answer(b"", headers | linked | {"Location": f"{hub.cdn}/lfs/{oid}?sign=1"}, 302)


@route("POST", "/api/collections")
def create_collection(hub: Hub, body: bytes) -> dict[str, Any]:
    sent = json.loads(body)
    slug = f"{sent['namespace']}/{re.sub(r'[^a-z0-9]+', '-', sent['title'].lower())}-{'0' * 24}"
    if slug in hub.collections:
        raise Refused(409, message="This collection already exists", slug=slug)
    facts = {"slug": slug, "title": sent["title"], "owner": {"name": sent["namespace"]}}
    texts = {"description": sent.get("description"), "theme": "blue", "lastUpdated": DATE}
    counts = {"position": 0, "upvotes": 0, "private": bool(sent.get("private")), "items": []}
    hub.collections[slug] = facts | texts | counts
    return hub.collections[slug]


@route("POST", "/api/collections/ALL/items")
def add_item(hub: Hub, slug: str, body: bytes) -> dict[str, Any]:
    found, sent = get_collection(hub, slug, b""), json.loads(body)
    items = found["items"]
    if any(item["id"] == sent["item"]["id"] for item in items):
        raise Refused(409, message="This item is already in the collection")
    more = {"_id": str(len(items)), "position": len(items), "note": {"text": sent.get("note")}}
    items.append(sent["item"] | more)
    return found


@route("GET", "/api/collections/ALL")
def get_collection(hub: Hub, slug: str, body: bytes) -> dict[str, Any]:
    if slug not in hub.collections:
        raise Refused(404, message="no such collection")
    return hub.collections[slug]
