"""The command ``wszoo gallery``, as a user types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wszoo.gallery.speed import PACKAGED, read_speeds
from wszoo.gallery_cli import gallery

SMALL = "test*"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(gallery, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_page_is_written_and_its_path_and_size_printed() -> None:
    result = run(SMALL, "-o", "site")

    size = Path("site/index.html").stat().st_size
    assert result.exit_code == 0
    assert result.output == (
        f"site/index.html: {size} bytes, 1 model, 1 with weights, 1 with a card, with speed\n"
    )


def test_a_page_is_replaced_by_a_later_one_and_reported_as_json(tmp_path: Path) -> None:
    cards = tmp_path / "cards"
    cards.mkdir()
    run(SMALL, "-o", "site")

    facts = json.loads(run(SMALL, "-o", "site", "--cards", cards, "--json").output)

    assert facts == {
        "page": "site/index.html",
        "bytes": Path("site/index.html").stat().st_size,
        "models": 1,
        "with_weights": 1,
        "cards": 0,
        "speeds": True,
    }


def test_speed_is_measured_once_and_taken_up_later() -> None:
    measured = run(SMALL, "-o", "site", "--measure")
    with_speed = Path("site/index.html").read_text(encoding="utf-8")
    forgotten = run(SMALL, "-o", "site")
    taken_up = run(SMALL, "-o", "site", "--speed", "site/speed.json")

    assert measured.stdout.endswith("with speed\n") and measured.exit_code == 0
    speeds = json.loads(Path("site/speed.json").read_text())
    assert [(row["model"], row["pixels"]) for row in speeds["rows"]] == [("test_resnet_gn_ws", 64)]
    assert forgotten.stderr == (
        "wszoo: site/speed.json was not used; --speed site/speed.json takes it\n"
    )
    assert (taken_up.exit_code, taken_up.stderr) == (0, "")
    assert Path("site/index.html").read_text(encoding="utf-8") == with_speed


def test_speeds_of_the_package_are_shown_with_the_machine_they_are_of() -> None:
    speeds = read_speeds(PACKAGED)
    run(SMALL, "-o", "site")

    page = Path("site/index.html").read_text(encoding="utf-8")
    (speed,) = [each for each in speeds.rows if each.model == "test_resnet_gn_ws"]
    assert f"on {speeds.hardware}; median of {speeds.rounds} round" in page
    assert f"{speed.images_per_second:.3g}/s" in page
    assert "<code>wszoo gallery --measure</code> measures the machine at hand." in page
    assert not Path("site/speed.json").exists()


def test_a_folder_of_other_files_is_left_alone() -> None:
    Path("home").mkdir()
    Path("home/thesis.tex").touch()

    result = run(SMALL, "-o", "home")

    assert result.exit_code == 3
    assert result.stderr == (
        "wszoo: home holds 'thesis.tex', which is no gallery's; name a new or an empty folder\n"
    )
    assert [path.name for path in Path("home").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([SMALL], 2, "Missing option '-o'"),
        ([SMALL, "-o", "s", "--measure", "--speed", "x"], 2, "--measure and --speed exclude each"),
        ([SMALL, "-o", "s", "--cards", "gone"], 2, "'gone' does not exist"),
        (["zzz*", "-o", "s"], 1, "wszoo: nothing matches 'zzz*'; `wszoo list` shows all\n"),
        ([SMALL, "-o", "s", "--speed", "gone"], 3, "there is no file gone; `wszoo gallery --mea"),
        ([SMALL, "-o", "s", "--speed", "bad"], 3, "bad holds no speeds; `wszoo gallery --measure`"),
        ([SMALL, "-o", "bad"], 3, "wszoo: bad is a file; name a folder\n"),
        ([SMALL, "-o", "bad/s"], 3, "cannot make bad/s: Not a directory; name another folder"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], code: int, message: str) -> None:
    Path("bad").write_text("no json")

    result = run(*arguments)

    assert result.exit_code == code
    assert message in result.stderr
    assert not Path("s").exists()
