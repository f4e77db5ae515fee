import io
import tarfile
from pathlib import Path

import pytest

from wszoo.datasets.listing import (
    as_known,
    choose_split,
    list_archive,
    list_folder,
    read_named,
    require_split,
    split_archives,
)


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_folder_and_an_archive_of_it_list_the_same_but_hidden_files(tmp_path: Path) -> None:
    files = {"a/x.jpg": b"1", "a/b/y.PNG": b"22", "classes.txt": b"sky", "a/._x.jpg": b"0"}
    for name, data in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    archive = write_archive(tmp_path / "set.tar", files)

    on_disk, packed = list_folder(tmp_path / "set"), list_archive(archive)

    def contents(listed: list) -> dict[str, tuple[bytes, int, bool]]:  # type: ignore[type-arg]
        return {str(f.place): (f.read(), f.size, f.is_image) for f in listed}

    assert contents(on_disk) == contents(packed)
    assert contents(on_disk) == {
        "a/b/y.PNG": (b"22", 2, True),
        "a/x.jpg": (b"1", 1, True),
        "classes.txt": (b"sky", 3, False),
    }
    assert {f.name for f in on_disk} == {str(tmp_path / "set" / str(f.place)) for f in on_disk}
    assert {f.name for f in packed} == {f"{archive}:{f.place}" for f in packed}
    assert [f.place.name for f in list_folder(tmp_path / "set", deep=False)] == ["classes.txt"]


def test_an_archive_that_ends_early_is_named(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "set.tar", {"a.jpg": bytes(5000)})
    archive.write_bytes(archive.read_bytes()[:3000])

    with pytest.raises(ValueError, match=r"cannot read .*set\.tar: .*; fetch this archive again"):
        list_archive(archive)


def test_archives_are_sorted_by_the_split_in_their_names(tmp_path: Path) -> None:
    for name in ("set-train-1.tar", "set-train-0.tar.xz", "set_validation.tgz", "meta.tar"):
        (tmp_path / name).touch()

    found = split_archives(tmp_path)

    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": ["set-train-0.tar.xz", "set-train-1.tar"],
        "val": ["set_validation.tgz"],
    }


def test_a_split_is_the_one_named_or_the_default_or_the_only_one(tmp_path: Path) -> None:
    assert choose_split(tmp_path, {"train", "val"}, "train", "val") == "train"
    assert choose_split(tmp_path, {"train", "val"}, None, "val") == "val"
    assert choose_split(tmp_path, {"train"}, None, "val") == "train"
    assert choose_split(tmp_path, set(), None, "val") is None
    with pytest.raises(ValueError, match=r"several splits \(train, val\); name one"):
        choose_split(tmp_path, {"val", "train"}, None, None)
    with pytest.raises(FileNotFoundError, match="no split 'test'; its splits: train, val"):
        require_split(tmp_path, {"val", "train"}, "test")
    with pytest.raises(FileNotFoundError, match="no split 'test', nor any other; name none"):
        require_split(tmp_path, set(), "test")


def test_files_are_found_again_by_name_on_disk_and_in_archives(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"disk")
    folder = tmp_path / "at 12:30"
    folder.mkdir()
    archive = write_archive(folder / "set.tar", {"a.jpg": b"member", "b.jpg": b"other"})
    names = [str(tmp_path / "x.jpg"), f"{archive}:a.jpg", f"{archive}:gone.jpg", "gone.jpg"]

    assert read_named(names) == {names[0]: b"disk", names[1]: b"member"}


def test_how_a_path_is_written_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")

    assert as_known(["tmp/set.tar:a/b.jpg"]) == as_known(["/tmp/./set.tar:a/b.jpg"])
