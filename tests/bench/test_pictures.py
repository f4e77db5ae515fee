from dataclasses import replace
from pathlib import Path

from PIL import Image

from tests.bench.results import RESULT, row
from wszoo.bench.footprint import PEAK
from wszoo.bench.pictures import draw, peaks_by_net


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_ratios_and_memory_are_drawn(tmp_path: Path) -> None:
    drawn = draw(RESULT, tmp_path)

    assert [path.name for path in drawn] == ["ratios.png", "memory_bf16_channels_last.png"]
    assert sorted(tmp_path.iterdir()) == sorted(drawn)
    for path in drawn:
        assert size_of(path)[0] > 1000


def test_every_row_with_a_goal_has_a_line_of_the_picture(tmp_path: Path) -> None:
    (folder := tmp_path / "more").mkdir()
    few = replace(RESULT, rows=RESULT.rows[:1])
    more = replace(RESULT, rows=(*RESULT.rows[:1], row("operator", "formula bcn", 0.4, goal=0.45)))

    (first,), (second,) = draw(few, tmp_path), draw(more, folder)

    assert size_of(second)[1] > size_of(first)[1]


def test_rows_without_goals_are_drawn_where_there_are_no_others(tmp_path: Path) -> None:
    free = replace(RESULT, rows=(row("loader", "read", 0.8), row("import", "import wszoo", 1.0)))

    assert [path.name for path in draw(free, tmp_path)] == ["ratios.png"]
    assert draw(replace(RESULT, rows=()), tmp_path) == []


def test_lines_of_memory_are_those_of_the_rows() -> None:
    lines = peaks_by_net([each for each in RESULT.rows if each.what.startswith(PEAK)])

    assert [*lines] == ["ours, fast", "BatchNorm", "ours, lean"]
    assert lines["ours, fast"] == [(1, 100.0), (2, 200.0), (4, 400.0), (8, 800.0)]
    assert lines["ours, lean"][-1] == (8, 720.0)
