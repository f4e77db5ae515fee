"""Folders that are pushed to the Hub as they are: what may lie in them, and their config.json."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from timm.models._hub import save_config_for_hf

from wszoo.cards.results import RESULTS
from wszoo.cards.words import NOT_STATED
from wszoo.origin import ORIGIN_FILE
from wszoo.weights import WEIGHTS_FILE, Weights

CARD, CONFIG = "README.md", "config.json"
_OURS = {CARD, CONFIG, RESULTS, WEIGHTS_FILE, ORIGIN_FILE}


def default_cards() -> Path | None:
    """The folder of the zoo's own cards: in the package, or in the checkout it runs from.

    A wheel has ``model_cards`` in the package, without weights and studies.
    """
    package = Path(__file__).parents[1]
    places = (package / "model_cards", package.parent / "model_cards")
    return next(filter(Path.is_dir, places), None)


def prepare(folder: Path) -> None:
    """Make a folder for a card, or see that an existing one holds nothing else.

    Raises:
        FileExistsError: It is a file, or holds what does not belong to a card.
        OSError: It cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder with -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make {folder}: {error.strerror}; name another one") from error
    foreign = [
        path.name
        for path in folder.iterdir()
        if path.name not in _OURS and not (path.is_file() and path.suffix == ".png")
    ]
    if foreign:
        raise FileExistsError(
            f"{folder} holds {min(foreign)!r}, which is not part of a card; "
            f"name a new folder with -o"
        )


def copy_into(folder: Path, paths: Sequence[Path]) -> None:
    """Copy files, where they are not there already.

    Raises:
        OSError: One cannot be written.
    """
    for path in paths:
        target = folder / path.name
        if target.exists() and target.samefile(path):
            continue
        try:
            shutil.copyfile(path, target)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"cannot write {target}: {reason}; name another folder") from error


def write_config(folder: Path, weights: Weights) -> None:
    """Write the config.json of a classifier, by which timm and this package load it.

    Args:
        folder: Of the card.
        weights: The record, published or not.

    Raises:
        OSError: It cannot be written.
    """
    cfg = weights.pretrained_cfg(first_conv="conv1", classifier="fc").to_dict()
    # Not the file and URL that a registered name loads: the weights are those in the folder.
    if weights.license == NOT_STATED:
        cfg["license"] = None
    cfg |= {"file": None, "url": "", "hf_hub_id": None, "hf_hub_filename": None}
    with torch.device("meta"):
        model = timm.create_model(
            weights.model,
            num_classes=weights.num_classes,
            formula=weights.formula,
            pretrained_cfg=cfg,
        )
    ours = {"formula": weights.formula, "sha256": weights.sha256, "dtype": weights.dtype}
    described = dict(zip(weights.label_ids(), weights.label_names(), strict=True))
    labels = {"label_names": weights.label_ids(), "label_descriptions": described}
    named = {} if weights.labels is None else labels
    save_config_for_hf(model, str(folder / CONFIG), model_config={**named, "wszoo": ours})
