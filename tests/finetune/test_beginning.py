from pathlib import Path

import pytest

from wszoo.finetune.beginning import run_folder


def fail_in(output: Path, *, begin: bool = False, made: str | None = None) -> None:
    with run_folder(output) as begun:
        for name in ("run.json", "events.jsonl", "plan.json", "starts.jsonl"):
            (output / name).write_text("{}")
        if made is not None:
            (output / made).mkdir()
        if begin:
            begun()
        raise KeyboardInterrupt


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_nothing_is_left_of_a_run_that_never_began(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()

    for folder in (tmp_path / "a" / "b" / "run", tmp_path / "made"):
        with pytest.raises(KeyboardInterrupt):
            fail_in(folder)

    assert names(tmp_path) == {"made"} and not names(tmp_path / "made")


def test_a_run_that_began_keeps_what_it_wrote(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "run", begin=True)

    assert {"run.json", "events.jsonl", "plan.json", "starts.jsonl"} < names(tmp_path / "run")


def test_a_folder_with_anything_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path)

    assert {"notes.txt", "run.json"} < names(tmp_path)


def test_what_others_put_into_a_new_folder_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "runs", made="other")

    assert names(tmp_path / "runs") == {"other"}


def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match=r"^cannot make the folder .*run: Not a directory; name ano"):
        fail_in(tmp_path / "file" / "run")
