"""The page: one HTML file with everything in it."""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

from wszoo import __version__
from wszoo.gallery.cards import Cards
from wszoo.gallery.panel import panel
from wszoo.gallery.plot import SHAPES, address, static_plot
from wszoo.gallery.rows import DataSet, Row, data_sets
from wszoo.gallery.speed import Speeds, rounded

_EARLY = 'document.documentElement.className="js"'  # before the first paint
_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    "<path d='M2 14V9h3v5zm4.5 0V2h3v12zm4.5 0V6h3v8z' fill='#2563a8'/></svg>"
)
_AXES = {
    "params": ("Parameters", "parameters, millions", "M"),
    "macs": ("MACs", "multiply-accumulates of one image, billions", "G"),
    "speed": ("Speed", "images per second", "images/s"),
}
_MEASURE = "<code>wszoo gallery --measure</code>"
_ORDERS = {
    "": "name",
    "top1": "accuracy",
    "params": "parameters",
    "macs": "MACs",
    "speed": "speed",
}


def render(rows: Sequence[Row], cards: Cards, speeds: Speeds | None = None) -> str:
    """The whole page.

    Args:
        rows: The models, in the order of the table.
        cards: Where their cards are.
        speeds: What was measured; without it nothing on the page tells of speed.
    """
    data = data_sets(rows)
    css = _packaged("style.css")
    scripts = [_packaged(name) for name in ("plot.js", "page.js")]  # the order they run in
    axes = {key: axis for key, axis in _AXES.items() if key != "speed" or speeds}
    orders = {key: title for key, title in _ORDERS.items() if key != "speed" or speeds}
    return Template(_packaged("template.html")).substitute(
        policy=escape(_policy(css, [_EARLY, *scripts])),
        icon=escape(f"data:image/svg+xml,{quote(_ICON)}"),
        css=css,
        early=_EARLY,
        js="</script>\n<script>".join(scripts),
        version=escape(__version__),
        counts=escape(_counts(rows)),
        data_choice=_radios("data", {chosen.key: chosen.title for chosen in data}),
        axis_choice=_radios("x", {key: title for key, (title, _, _) in axes.items()}),
        norms=_options(row.norm for row in rows),
        families=_options(row.family for row in rows),
        licences=_options(row.weights.license for row in rows if row.weights),
        orders="".join(
            f'<option value="{k}">{escape(title)}</option>' for k, title in orders.items()
        ),
        plots="".join(_figure(rows, chosen) for chosen in data),
        legend=_legend(rows),
        notes=_notes(speeds, rows),
        table=_table(rows, speeds),
        details="".join(_details(row, cards, speeds) for row in rows),
        zoo=_as_script(_data(rows, data, axes, speeds)),
    )


def _packaged(name: str) -> str:
    return (files("wszoo.gallery") / name).read_text(encoding="utf-8")


def _policy(css: str, scripts: Iterable[str]) -> str:
    """What a browser may do with the page: nothing but show it, and run its own scripts."""
    hashes = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(css)}; script-src {hashes}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _counts(rows: Sequence[Row]) -> str:
    variants, sets = len({row.model for row in rows}), sum(row.weights is not None for row in rows)
    return f"{variants} variant{'s' * (variants != 1)}, {sets} set{'s' * (sets != 1)} of weights."


def _figure(rows: Sequence[Row], data: DataSet) -> str:
    caption = escape(f"{data.title}: {data.note}.")
    return f"<figure>{static_plot(rows, data)}<figcaption>{caption}</figcaption></figure>"


def _radios(name: str, titles: dict[str, str]) -> str:
    return "".join(
        f'<label><input type="radio" name="{name}" value="{escape(key)}">'
        f"<span>{escape(title)}</span></label>"
        for key, title in titles.items()
    )


def _options(values: Iterable[str]) -> str:
    return "".join(f"<option>{escape(value)}</option>" for value in dict.fromkeys(values))


def _legend(rows: Sequence[Row]) -> str:
    norms = {"GN": "GroupNorm", "BCN": "Batch-Channel Normalization"}
    swatch = '<svg viewBox="-8 -8 16 16" aria-hidden="true"><path class="mark" d="{}"/></svg>'
    items = [
        f'<li class="{norm.lower()}">{swatch.format(SHAPES["ResNet"])}{norms[norm]}</li>'
        for norm in dict.fromkeys(row.norm for row in rows)
    ]
    items += [
        f'<li class="family">{swatch.format(SHAPES[family])}{escape(family)}</li>'
        for family in dict.fromkeys(row.family for row in rows)
    ]
    return "".join(items)


def _notes(speeds: Speeds | None, rows: Sequence[Row]) -> str:
    if speeds is None:
        return f'<p class="note">Speed was not measured for this page; {_MEASURE} does it.</p>'
    lacking = sum(speeds.find(row) is None for row in rows)
    text = (
        f"Speed: {speeds.what}, at the size given, on {speeds.hardware}; median of "
        f"{speeds.rounds} round{'s' * (speeds.rounds != 1)} in which the nets took turns; "
        f"{speeds.measured}, "
        f"torch {speeds.torch}, wszoo {speeds.wszoo}."
    )
    if lacking:
        text += f" Not measured: {lacking} of {len(rows)}."
    return f'<p class="note">{escape(text)} {_MEASURE} measures the machine at hand.</p>'


def _table(rows: Sequence[Row], speeds: Speeds | None) -> str:
    heads = ["Model", "Norm", "Parameters", "MACs", "Speed", "Top-1", "Pixels", "Licence", "File"]
    if speeds is None:
        heads.remove("Speed")
    keys = {"Parameters": "params", "MACs": "macs", "Speed": "speed", "Top-1": "top1"}
    sortable = {title: f' data-sort="{key}"' for title, key in keys.items()}
    numbers = (*keys, "Pixels")
    head = "".join(
        f'<th scope="col" class="{"number" if title in numbers else ""}"'
        f"{sortable.get(title, '')}>{title}</th>"
        for title in heads
    )
    body = "".join(_table_row(row, speeds) for row in rows)
    return (
        '<table id="models"><caption>Every variant, and its weights where there are any</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _table_row(row: Row, speeds: Speeds | None) -> str:
    cells = [
        ("Norm", escape(row.norm), ""),
        ("Parameters", f"{row.parameters / 1e6:.2f}&nbsp;M", "number"),
        ("MACs", row.macs_text.replace(" ", "&nbsp;"), "number"),
        *([("Speed", _speed(row, speeds), "number")] if speeds else []),
        ("Top-1", _accuracy(row), f"number wide {_kind(row)}"),
        ("Pixels", str(row.pixels), "number"),
        ("Licence", escape(row.weights.license) if row.weights else "–", _kind(row)),
        ("File", escape(row.location), "wide" if row.weights else "wide none"),
    ]
    rest = "".join(
        f'<td data-label="{head}" class="{kind}">{text}</td>' for head, text, kind in cells
    )
    name = f'<a href="{escape(address(row))}">{escape(row.name)}</a>'
    return f'<tr data-name="{escape(row.name)}"><th scope="row">{name}</th>{rest}</tr>'


def _kind(row: Row) -> str:
    """Cells that say nothing are left out where the table is a column of cards."""
    return "" if row.weights else "empty"


def _speed(row: Row, speeds: Speeds) -> str:
    speed = speeds.find(row)
    return f"{rounded(speed.images_per_second)}/s" if speed else "–"


def _accuracy(row: Row) -> str:
    if row.weights is None:
        return "–"
    figures = [(title, m["top1"]) for title, m in row.accuracies.items() if "top1" in m]
    return (
        "<br>".join(f"{top1:.2f}&nbsp;% <small>{escape(title)}</small>" for title, top1 in figures)
        or '<span class="none">none published</span>'
    )


def _details(row: Row, cards: Cards, speeds: Speeds | None) -> str:
    return (
        f"<details><summary>{escape(row.name)}</summary>"
        f'<article id="{escape(address(row).removeprefix("#"))}">{panel(row, cards, speeds)}'
        "</article></details>"
    )


def _data(
    rows: Sequence[Row],
    data: Sequence[DataSet],
    axes: dict[str, tuple[str, str, str]],
    speeds: Speeds | None,
) -> dict[str, Any]:
    """What the script draws."""
    models = []
    for row in rows:
        speed = speeds.find(row) if speeds else None
        x = {
            "params": round(row.parameters / 1e6, 3),
            "macs": round(row.macs / 1e9, 4),
            "speed": speed.images_per_second if speed else None,
        }
        models.append(
            {
                "name": row.name,
                "model": row.model,
                "label": row.label,
                "tag": row.weights.tag if row.weights else "",
                "norm": row.norm,
                "family": row.family,
                "licence": row.weights.license if row.weights else None,
                "x": {key: x[key] for key in axes},
                "top1": row.top1,
            }
        )
    return {
        "models": models,
        "data": [{"key": d.key, "title": d.title, "note": d.note} for d in data],
        "axes": {key: {"unit": unit, "short": short} for key, (_, unit, short) in axes.items()},
        "shapes": SHAPES,
    }


def _as_script(data: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
