"""A publication that has passed all checks."""

import shutil
import time
from pathlib import Path

import pytest

from tests.publish.folders import copy_card
from wszoo.publish import Publication, check_folder


@pytest.fixture(scope="session")
def publication(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    """Of a folder that no test changes."""
    return check_folder(copy_card(tmp_path_factory.mktemp("cards")))


@pytest.fixture
def folder(publication: Publication, tmp_path: Path) -> Path:
    """A copy of that folder; to render its card takes longer than most tests."""
    home = publication.files[0].path.parent
    shutil.copytree(home, tmp_path / home.name)
    return tmp_path / home.name


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits longer before each of its tries, half a minute in all."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
