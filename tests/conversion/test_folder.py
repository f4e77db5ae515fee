import json
from pathlib import Path

import pytest

import wszoo.conversion.folder
from wszoo.conversion.folder import (
    FAILED_REPORT_FILE,
    MADE_BY,
    leave_failed_report,
    replaced_whole,
    require_replaceable,
)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "earlier"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    (folder / "report.json").write_text(json.dumps({"made_by": MADE_BY}))
    return folder


def test_new_empty_and_earlier_folders_may_be_replaced(tmp_path: Path, earlier: Path) -> None:
    require_replaceable(tmp_path / "new")
    require_replaceable(earlier)
    (tmp_path / "empty").mkdir()
    require_replaceable(tmp_path / "empty")
    leave_failed_report(tmp_path / "failed", json.dumps({"made_by": MADE_BY}))
    require_replaceable(tmp_path / "failed")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.tex", "dear"),
        ("report.json", "[]"),
        ("report.json", "{"),
        ("report.json", '{"made_by": "hand"}'),
        ("model.safetensors", "weights"),
    ],
)
def test_a_folder_with_anything_else_is_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(FileExistsError, match=f"holds '{name}', which is not of an earlier conv"):
        require_replaceable(tmp_path)


def test_an_earlier_conversion_with_something_added_is_refused(earlier: Path) -> None:
    (earlier / "notes.txt").write_text("dear")

    with pytest.raises(FileExistsError, match=r"holds 'notes\.txt'"):
        require_replaceable(earlier)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(FileExistsError, match="file is a file; name a folder with -o"):
        require_replaceable(tmp_path / "file")


def test_a_folder_is_replaced_whole(earlier: Path) -> None:
    with replaced_whole(earlier) as folder:
        (folder / "config.json").write_text("{}")
        assert (earlier / "model.safetensors").exists()

    assert [path.name for path in earlier.iterdir()] == ["config.json"]
    assert [path.name for path in earlier.parent.iterdir()] == ["earlier"]


def test_a_failure_leaves_the_earlier_folder_and_nothing_else(earlier: Path) -> None:
    def fail() -> None:
        with replaced_whole(earlier) as folder:
            (folder / "config.json").write_text("{")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert {path.name for path in earlier.iterdir()} == {"model.safetensors", "report.json"}
    assert [path.name for path in earlier.parent.iterdir()] == ["earlier"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(OSError, match="cannot write .*/file/new: .*; name another folder"),
        replaced_whole(tmp_path / "file" / "new"),
    ):
        pass
    with pytest.raises(OSError, match=r"cannot write .*report\.failed\.json: .*; name another"):
        leave_failed_report(tmp_path / "file" / "new", "{}")


def test_a_failed_report_stands_beside_an_earlier_conversion(earlier: Path) -> None:
    leave_failed_report(earlier, "{}")

    names = {path.name for path in earlier.iterdir()}
    assert names == {"model.safetensors", "report.json", FAILED_REPORT_FILE}
    require_replaceable(earlier)


@pytest.mark.parametrize("is_new", [True, False])
def test_the_working_directory_stays_one(
    is_new: bool, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here if is_new else earlier)

    with replaced_whole(Path()) as folder:
        (folder / "config.json").write_text("{}")

    assert [path.name for path in Path().iterdir()] == ["config.json"]
    assert Path("config.json").resolve().parent == (here if is_new else earlier)
    assert {path.name for path in tmp_path.iterdir()} == {"here", "earlier"}


def test_a_file_put_there_meanwhile_stops_the_exchange(earlier: Path) -> None:
    def convert_slowly() -> None:
        with replaced_whole(earlier) as folder:
            (folder / "config.json").write_text("{}")
            (earlier / "thesis.tex").write_text("dear")

    with pytest.raises(FileExistsError, match=r"holds 'thesis\.tex', which is not of an earlier"):
        convert_slowly()

    names = {path.name for path in earlier.iterdir()}
    assert names == {"model.safetensors", "report.json", "thesis.tex"}
    assert [path.name for path in earlier.parent.iterdir()] == ["earlier"]


def test_a_file_put_there_at_the_last_moment_is_kept(
    earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_one_more(_folder: Path) -> None:
        (earlier / "thesis.tex").write_text("dear")

    with replaced_whole(earlier) as folder:
        (folder / "config.json").write_text("{}")
        monkeypatch.setattr(wszoo.conversion.folder, "require_replaceable", put_one_more)

    assert {path.name for path in earlier.iterdir()} == {"config.json", "thesis.tex"}


def test_an_exchange_that_fails_half_way_is_undone(
    earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_or_fail(old: Path, new: Path) -> Path:
        if new == earlier / "report.json":
            monkeypatch.undo()
            raise OSError(28, "No space left on device")
        return rename(old, new)

    def exchange() -> None:
        with replaced_whole(earlier) as folder:
            (folder / "config.json").write_text("{}")
            (folder / "report.json").write_text("{}")
            monkeypatch.setattr(Path, "rename", rename_or_fail)

    with pytest.raises(OSError, match="cannot write .*earlier: No space left"):
        exchange()

    assert {path.name for path in earlier.iterdir()} == {"model.safetensors", "report.json"}
    assert json.loads((earlier / "report.json").read_text()) == {"made_by": MADE_BY}
