"""What ``make release`` lets pass, and the files that name the version."""

import io
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import wszoo
from train import release
from train.release import ReleaseError, check_sdist, check_wheel, install_and_run, to_do
from wszoo.weights import WEIGHTS, WEIGHTS_FILE, find

ROOT = Path(__file__).parents[1]
INFO = f"wszoo-{wszoo.__version__}.dist-info"
PACKAGED = [f"wszoo/assets/{w.name}/{WEIGHTS_FILE}" for w in WEIGHTS if w.packaged]
WHEEL = [
    *("wszoo/__init__.py", "wszoo/cli.py", "wszoo/assets/LICENSES.md", *PACKAGED),
    *(f"wszoo/model_cards/{weights.name}/README.md" for weights in WEIGHTS if not weights.origin),
    *(f"{INFO}/licenses/LICENSE", f"{INFO}/METADATA"),
]
SDIST = [
    *("pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff"),
    *("tests/test_cards.py", "train/publish.py", "wszoo/cli.py", "model_cards/x/results.json"),
]


def wheel(folder: Path, names: Iterable[str]) -> Path:
    path = folder / "wszoo.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return path


def sdist(folder: Path, names: Iterable[str]) -> Path:
    path = folder / "wszoo.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"wszoo-1/{name}"), io.BytesIO())
    return path


def test_the_citation_names_this_version_and_the_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["version"] == wszoo.__version__
    assert citation["license"] == "Apache-2.0" and citation["authors"]
    papers = {each["url"].rpartition("/")[2] for each in citation["references"]}
    cited = {w.paper_ids.removeprefix("arXiv:") for w in WEIGHTS}
    assert cited | {"1803.08494"} <= papers
    for each in citation["references"]:
        assert each["title"] and each["authors"] and each["year"]
        assert each["identifiers"][0]["value"].removeprefix("arXiv:") in each["url"]


def test_a_wheel_with_the_package_alone_passes(tmp_path: Path) -> None:
    assert check_wheel(wheel(tmp_path, WHEEL)) == WHEEL


@pytest.mark.parametrize(
    "stray", ["tests/test_cards.py", "train/publish.py", "model_cards/x/README.md", "notes.txt"]
)
def test_a_wheel_with_anything_beside_the_package_is_refused(stray: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=f"holds '{re.escape(stray)}', which does not belong"):
        check_wheel(wheel(tmp_path, [*WHEEL, stray]))


@pytest.mark.parametrize("missing", [PACKAGED[0], f"{INFO}/licenses/LICENSE", "wszoo/cli.py"])
def test_a_wheel_that_lacks_a_file_is_refused(missing: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=f"lacks '{re.escape(missing)}'; see pyproject"):
        check_wheel(wheel(tmp_path, [name for name in WHEEL if name != missing]))


@pytest.mark.parametrize("stray", ["wszoo/assets/net.pth", "wszoo/__pycache__/cli.pyc"])
@pytest.mark.parametrize(
    ("make", "check", "names"), [(wheel, check_wheel, WHEEL), (sdist, check_sdist, SDIST)]
)
def test_pickles_and_caches_are_in_no_archive(
    stray: str,
    make: Callable[[Path, list[str]], Path],
    check: Callable[[Path], list[str]],
    names: list[str],
    tmp_path: Path,
) -> None:
    assert set(check(make(tmp_path, names))) == set(names)

    with pytest.raises(ReleaseError, match=f"holds '{re.escape(stray)}'"):
        check(make(tmp_path, [*names, stray]))


def test_an_archive_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(release.MOST_BYTES, "wheel", 10)

    with pytest.raises(ReleaseError, match=r"has 0\.0 MB, a wheel may have 0; keep weights out"):
        check_wheel(wheel(tmp_path, WHEEL))


def test_an_sdist_without_its_tests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"lacks 'tests/test_cards\.py'"):
        check_sdist(sdist(tmp_path, [name for name in SDIST if "tests" not in name]))


@pytest.mark.slow
def test_a_wheel_that_cannot_be_installed_ends_the_release(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"pip install .* ended with \d+; see above"):
        install_and_run(wheel(tmp_path, WHEEL), tmp_path, release.QUICK)


def test_what_may_not_be_published_ends_the_release_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_output: Path) -> tuple[Path, Path]:
        return sdist(tmp_path, SDIST[1:]), wheel(tmp_path, WHEEL)

    monkeypatch.setattr(release, "build", damaged)

    result = CliRunner().invoke(release.main, ["--quick"])

    assert result.exit_code == 1
    assert result.stderr == "wszoo: wszoo.tar.gz lacks 'pyproject.toml'; see pyproject.toml\n"


def test_the_release_runs_the_demo_unless_it_is_quick() -> None:
    assert ("demo",) in release.FULL
    assert set(release.FULL) > set(release.QUICK)
    makefile = (ROOT / "Makefile").read_text()
    assert "release:" in makefile and "python -m train.release $(RELEASE)" in makefile


def test_a_person_is_told_what_is_left_to_do() -> None:
    new = replace(find("test_resnet_gn_ws"), hub=None)

    lines = to_do(Path("dist/a.tar.gz"), Path("dist/b.whl"), records=[new])

    text = "\n".join(lines)
    version = wszoo.__version__
    in_order = [
        "export WSZOO_HUB_NAMESPACE=",
        "wszoo push --all --dry-run && wszoo push --all",
        "into wszoo/weights_table.py",
        "make cards test",
        "wszoo push --all, again",
        "git commit",
        "make release",
        f"git tag -a v{version}",
        "twine upload dist/a.tar.gz dist/b.whl",
    ]
    assert sorted(in_order, key=text.index) == in_order
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert ("CHANGELOG.md" in text) == (f"## [{version}]" not in changelog)
    assert text.index("git commit") > text.find("CHANGELOG.md")


def test_weights_that_are_pinned_are_not_pushed_again() -> None:
    pinned = replace(find("test_resnet_gn_ws"), hub="me/net@0123")

    lines = to_do(Path("a.tar.gz"), Path("b.whl"), records=[pinned])

    assert not any("wszoo push" in line for line in lines)
    assert lines[-1] == "twine upload a.tar.gz b.whl"


def test_an_unpacked_sdist_is_told_that_it_is_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    monkeypatch.setattr(release, "ROOT", tmp_path)

    lines = to_do(Path("a.tar.gz"), Path("b.whl"))

    assert f"{tmp_path} is no git checkout: do all of this in one, and begin anew there" in lines


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that a stand-in for ``build`` makes."""
    names = [f"wszoo-{wszoo.__version__}.tar.gz", f"wszoo-{wszoo.__version__}-py3-none-any.whl"]

    def make(words: Sequence[str], *, cwd: Path, capture: bool = False) -> str:
        for name in names:
            (Path(words[words.index("--outdir") + 1]) / name).write_text("new")
        return ""

    monkeypatch.setattr(release, "_run", make)
    return names


def test_building_replaces_its_own_archives_and_nothing_else(
    builder: list[str], tmp_path: Path
) -> None:
    kept = [tmp_path / "wszoo-0.0.0.tar.gz", tmp_path / "wszoo-notes.txt"]
    for path in (*kept, tmp_path / builder[0]):
        path.write_text("old")

    built = release.build(tmp_path)

    assert [path.name for path in built] == builder
    assert all(path.read_text() == "new" for path in built)
    assert all(path.read_text() == "old" for path in kept)


def test_a_build_of_another_version_is_refused(builder: list[str], tmp_path: Path) -> None:
    wanted, builder[:] = builder[0], ["wszoo-9.tar.gz"]

    with pytest.raises(ReleaseError, match=f"{wanted} was not built, but wszoo-9.tar.gz; see"):
        release.build(tmp_path)

    assert not [*tmp_path.iterdir()]
