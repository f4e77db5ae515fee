"""What the page says of one model: facts, code, speed, card."""

from html import escape

from wszoo.gallery.cards import Cards, benchmark_html
from wszoo.gallery.markdown import code_block, link
from wszoo.gallery.rows import NO_WEIGHTS, Row
from wszoo.gallery.snippets import access, snippets
from wszoo.gallery.speed import Speeds, rounded


def panel(row: Row, cards: Cards, speeds: Speeds | None) -> str:
    """HTML of one model, below a heading that the page puts there."""
    facts = "".join(
        f"<div><dt>{escape(term)}</dt><dd>{text}</dd></div>"
        for term, text in _facts(row, speeds).items()
    )
    note = f'<p class="access">{_with_code(access(row))}</p>' if access(row) else ""
    code = "".join(
        f"<h4>{escape(snippet.title)}</h4>{code_block(snippet.code.rstrip(), snippet.language)}"
        for snippet in snippets(row)
    )
    measured = benchmark_html(cards.benchmarks(row))
    benchmark = f"<h3>Benchmark</h3>{measured}" if measured else ""
    card = cards.card(row)
    shown = f'<h3>Model card</h3><div class="card">{card}</div>' if card else ""
    return f'<dl class="facts">{facts}</dl>{note}<h3>Code</h3>{code}{benchmark}{shown}'


def _facts(row: Row, speeds: Speeds | None) -> dict[str, str]:
    """HTML by term."""
    facts = {
        "Accuracy": _accuracies(row),
        "Parameters": f"{row.parameters / 1e6:.2f} M",
        "MACs": f"{row.macs_text} at {row.pixels} × {row.pixels}",
    }
    if speed := speeds.find(row) if speeds else None:
        facts["Speed"] = (
            f"{rounded(speed.images_per_second)} images/s "
            f"({rounded(speed.slowest)} to {rounded(speed.fastest)}) "
            f"at {row.pixels} × {row.pixels}"
        )
    facts |= {
        "Family, norm": f"{escape(row.family)}, {row.norm}",
        "WS formula": f"<code>{escape(row.formula)}</code>",
        "Feature maps": " · ".join(map(str, row.channels)) + " channels",
        "at strides": " · ".join(map(str, row.strides)),
    }
    return facts | _weights_facts(row)


def _weights_facts(row: Row) -> dict[str, str]:
    weights = row.weights
    if weights is None:
        return {}
    facts = {
        "Input": f"RGB, {row.pixels} × {row.pixels}, crop {weights.crop_pct}, "
        f"{escape(weights.interpolation)}",
        "Mean, std": f"{_numbers(weights.mean)}; {_numbers(weights.std)}",
        "Classes": str(weights.num_classes),
        "Licence": escape(weights.license),
        "File": f"{escape(row.location)}, {escape(weights.dtype)}",
    }
    if weights.sha256:
        facts["sha256"] = f"<code>{weights.sha256}</code>"
    if weights.recipe:
        facts["Recipe"] = f"<code>{escape(weights.recipe)}</code>"
    if weights.origin_url:
        facts["Trained by"] = link(weights.origin_url, escape(_without_scheme(weights.origin_url)))
    paper = weights.paper_ids.removeprefix("arXiv:")
    facts["Paper"] = link(f"https://arxiv.org/abs/{paper}", escape(weights.paper_ids))
    return facts


def _accuracies(row: Row) -> str:
    if row.weights is None:
        return NO_WEIGHTS
    figures = [
        " · ".join(f"{value:.2f} % {_spelt(metric)}" for metric, value in scores.items())
        + f" on {escape(data)}"
        for data, scores in row.accuracies.items()
    ]
    return "<br>".join(figures) or "none published, none measured"


def _spelt(metric: str) -> str:
    return escape(metric.replace("top", "top-"))


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(map(str, values))


def _without_scheme(url: str) -> str:
    return url.partition("://")[2]


def _with_code(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = text.split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )
