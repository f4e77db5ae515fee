"""Complete the header of published weights: ``python -m train.publish --header NAME``.

The first files were published before headers told of recipe and code. What they lack stands in
``results.json``; the tensors stay as they are, byte by byte.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from wszoo import weights_table
from wszoo.cards import read_results
from wszoo.cards.folder import write_config
from wszoo.cards.results import write_results
from wszoo.weights import ASSETS, WEIGHTS_FILE, Weights, check_file
from wszoo.weights_file import file_metadata, with_metadata, write_whole

TABLE = Path(weights_table.__file__)


def complete_header(
    weights: Weights, cards: Path, *, assets: Path = ASSETS, table: Path = TABLE
) -> Weights | None:
    """Let the file of ``weights`` say what its ``results.json`` says of recipe and code.

    The new digest gets into the table of records, ``config.json`` and ``results.json``, and that
    from before into ``results.json``, too. The cards are to be rendered then, in a new process.
    Stopped at any moment, it ends what it began when it is called again.

    Args:
        weights: Of this zoo, published.
        cards: ``model_cards``.
        assets: Where packaged files are.
        table: The Python file of the records.

    Returns:
        The record as it is now; None where nothing was missing.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It is another than the record says, or pinned on the Hub.
    """
    folder = cards / weights.name
    path = (assets if weights.packaged else cards) / weights.name / WEIGHTS_FILE
    if weights.hub:
        raise ValueError(
            f"{weights.name} is pinned as {weights.hub}, whose file has the header that it has; "
            f"take the pin out of {table}, and push it anew afterwards"
        )
    results = read_results(folder)
    metadata = file_metadata(
        model=weights.model,
        tag=weights.tag,
        formula=weights.formula,
        settings=results["recipe"],
        code=results["code"],
    )
    content = path.read_bytes()
    changed = with_metadata(content, metadata)
    before, after = (hashlib.sha256(each).hexdigest() for each in (content, changed))
    if weights.sha256 != after:  # or all but the file itself was written, and then came an end
        check_file(path, sha256=weights.sha256, dtype=weights.dtype)
    if content == changed:
        return None
    if _tensors(changed) != _tensors(content):
        raise ValueError(f"{path} would have other tensors with another header; it was left alone")
    text = table.read_text(encoding="utf-8")
    if text.count(before) + text.count(after) != 1:
        raise ValueError(f"{table} does not name {before[:12]}… once; see to its records first")
    completed = replace(weights, sha256=after)
    known = results.get("sha256_before", [])
    results |= {
        "recipe_hash": metadata["recipe_hash"],
        "file_bytes": len(changed),
        "sha256_before": known if before in known else [*known, before],
    }
    write_results(folder, results)
    write_config(folder, completed)
    write_whole(table, text.replace(before, after).encode())
    write_whole(path, changed)  # the last: from what there is of the rest it can be made again
    return completed


def _tensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """What the header says of the tensors, and their bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:end])
    header.pop("__metadata__", None)
    return header, content[end:]
