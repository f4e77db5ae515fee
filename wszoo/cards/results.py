"""``results.json`` beside a card: all that the card says and the record does not.

A study or a benchmark gets onto the cards it tells of through a key ``cards`` at the top of a JSON
file in ``model_cards/studies`` or ``model_cards/benchmarks``, a list of findings::

    {"topic": "batch_size", "weights": "resnet18_gn_ws.*", "finding": "51.4 % with ...",
     "command": "python -m train.study_...", "picture": "accuracy.png"}

``weights`` is a glob over names; ``picture``, which may lack, lies beside the file. ``make cards``
takes them over into the ``results.json`` of each card, so that a card is a function of its record
and this file alone. A study of another net that tells of all nets here is named in ``_STUDIES``.
"""

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

TOPICS = {
    "batch_norm_twin": "the same net with BatchNorm",
    "batch_size": "accuracy by images per step",
    "seeds": "spread over seeds",
    "downstream": "fine-tuned on other data",
    "throughput": "speed",
    "energy": "energy, CO2",
}
RESULTS = "results.json"
STUDY_FIGURE = "{}_study.png"  # its name beside a card, by topic
# Studies of other nets whose figure every card shows once their page is there, by topic: the
# figure, and the command that made it.
_STUDIES = {"batch_size": ("error", "python -m train.study_batch_size")}
_FINDING = {"topic", "weights", "finding", "command"}


def read_results(folder: Path) -> dict[str, Any]:
    """The ``results.json`` of a card's folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no JSON.
    """
    path = folder / RESULTS
    if not path.exists():
        raise FileNotFoundError(
            f"no {path}; name the folder that holds {folder.name}, as model_cards of a checkout "
            f"does, with --cards"
        )
    return _read(path)


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write the ``results.json`` of a card's folder as it is read."""
    text = json.dumps(results, indent=2) + "\n"
    (folder / RESULTS).write_text(text, encoding="utf-8")


def gather(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """``results`` with what lies around them as it is now.

    Args:
        folder: Of the card, ``model_cards/<model.tag>``.
        results: As ``read_results`` has them.

    Returns:
        The same with ``pictures``: names of the PNG files beside the card; ``findings``: of studies
        and benchmarks; ``studies``: what the figures of studies of other nets show; ``before``: the
        runs that it goes on from, the latest first. Each is left out where there is none.

    Raises:
        ValueError: A file is no JSON, or a finding lacks a part or has an unknown topic.
    """
    gathered = {
        "pictures": sorted(path.name for path in folder.glob("*.png")),
        "findings": list(_findings(folder)),
        "studies": {topic: told for topic, (_, told) in _studied(folder)},
        "before": list(_before(folder, results)),
    }
    kept = {key: value for key, value in results.items() if key not in gathered}
    return kept | {key: value for key, value in gathered.items() if value}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; write it again") from error
    return content if isinstance(content, dict) else {}


def study_pictures(folder: Path) -> dict[str, Path]:
    """Pictures that studies have for the card in ``folder``, by the name they get there.

    Raises:
        ValueError: As for ``gather``.
    """
    found = {
        f"{finding['topic']}.png": path.parent / finding["picture"]
        for path, finding in _told(folder)
        if "picture" in finding
    }
    return found | {STUDY_FIGURE.format(topic): path for topic, (path, _) in _studied(folder)}


def _studied(folder: Path) -> Iterator[tuple[str, tuple[Path, dict[str, str]]]]:
    """By topic, the figure of a study of another net and what its page says of it."""
    for topic, (figure, command) in _STUDIES.items():
        home = folder.parent / "studies" / topic
        picture, plotted = home / f"{figure}.png", home / "figures.json"
        if (home / "README.md").is_file() and picture.is_file() and plotted.is_file():
            plot = _read(plotted).get(figure, {})
            told = {"title": plot.get("title", ""), "note": plot.get("note", "")}
            source = f"{folder.parent.name}/studies/{topic}"
            yield topic, (picture, {**told, "command": command, "source": source})


def _findings(folder: Path) -> Iterator[dict[str, str]]:
    for path, finding in _told(folder):
        source = path.relative_to(folder.parent.parent).as_posix()
        kept = {key: finding[key] for key in ("topic", "finding", "command")}
        yield {**kept, "source": source}


def _told(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Findings about the weights of ``folder``, and the file that each is in."""
    for kind in ("studies", "benchmarks"):
        for path in sorted((folder.parent / kind).rglob("*.json")):
            for finding in _read(path).get("cards", ()):
                if lacking := _FINDING - finding.keys():
                    raise ValueError(
                        f"{path}: a finding for cards lacks {min(lacking)!r}; it has "
                        f"{', '.join(sorted(_FINDING))}"
                    )
                if finding["topic"] not in TOPICS:
                    raise ValueError(
                        f"{path}: no topic {finding['topic']!r} for cards; there are "
                        f"{', '.join(TOPICS)}"
                    )
                if fnmatch(folder.name, finding["weights"]):
                    yield path, finding


def _before(folder: Path, results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The runs whose weights this one began with: how long they took and how far they came."""
    seen = {folder.name}
    while tag := results.get("recipe", {}).get("start_tag"):
        name = f"{results['model']}.{tag}"
        path = folder.with_name(name) / RESULTS
        if name in seen or not path.exists():
            return
        seen.add(name)
        results = _read(path)
        yield {
            "tag": tag,
            "epochs": len(results["epochs"]),
            "seconds": results["epochs"][-1]["seconds"],
            "points": [[row["seconds"], row["held_out_top1"]] for row in results["epochs"]],
        }
