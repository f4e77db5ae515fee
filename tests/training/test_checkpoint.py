import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from wszoo.training import checkpoint
from wszoo.training.checkpoint import POINTS, Saver, load_checkpoint, save_checkpoint


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"weight": torch.full((3,), float(step))}, "notes": ["a", 1.5]}


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def loaded_step(run: Path) -> int:
    loaded = load_checkpoint(run)
    assert loaded is not None
    return int(loaded[0]["step"])


def damage(folder: Path, how: str) -> None:
    saved, manifest = folder / "state.pt", folder / "manifest.json"
    data = bytearray(saved.read_bytes())
    if how == "flipped bit":
        data[len(data) // 2] ^= 1
        saved.write_bytes(data)
    elif how == "cut short":
        saved.write_bytes(data[:-10])
    elif how == "no state":
        saved.unlink()
    elif how == "no manifest":
        manifest.unlink()
    elif how == "empty manifest":
        manifest.write_text("")
    else:
        manifest.write_text(json.dumps({"empty list": [], "no digests": {"sha256": {}}}[how]))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"

    folder = save_checkpoint(run, 7, state(7))
    loaded = load_checkpoint(run)

    assert loaded is not None
    assert loaded[1] == folder
    assert loaded[0].keys() == state(7).keys()
    assert loaded[0]["notes"] == ["a", 1.5]
    torch.testing.assert_close(loaded[0]["model"], state(7)["model"], rtol=0, atol=0)


def test_there_is_nothing_to_load_before_the_first_save(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "not made yet") is None


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 50, 500, 501):
        save_checkpoint(tmp_path, step, state(step))

    assert folders(tmp_path) == ["step-00000500", "step-00000501"]
    assert loaded_step(tmp_path) == 501


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_are_kept_as_asked_for(keep: int, tmp_path: Path) -> None:
    for step in range(5):
        save_checkpoint(tmp_path, step, state(step), keep=keep)

    assert folders(tmp_path) == [f"step-{step:08}" for step in range(5 - keep, 5)]


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        save_checkpoint(tmp_path, 1, state(1), keep=0)


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_998, 99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, state(step))

    assert folders(tmp_path) == ["step-100000000", "step-99999999"]
    assert loaded_step(tmp_path) == 100_000_000


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, state(5))
    save_checkpoint(tmp_path, 5, {"step": 1005})

    assert folders(tmp_path) == ["step-00000005"]
    assert loaded_step(tmp_path) == 1005


@pytest.mark.parametrize(
    "how",
    [
        "flipped bit",
        "cut short",
        "no state",
        "no manifest",
        "empty manifest",
        "empty list",
        "no digests",
    ],
)
def test_a_damaged_newest_falls_back_to_the_one_before(how: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    damage(save_checkpoint(tmp_path, 2, state(2)), how)

    assert loaded_step(tmp_path) == 1


def test_all_damaged_is_an_error_that_names_them(tmp_path: Path) -> None:
    for step in (1, 2):
        damage(save_checkpoint(tmp_path, step, state(step)), "flipped bit")

    with pytest.raises(ValueError, match=r"damaged \(step-00000001, step-00000002\); remove them"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_resumed_before_a_damaged_checkpoint_does_not_lose_its_new_ones(
    keep: int, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, 10, state(10))
    damage(save_checkpoint(tmp_path, 20, state(20)), "flipped bit")

    save_checkpoint(tmp_path, 15, state(15), keep=keep)

    assert loaded_step(tmp_path) == 15
    assert folders(tmp_path) == ["step-00000010", "step-00000015"][-keep:]


def test_folders_that_were_not_finished_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, state(3))
    (tmp_path / "step-00000003").rename(tmp_path / ".step-00000009.partial")
    (tmp_path / "step-last").mkdir()
    (tmp_path / "step-00000010").write_text("a file")
    (tmp_path / "metrics.jsonl").write_text("{}")

    assert load_checkpoint(tmp_path) is None

    save_checkpoint(tmp_path, 4, state(4))
    assert loaded_step(tmp_path) == 4
    assert ".step-00000009.partial" not in folders(tmp_path), "left-overs are cleared away"
    assert "metrics.jsonl" in folders(tmp_path)


class Killed(BaseException):
    """What no handler of the code under test can catch."""


class KilledWhileSaved:
    def __reduce__(self) -> str:
        raise Killed


@pytest.mark.parametrize("step", [1, 2], ids=["same step", "next step"])
def test_a_kill_while_saving_leaves_the_one_before(step: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))

    with pytest.raises(Killed):
        save_checkpoint(tmp_path, step, {"step": step, "rest": KilledWhileSaved()})

    assert loaded_step(tmp_path) == 1
    save_checkpoint(tmp_path, 2, state(2))
    assert folders(tmp_path) == ["step-00000001", "step-00000002"]
    assert loaded_step(tmp_path) == 2


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("step", [2, 3], ids=["same step", "next step"])
def test_a_kill_at_any_point_of_a_save_loses_no_step(
    point: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for earlier in (1, 2):
        save_checkpoint(tmp_path, earlier, state(earlier))

    def kill(reached: str) -> None:
        if reached == point:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "on_point", kill)
        with pytest.raises(Killed):
            save_checkpoint(tmp_path, step, state(step))

    assert loaded_step(tmp_path) >= 2
    save_checkpoint(tmp_path, 4, state(4))
    assert loaded_step(tmp_path) == 4
    assert not [*tmp_path.glob(".*")], "left-overs are cleared away"


def test_the_best_stays_beside_the_newest(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, state(step), best_step=2)

    assert folders(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]


def test_those_passed_over_are_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    torn = save_checkpoint(tmp_path, 2, state(2))
    damage(torn, "cut short")
    named: list[Path] = []

    load_checkpoint(tmp_path, on_damaged=named.append)

    assert named == [torn]


def test_what_changes_after_a_save_began_is_not_in_it(tmp_path: Path) -> None:
    moving = {"step": 1, "nested": [{"weight": torch.zeros(1000)}]}
    saver = Saver(tmp_path)

    saver.save(1, moving)
    moving["nested"][0]["weight"].fill_(1.0)  # type: ignore[index]
    saver.wait()

    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded[0]["nested"][0]["weight"], torch.zeros(1000))


def test_a_save_that_failed_is_told_by_the_next_call_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path)
    saver.save(1, state(1))
    saver.wait()

    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "on_point", full)
        saver.save(2, state(2))
        assert saver._pending is not None
        saver._pending.exception()  # until it has failed
    with pytest.raises(OSError, match=r"cannot save \S+step-00000002: No space left on device"):
        saver.save(3, state(3))

    saver.wait()
    assert folders(tmp_path) == ["step-00000001", "step-00000003"], "the next one is saved"


@pytest.mark.parametrize("room", [0, 500, 2000])
def test_a_disk_that_takes_no_more_leaves_what_was_there(room: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))

    with full_disk(room), pytest.raises(OSError, match=r"cannot save \S+2: File too large"):
        save_checkpoint(tmp_path, 2, {"weight": torch.zeros(100_000)})

    assert folders(tmp_path) == ["step-00000001"]
    assert loaded_step(tmp_path) == 1


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond ``room`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
