"""Make a release and try it as a stranger would: ``make release``.

Builds the sdist and the wheel, looks into both, installs the wheel in an empty environment, runs it
there, and prints what a person with accounts has to run. Nothing is published by this.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from wszoo import __version__
from wszoo.cards.folder import CARD
from wszoo.terminal import CHECK_FAILED, OneLineErrors, fail
from wszoo.weights import WEIGHTS, WEIGHTS_FILE, Weights

ROOT = Path(__file__).parent.parent
MOST_BYTES = {"wheel": 30_000_000, "sdist": 100_000_000}  # the index takes files up to 100 MB
_NEVER = re.compile(r"\.(pt|pth|pkl|ckpt|pyc)$|/__pycache__/|/\.git/|\.lock$")
QUICK = (("--version",), ("list",), ("verify", "resnet18_gn_ws"))
FULL = (*QUICK, ("doctor",), ("gallery", "-o", "site"), ("demo",))


class ReleaseError(ValueError):
    """What was built is not what may be published."""


def build(output: Path) -> tuple[Path, Path]:
    """Build both archives, the wheel out of the sdist; sdist and wheel.

    Args:
        output: Folder for them; what else lies there is left alone.

    Raises:
        ReleaseError: The build failed, or another version came out.
    """
    output.mkdir(parents=True, exist_ok=True)
    sdist, wheel = f"wszoo-{__version__}.tar.gz", f"wszoo-{__version__}-py3-none-any.whl"
    with tempfile.TemporaryDirectory() as scratch:
        _run([sys.executable, "-m", "build", "--outdir", scratch, str(ROOT)], cwd=ROOT)
        found = sorted(path.name for path in Path(scratch).iterdir())
        for name in (sdist, wheel):
            if name not in found:
                told = ", ".join(found) or "nothing"
                raise ReleaseError(f"{name} was not built, but {told}; see wszoo/__init__.py")
        for name in (sdist, wheel):
            shutil.move(Path(scratch) / name, output / name)
    return output / sdist, output / wheel


def check_wheel(path: Path) -> list[str]:
    """See that a wheel holds the package, its weights, and nothing else.

    Returns:
        The names in it.

    Raises:
        ReleaseError: It is too large, lacks a file, or holds one too many.
    """
    _check_size(path, "wheel")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    allowed = ("wszoo/", f"wszoo-{__version__}.dist-info/")
    _refuse(path, (name for name in names if not name.startswith(allowed)))
    _refuse(path, filter(_NEVER.search, names))
    packaged = [f"wszoo/assets/{w.name}/{WEIGHTS_FILE}" for w in WEIGHTS if w.packaged]
    cards = [f"wszoo/model_cards/{w.name}/{CARD}" for w in WEIGHTS if w.origin is None]
    licences = [f"wszoo-{__version__}.dist-info/licenses/LICENSE", "wszoo/assets/LICENSES.md"]
    _require(path, names, ["wszoo/__init__.py", "wszoo/cli.py", *packaged, *cards, *licences])
    return names


def check_sdist(path: Path) -> list[str]:
    """See that an sdist holds what it takes to test, to train and to cite; its names.

    Raises:
        ReleaseError: As for ``check_wheel``.
    """
    _check_size(path, "sdist")
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    _refuse(path, filter(_NEVER.search, names))
    wanted = ["pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff"]
    _require(path, names, [*wanted, "tests/test_cards.py", "train/publish.py", "wszoo/cli.py"])
    return names


def _check_size(path: Path, kind: str) -> None:
    size, most = path.stat().st_size, MOST_BYTES[kind]
    if size > most:
        raise ReleaseError(
            f"{path.name} has {size / 1e6:.1f} MB, a {kind} may have {most / 1e6:.0f}; keep "
            f"weights out of wszoo/assets"
        )


def _refuse(path: Path, names: Iterable[str]) -> None:
    if foreign := sorted(names):
        raise ReleaseError(
            f"{path.name} holds {foreign[0]!r}, which does not belong there; see pyproject.toml"
        )


def _require(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    if lacking := sorted({*wanted} - {*names}):
        raise ReleaseError(f"{path.name} lacks {lacking[0]!r}; see pyproject.toml")


def install_and_run(wheel: Path, folder: Path, commands: Sequence[Sequence[str]]) -> None:
    """Install a wheel in an empty environment in ``folder``, and run ``wszoo`` from there.

    Raises:
        ReleaseError: A command fails, or the package is not the installed one.
    """
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    _run([str(programs / "python"), *pip], cwd=elsewhere)
    where = "import wszoo; print(wszoo.__file__)"
    found = _run([str(programs / "python"), "-c", where], cwd=elsewhere, capture=True)
    if not Path(found.strip()).is_relative_to(environment):
        raise ReleaseError(f"not the installed package was tried, but {found.strip()}")
    for words in commands:
        click.echo(f"$ wszoo {' '.join(words)}")
        _run([str(programs / "wszoo"), *words], cwd=elsewhere)


def _run(words: Sequence[str], *, cwd: Path, capture: bool = False) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=cwd, env=clean, text=True, stdout=subprocess.PIPE if capture else None
    )
    if done.returncode:
        raise ReleaseError(f"`{' '.join(words)}` ended with {done.returncode}; see above")
    return done.stdout or ""


def to_do(sdist: Path, wheel: Path, *, records: Sequence[Weights] = WEIGHTS) -> list[str]:
    """What only a person with accounts can do, in its order.

    What changes files comes first: the archives and the tag are to hold the records that pin the
    weights on the Hub.

    Args:
        sdist, wheel: What was built.
        records: Of the weights that are to be on the Hub, those of this zoo.
    """
    lines = []
    if any(weights.origin is None and weights.hub is None for weights in records):
        lines += [
            "hf auth login && export WSZOO_HUB_NAMESPACE=YOUR_ACCOUNT",
            "wszoo push --all --dry-run && wszoo push --all",
            "paste the records that it prints into wszoo/weights_table.py",
            "make cards test",
            "wszoo push --all, again: the cards name their pins now, which stay the same",
        ]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"## [{__version__}]" not in changelog:
        lines.append(
            f"CHANGELOG.md: put what is under [Unreleased] under [{__version__}] with the date"
        )
    if not (ROOT / ".git").exists():  # an unpacked sdist
        lines.append(f"{ROOT} is no git checkout: do all of this in one, and begin anew there")
    elif lines or _run(["git", "status", "--porcelain"], cwd=ROOT, capture=True):
        lines += ["git commit all that has changed", "make release, again"]
    tag = f"v{__version__}"
    return [
        *lines,
        f"git tag -a {tag} -m 'wszoo {__version__}' && git push origin {tag}",
        f"python -m pip install twine && twine check {sdist} {wheel}",
        f"twine upload {sdist} {wheel}",
    ]


@click.command(cls=OneLineErrors)
@click.option(
    "--out",
    "output",
    default=ROOT / "dist",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the archives.",
)
@click.option("--quick", is_flag=True, help="Leave out the demo, which takes minutes.")
def main(output: Path, quick: bool) -> None:
    """Build, check and try a release; print how to publish it."""
    try:
        sdist, wheel = build(output)
        counts = {sdist: len(check_sdist(sdist)), wheel: len(check_wheel(wheel))}
        for path, count in counts.items():
            click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {count} files")
        with tempfile.TemporaryDirectory() as scratch:
            install_and_run(wheel, Path(scratch), QUICK if quick else FULL)
        lines = to_do(sdist, wheel)
    except ReleaseError as error:
        fail(error, CHECK_FAILED)
    click.echo("\nthe wheel works. What is left, for a person with accounts:")
    for number, line in enumerate(lines, 1):
        click.echo(f"{number}. {line}")


if __name__ == "__main__":
    main()
