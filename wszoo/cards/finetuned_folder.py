"""What a finished run of ``wszoo finetune`` has left, made a folder to push."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wszoo.cards.finetuned import SHOWN, began_with, finetuned_card
from wszoo.cards.folder import CARD, CONFIG, copy_into
from wszoo.cards.licences import licence_of
from wszoo.cards.results import RESULTS
from wszoo.cards.words import NOT_RECORDED, Words, missing
from wszoo.finetune.outputs import Facts, read_facts, require_output
from wszoo.finetune.report import EXAMPLES
from wszoo.training.rows import read_rows
from wszoo.weights import WEIGHTS_FILE
from wszoo.weights_file import read_header, read_metadata, recipe_hash


def write_finetuned(
    run: Path, folder: Path, words: Words, *, examples: bool = False
) -> tuple[str, ...]:
    """Write card, results, pictures, weights and configuration of a run into ``folder``.

    Args:
        run: Of ``wszoo finetune``.
        folder: There, with nothing in it but an earlier card, or the run's own ``model``.
        words: What the run does not hold.
        examples: Show photos of the data, too, which then become public with the card.

    Returns:
        What the card says is not stated.

    Raises:
        FileNotFoundError: The run is not finished.
        ValueError: Its configuration is damaged, or ``words`` state another licence than that of
            the weights it began with.
        OSError: The folder cannot be written.
    """
    net, made = read_facts(run), require_output(run)
    base = began_with(net)
    licence_of(words, base)  # refuses before anything is written
    home = made.parent if (made.parent / "run.json").exists() else made
    wanted = [name for name in SHOWN if name != EXAMPLES or examples]
    copy_into(
        folder,
        [made / WEIGHTS_FILE, made / CONFIG]
        + [home / name for name in wanted if (home / name).exists()],
    )
    if not examples:
        (folder / EXAMPLES).unlink(missing_ok=True)
    results = results_of(home, net, folder)
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(finetuned_card(net, results, words), encoding="utf-8")
    return missing(words, inherits=base is not None)


def results_of(home: Path, net: Facts, folder: Path) -> dict[str, Any]:
    """What a run says of itself; what its folder does not hold is left out.

    Args:
        home: Folder of the run.
        net: What was kept of it.
        folder: Of the card, with pictures and weights.
    """
    header = read_header(folder / WEIGHTS_FILE)
    statistics = [key for key in header if key.endswith(".running_mean")]
    channel_norms = sum(key.endswith(".bn.running_mean") for key in statistics)
    results: dict[str, Any] = {
        **net.to_json(),
        "recipe_hash": recipe_hash(asdict(net.settings)),
        "code": read_metadata(folder / WEIGHTS_FILE).get("code", NOT_RECORDED),
        "parameters": sum(math.prod(entry["shape"]) for entry in header.values()),
        # BatchChannelNorm holds one, which is part of it and none of the net's own.
        "batch_norms": len(statistics) - channel_norms,
        "batch_channel_norms": channel_norms,
        "file_bytes": (folder / WEIGHTS_FILE).stat().st_size,
        "pictures": sorted(path.name for path in folder.glob("*.png")),
    }
    if (home / "run.json").exists():
        declared = json.loads((home / "run.json").read_text(encoding="utf-8"))
        results |= {key: declared[key] for key in ("data", "start", "hardware")}
        if results["code"] == NOT_RECORDED and declared["code"] != "unknown":
            results["code"] = declared["code"]  # files said nothing of it before
    starts, _ = read_rows(home / "starts.jsonl")
    rows, _ = read_rows(home / "metrics.jsonl")
    if starts:
        results["versions"] = {key: starts[-1][key] for key in ("torch", "timm")}
        results["starts"] = len(starts)
    if rows:
        results["epochs"] = len(rows)
        results["seconds"] = rows[-1]["seconds"]
    return results
