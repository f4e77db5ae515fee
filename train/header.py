"""Complete the header of published weights: ``python -m train.publish --header NAME``.

The first files were published before headers told of recipe and code. What they lack stands in
``results.json``; the tensors stay as they are, byte by byte.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from wszoo import weights_table
from wszoo.cards import read_results
from wszoo.cards.folder import write_config
from wszoo.cards.results import write_results
from wszoo.files import sha256_of
from wszoo.weights import ASSETS, WEIGHTS_FILE, Weights, check_file, read_metadata
from wszoo.weights_file import file_metadata, with_metadata, write_whole

TABLE = Path(weights_table.__file__)


def complete_header(
    weights: Weights, cards: Path, *, assets: Path = ASSETS, table: Path = TABLE
) -> Weights | None:
    """Let the file of ``weights`` say what its ``results.json`` says of recipe and code.

    The new digest gets into the table of records, ``config.json`` and ``results.json``, and that
    from before into ``results.json``, too. The cards are to be rendered then, in a new process.

    Args:
        weights: Of this zoo, published.
        cards: ``model_cards``.
        assets: Where packaged files are.
        table: The Python file of the records.

    Returns:
        The record as it is now; None where nothing was missing.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It is another than the record says.
    """
    folder = cards / weights.name
    path = (assets if weights.packaged else cards) / weights.name / WEIGHTS_FILE
    check_file(path, sha256=weights.sha256, dtype=weights.dtype)
    results, before = read_results(folder), str(weights.sha256)
    metadata = file_metadata(
        model=weights.model,
        tag=weights.tag,
        formula=weights.formula,
        settings=results["recipe"],
        code=results["code"],
    )
    if read_metadata(path) == metadata:
        return None
    text = table.read_text(encoding="utf-8")
    if text.count(before) != 1:
        raise ValueError(f"{table} does not name {before[:12]}… once; see to its records first")
    _rewrite(path, metadata)
    completed = replace(weights, sha256=sha256_of(path))
    results |= {
        "recipe_hash": metadata["recipe_hash"],
        "file_bytes": path.stat().st_size,
        "sha256_before": [*results.get("sha256_before", ()), before],
    }
    write_results(folder, results)
    write_config(folder, completed)
    write_whole(table, text.replace(before, str(completed.sha256)).encode())
    return completed


def _rewrite(path: Path, metadata: dict[str, str]) -> None:
    """Put the file with another header in place, if its tensors are the same."""
    content = path.read_bytes()
    changed = with_metadata(content, metadata)
    if _tensors(changed) != _tensors(content):
        raise ValueError(f"{path} would have other tensors with another header; it was left alone")
    write_whole(path, changed)


def _tensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """What the header says of the tensors, and their bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:end])
    header.pop("__metadata__", None)
    return header, content[end:]
