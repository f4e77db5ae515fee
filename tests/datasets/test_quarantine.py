from pathlib import Path

import pytest

from wszoo.datasets.quarantine import read_quarantine, write_quarantine


def test_names_come_back_as_they_were(tmp_path: Path) -> None:
    names = ["a b.jpg", 'quo"te.jpg', "tab\t.jpg", "line\n.jpg", "bytes\udcff.jpg", "ä.tar:x.png"]

    write_quarantine(tmp_path / "list.tsv", dict.fromkeys(names, "box-empty: a box"))

    assert read_quarantine(tmp_path / "list.tsv") == set(names)
    assert (
        (tmp_path / "list.tsv").read_bytes().startswith(b"name\treason\na b.jpg\tbox-empty: a box")
    )


def test_an_empty_list_leaves_nothing_out(tmp_path: Path) -> None:
    write_quarantine(tmp_path / "list.tsv", {})

    assert read_quarantine(tmp_path / "list.tsv") == frozenset()


def test_what_is_no_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("x.jpg\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))

    with pytest.raises(ValueError, match=r"other\.tsv is no quarantine list: its first line must"):
        read_quarantine(tmp_path / "other.tsv")
    with pytest.raises(ValueError, match="binary"):
        read_quarantine(tmp_path / "binary")
    with pytest.raises(FileNotFoundError, match=r"no such quarantine list: .*gone"):
        read_quarantine(tmp_path / "gone.tsv")
