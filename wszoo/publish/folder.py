"""What a folder of ``model_cards`` publishes, and what it must be before anything is sent."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wszoo.cards import render_card
from wszoo.files import read_text, sha256_of
from wszoo.publish.files import (
    CARD,
    CONFIG,
    RESULTS,
    Files,
    check_pictures,
    measured,
    paths_in,
    read_json,
    require,
)
from wszoo.verify import verify_file
from wszoo.weights import ASSETS, WEIGHTS_FILE, Weights, read_metadata, record_of
from wszoo.weights_file import file_metadata, recipe_hash

_AGAIN = "write the folder again with `python -m train.publish`"


@dataclass(frozen=True, kw_only=True)
class Publication(Files):
    """A record and the files that publish it, all checked."""

    weights: Weights

    @property
    def name(self) -> str:
        return self.weights.name

    @property
    def dtype(self) -> str | None:
        return self.weights.dtype


def check_folder(folder: Path) -> Publication:
    """Everything that ``folder`` publishes; no request is made.

    Args:
        folder: Named by a record, with its card, ``config.json``, ``results.json``, pictures, and
            the weights, which may lack where they are in the package.

    Raises:
        FileNotFoundError: It is not there, or a file is missing.
        ValueError: A file does not agree with the record, or does not belong there.
    """
    weights = _record(folder)
    paths = _paths(folder, weights)
    results = read_json(paths[RESULTS], _AGAIN)
    _check_config(paths[CONFIG], weights)
    _check_weights(paths[WEIGHTS_FILE], weights, results)
    _check_card(paths, weights, results)
    return Publication(weights=weights, files=measured(paths))


def _record(folder: Path) -> Weights:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; name one of model_cards, such as MODEL.TAG")
    name = folder.resolve().name
    weights = record_of(name)
    if weights is None or weights.name != name:
        raise ValueError(
            f"no record is named {name!r}, as the folder is, and it is none that `wszoo card RUN` "
            f"wrote; other nets go with `hf upload NAMESPACE/NAME {folder}`"
        )
    if not re.fullmatch(r"[\w.+-]+", weights.license):
        raise ValueError(
            f"the licence of {name} is {weights.license!r}, and without one nobody may pass "
            f"weights on; name it in the record, or leave them with their authors"
        )
    if weights.sha256 is None:
        raise ValueError(f"the record of {name} has no sha256; run `wszoo confirm {name}` first")
    return weights


def _paths(folder: Path, weights: Weights) -> dict[str, Path]:
    """Where each file lies, by name."""
    paths = paths_in(folder)
    if weights.packaged:
        if WEIGHTS_FILE in paths and sha256_of(paths[WEIGHTS_FILE]) != weights.sha256:
            raise ValueError(
                f"{folder} holds another {WEIGHTS_FILE} than the package, which has the one of "
                f"{weights.name}; delete this copy"
            )
        paths[WEIGHTS_FILE] = ASSETS / weights.name / WEIGHTS_FILE
    require(folder, paths, _AGAIN)
    return paths


def _check_config(path: Path, weights: Weights) -> None:
    config = read_json(path, _AGAIN)
    ours, pretrained = config.get("wszoo"), config.get("pretrained_cfg")
    found = {
        "architecture": config.get("architecture"),
        "num_classes": config.get("num_classes"),
        **{f"wszoo.{key}": _entry(ours, key) for key in ("formula", "sha256", "dtype")},
        **{
            key: _entry(pretrained, key)
            for key in ("input_size", "crop_pct", "interpolation", "mean", "std", "license")
        },
    }
    for key, value in found.items():
        field = "model" if key == "architecture" else key.rpartition(".")[2]
        wanted = getattr(weights, field)
        if value != (list(wanted) if isinstance(wanted, tuple) else wanted):
            raise ValueError(
                f"{path} says {key} {value!r}, the record of {weights.name} {wanted!r}; {_AGAIN}"
            )


def _entry(table: Any, key: str) -> Any:
    return table.get(key) if isinstance(table, dict) else None


def _check_weights(path: Path, weights: Weights, results: dict[str, Any]) -> None:
    """Refuse a file that is another, folded or damaged, or that says something else of itself."""
    verify_file(path, weights.name)
    settings, code = results.get("recipe"), results.get("code")
    if not isinstance(settings, dict) or not isinstance(code, str) or not code:
        raise ValueError(
            f"the results.json of {weights.name} names no recipe, or no code that trained it; "
            f"{_AGAIN}"
        )
    stated, made = results.get("recipe_hash"), recipe_hash(settings)
    if stated not in (None, made):
        raise ValueError(
            f"the results.json of {weights.name} says recipe_hash {stated!r}, its recipe makes "
            f"{made!r}; {_AGAIN}"
        )
    wanted = file_metadata(
        model=weights.model,
        tag=weights.tag,
        formula=weights.formula,
        settings=settings,
        code=code,
    )
    metadata = read_metadata(path)
    for key, value in wanted.items():
        if metadata.get(key) != value:
            raise ValueError(
                f"{path} says {key} {metadata.get(key)!r} in its metadata, where record and "
                f"results.json make {value!r}; {_AGAIN}"
            )


def _check_card(paths: dict[str, Path], weights: Weights, results: dict[str, Any]) -> None:
    card = paths[CARD]
    if read_text(card, _AGAIN) != render_card(weights, results):
        raise ValueError(f"{card} is not what its record and results.json render; run `make cards`")
    check_pictures(paths, _AGAIN)
