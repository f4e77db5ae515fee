"""The cards and benchmarks that the repository holds, as parts of the page."""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from wszoo.bench import Comparison
from wszoo.files import read_text
from wszoo.gallery.markdown import to_html, without_front_matter
from wszoo.gallery.rows import Row

_PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
_SHIFT = 3  # the page's own headings go down to the third level


class Cards:
    """A folder of cards such as ``model_cards``: ``<model.tag>/README.md`` and ``benchmarks``.

    Args:
        folder: None where there is none; nothing is then found.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def card(self, row: Row) -> str | None:
        """The card of a row as HTML, its pictures in it; None where it has none.

        Raises:
            ValueError: The card is no text.
        """
        path = self._path(row)
        if path is None:
            return None
        text = without_front_matter(read_text(path, "render it again with `make cards`"))
        first, _, rest = text.lstrip().partition("\n")
        if first.strip() == f"# {row.name}":  # the panel has this heading already
            text = rest
        return to_html(text, image=lambda address: picture(path.parent, address), shift=_SHIFT)

    def has_card(self, row: Row) -> bool:
        """Whether ``card`` finds one."""
        return self._path(row) is not None

    def _path(self, row: Row) -> Path | None:
        if self.folder is None or row.weights is None:
            return None
        path = self.folder / row.name / "README.md"
        return path if path.is_file() else None

    def benchmarks(self, row: Row) -> list[dict[str, Any]]:
        """What ``wszoo bench -o`` measured of the row's model; other files are left out."""
        if self.folder is None:
            return []
        found = []
        for path in sorted((self.folder / "benchmarks").rglob("*.json")):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} is no JSON; `wszoo bench -o DIR` writes it") from error
            if (
                isinstance(content, dict)
                and content.get("model") == row.model
                and {"machine", "rows"} <= content.keys()
            ):
                found.append(content)
        return found


def picture(folder: Path, address: str) -> str | None:
    """A picture of ``folder`` as a data address; None for any that lies elsewhere or is none."""
    path = (folder / unquote(address)).resolve()
    kind = _PICTURES.get(path.suffix.lower())
    if kind is None or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def benchmark_html(found: Sequence[dict[str, Any]]) -> str:
    """Tables of ``wszoo bench``, one per file."""
    return "".join(_benchmark(content) for content in found)


def _benchmark(content: dict[str, Any]) -> str:
    result = Comparison.from_json(content)
    rows = "".join(
        f'<tr><th scope="row">{escape(row.name)}</th><td>{escape(row.peer)}</td>'
        + "".join(
            f'<td class="number">{escape(text)}</td>'
            for text in (
                f"{row.ours:.1f} {row.unit}",
                f"{row.theirs:.1f} {row.unit}",
                f"{row.ratio:.2f}",
                "" if row.goal is None else f"{row.goal:.2f}",
            )
        )
        + "</tr>"
        for row in result.rows
    )
    told = f"Ours over theirs, below 1 is better: {result.clock}, {result.machine}"
    heads = "".join(
        f'<th scope="col" class="number">{head}</th>'
        for head in ("ours", "theirs", "ratio", "goal")
    )
    return (
        f'<div class="scroll"><table><caption>{escape(told)}</caption><thead><tr><td></td>'
        f'<th scope="col">against</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
