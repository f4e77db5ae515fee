"""``wszoo push``, as a user types it, against a stand-in for the Hub."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.hub_server import Fault, HubServer
from tests.publish.folders import NAME, REPOSITORY, copy_card, interrupt_at
from wszoo.publish import COLLECTION
from wszoo.push_cli import push
from wszoo.terminal import BAD_DATA
from wszoo.weights import ASSETS, WEIGHTS, WEIGHTS_FILE

OWN = [weights for weights in WEIGHTS if weights.origin is None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cards of the zoo, as ``model_cards`` holds them."""
    home = tmp_path_factory.mktemp("model_cards")
    for weights in OWN:
        copy_card(home, weights.name)
    return home


@pytest.fixture(autouse=True)
def no_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSZOO_HUB_NAMESPACE", raising=False)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(push, [str(argument) for argument in arguments])


def test_push_publishes_and_prints_the_record_that_pins_it(hub: HubServer, home: Path) -> None:
    result = run(home / NAME, "--repo", REPOSITORY)

    sha = hub.repos[REPOSITORY].commits[-1].sha
    assert result.exit_code == 0, result.output
    first, *files, commit, record = result.stdout.splitlines()
    assert first == f"{NAME} -> {REPOSITORY}: published"
    assert commit == f"  commit {sha}, verified, tagged v1"
    assert record == f'  for its record in wszoo/weights_table.py: hub="{REPOSITORY}@{sha}",'
    assert [line.split()[0] for line in files] == sorted(
        name for name in hub.repos[REPOSITORY].commits[-1].files if name != ".gitattributes"
    )
    size = (ASSETS / NAME / WEIGHTS_FILE).stat().st_size
    said = result.stderr.splitlines()
    assert said[0] == f"checking {NAME}"
    assert f"sending {WEIGHTS_FILE} ({size:,} bytes) to {REPOSITORY}" in said
    assert said[-1] == f"verifying {REPOSITORY}@{sha}"
    assert "%" not in result.stderr  # no bars but on terminals
    assert not hub.collections


def test_the_account_may_come_from_the_environment(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSZOO_HUB_NAMESPACE", "tester")

    result = run(home / NAME, "--json", "--private")

    assert result.exit_code == 0, result.output
    (pushed,) = json.loads(result.stdout)["pushed"]
    assert (pushed["repository"], pushed["outcome"], pushed["tag"]) == (
        REPOSITORY,
        "published",
        "v1",
    )
    assert hub.repos[REPOSITORY].private


def test_a_dry_run_lists_files_and_asks_the_hub_nothing(hub: HubServer, home: Path) -> None:
    result = run(home / NAME, "--repo", REPOSITORY, "--dry-run", "--json")

    report = json.loads(result.stdout)
    (pushed,) = report["pushed"]
    assert hub.requests == []
    assert (pushed["outcome"], pushed["commit"], report["collection"]) == ("dry run", None, None)
    (weights,) = (file for file in pushed["files"] if file["name"] == WEIGHTS_FILE)
    assert weights["bytes"] == (ASSETS / NAME / WEIGHTS_FILE).stat().st_size
    assert weights["sha256"] == next(each.sha256 for each in OWN if each.name == NAME)


def test_all_lists_every_set_of_weights_of_the_zoo(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSZOO_HUB_NAMESPACE", "tester")

    result = run(home, "--all", "--dry-run", "--json")

    pushed = json.loads(result.stdout)["pushed"]
    assert [each["repository"] for each in pushed] == [f"tester/{each.name}" for each in OWN]
    assert hub.requests == []


@pytest.mark.slow
def test_all_pushes_them_and_collects_them(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSZOO_HUB_NAMESPACE", "tester")

    result = run(home, "--all")
    again = run(home, "--all", "--json")

    assert result.exit_code == again.exit_code == 0, result.output + again.output
    (collection,) = hub.collections.values()
    assert collection["title"] == COLLECTION
    assert [item["id"] for item in collection["items"]] == [f"tester/{each.name}" for each in OWN]
    assert result.stdout.splitlines()[-1] == f"collection {collection['slug']}"
    report = json.loads(again.stdout)
    assert {each["outcome"] for each in report["pushed"]} == {"unchanged"}
    assert report["collection"] == collection["slug"]
    for each in OWN:
        assert list(hub.repos[f"tester/{each.name}"].tags) == ["v1"]


@pytest.mark.slow
def test_all_stops_at_the_first_failure_and_says_what_is_published(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSZOO_HUB_NAMESPACE", "tester")
    names = [f"tester/{each.name}" for each in OWN]
    hub.faults.append(Fault(match=f"{names[1]}/preupload/", status=403))

    result = run(home, "--all")

    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith(f"wszoo: cannot push to {names[1]}: ")
    assert result.stderr.endswith(
        f"; nothing was published; of the others, published: {names[0]}, "
        f"not begun: {', '.join(names[2:])}\n"
    )
    assert not hub.collections


def test_a_collection_may_be_named(hub: HubServer, home: Path) -> None:
    run(home / NAME, "--repo", REPOSITORY)
    slug = "tester/mine-0123"
    hub.collections[slug] = {
        **{"slug": slug, "title": "Mine", "owner": {"name": "tester"}, "items": []},
        **{"description": None, "theme": "blue", "lastUpdated": "2026-01-01T00:00:00.000Z"},
        **{"position": 0, "upvotes": 0, "private": False},
    }

    result = run(home / NAME, "--repo", REPOSITORY, "--collection", slug)

    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"collection {slug}\n")
    assert [item["id"] for item in hub.collections[slug]["items"]] == [REPOSITORY]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder, such as model_cards/MODEL.TAG, or give --all"),
        (["FOLDER"], "name the repository with --repo NAMESPACE/NAME, or set WSZOO_HUB_NAMESPACE"),
        (["FOLDER", "--repo", "name"], "'name' is no repository; write NAMESPACE/NAME"),
        (["--all", "--repo", "a/b"], "--repo names one repository; with --all, set WSZOO_HUB_NAM"),
        (["FOLDER", "--no-collection"], "--no-collection goes with --all, and not with --collec"),
        (["--all", "--no-collection", "--collection", "a"], "--no-collection goes with --all, an"),
    ],
)
def test_wrong_usage_is_told(
    hub: HubServer, home: Path, arguments: list[str], message: str
) -> None:
    result = run(*[home / NAME if each == "FOLDER" else each for each in arguments])

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert hub.requests == []


def test_a_namespace_that_is_none_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSZOO_HUB_NAMESPACE", "a/b")

    result = run(home / NAME)

    assert result.exit_code == 2
    assert (
        "Invalid value for WSZOO_HUB_NAMESPACE: 'a/b/test_resnet_gn_ws.e3_tin200' is no repos"
        in (" ".join(result.stderr.split()))
    )


def test_bad_folders_end_with_three_before_any_request(hub: HubServer, tmp_path: Path) -> None:
    folder = copy_card(tmp_path)
    (folder / "weights.pth").write_bytes(b"\x80\x02")

    result = run(folder, "--repo", REPOSITORY)

    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith(f"wszoo: {folder} holds weights.pth; only ")
    assert hub.requests == []


def test_what_comes_back_changed_ends_with_one(hub: HubServer, home: Path) -> None:
    hub.faults.append(Fault(match="GET /lfs/", flip=100))

    result = run(home / NAME, "--repo", REPOSITORY)

    assert result.exit_code == 1
    assert "not tagged: repeat the command, and if it fails again, delete" in result.stderr
    assert not result.stdout and not hub.repos[REPOSITORY].tags


def test_ctrl_c_ends_with_four_and_says_what_is_left(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(hub, "PUT /lfs/", monkeypatch)

    result = run(home / NAME, "--repo", REPOSITORY)

    assert result.exit_code == 4
    assert result.stderr.splitlines()[-1] == (
        f"wszoo: stopped while pushing to {REPOSITORY}; nothing was published"
    )


def test_a_collection_that_fails_loses_no_pin(hub: HubServer, home: Path) -> None:
    hub.faults.append(Fault(match="/api/collections", status=403, times=-1))

    result = run(home / NAME, "--repo", REPOSITORY, "--collection", "tester/mine-0123")

    assert result.exit_code == BAD_DATA
    assert f'hub="{REPOSITORY}@' in result.stdout
    assert result.stderr.splitlines()[-1].endswith("name none, or another one, with --collection")


def test_ctrl_c_while_collecting_says_that_the_weights_are_published(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(hub, "/api/collections", monkeypatch)

    result = run(home / NAME, "--repo", REPOSITORY, "--collection", "tester/mine-0123")

    assert result.exit_code == 4
    assert result.stderr.endswith(
        "the weights are published, the collection is not complete: repeat the command\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("n", 4), ("y", 0)])
def test_a_user_at_a_terminal_is_asked_first(
    hub: HubServer, home: Path, answer: str, code: int
) -> None:
    child = "from wszoo.push_cli import push; push()"
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", child, str(home / NAME), "--repo", REPOSITORY],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        said = b""
        while b"[y/N]:" not in said:
            said += os.read(main, 1000)
        os.write(main, f"{answer}\n".encode())
        with open(main, "rb", buffering=0) as screen:
            try:
                while part := screen.read(1000):
                    said += part
            except OSError:  # Linux says so where the other end is closed
                pass

    assert process.returncode == code
    assert f"Publish for everyone: {REPOSITORY}?".encode() in said
    assert (REPOSITORY in hub.repos) == (code == 0)
    assert (b"stopped; nothing was published" in said) == (code == 4)
