"""The README is true: snippets run, commands exist, numbers are those of the records."""

import re
import shlex
from pathlib import Path

import pytest
from click import Group
from click.testing import CliRunner
from PIL import Image

from wszoo.cli import main
from wszoo.describe import weights_table
from wszoo.weights import find

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SNIPPETS = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.removeprefix("wszoo ")
    for language, code in BLOCKS
    if language == "console"
    for line in code.splitlines()
    if line.startswith("wszoo ")
]
# They take minutes or files that are not here; their own tests run them on small ones.
ONLY_PARSED = ("bench", "convert", "confirm", "export", "finetune", "gallery", "push")
OTHERS = {
    "bccd": "bccd",
    "runs/cells": "resnet18_gn_ws",
    "runs/clothes": "resnet18_gn_ws",
}  # not here, and what is parsed instead


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("line", COMMANDS)
def test_command_runs(line: str, tmp_path: Path) -> None:
    words = shlex.split(line, comments=True)
    (tmp_path / "R-50-GN-WS.pth.tar").touch()
    if words[0] in ONLY_PARSED or {*OTHERS} & {*words}:
        command, given = main.commands[words[0]], [OTHERS.get(word, word) for word in words[1:]]
        if isinstance(command, Group):
            command, given = command.commands[given[0]], given[1:]
        command.make_context(words[0], given)
        return
    if "photo.jpg" in words:
        Image.new("RGB", (64, 64)).save(tmp_path / "photo.jpg")
    if "tiny-imagenet" in words:
        for class_folder in find("resnet18_gn_ws").label_ids()[:2]:
            (tmp_path / "tiny-imagenet" / class_folder).mkdir(parents=True)
            Image.new("RGB", (64, 64)).save(tmp_path / "tiny-imagenet" / class_folder / "0.png")

    if "camvid" in words:
        for folder, mode in (("train", "RGB"), ("trainannot", "L")):
            (tmp_path / "camvid" / folder).mkdir(parents=True)
            photo = Image.new(mode, (64, 64))
            photo.putpixel((0, 0), 1)  # two classes, where it is a mask
            photo.save(tmp_path / "camvid" / folder / "0.png")

    result = CliRunner().invoke(main, words)

    assert result.exit_code == 0, result.output


def test_the_table_of_weights_is_the_one_of_the_records() -> None:
    assert weights_table() in README, "run make cards"


def test_the_two_commands_of_a_newcomer_are_there() -> None:
    assert "python -m pip install -e . && wszoo demo" in README
    assert "python -m pip install -e '.[test]' && pytest" in README
