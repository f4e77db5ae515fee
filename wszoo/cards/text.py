"""Markdown and front matter that cards are made of."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

WS = "[Weight Standardization](https://arxiv.org/abs/1903.10520)"
GN = "[GroupNorm](https://arxiv.org/abs/1803.08494)"
BCN = "[Batch-Channel Normalization](https://arxiv.org/abs/1903.10520)"
NOT_MEASURED = "not measured"
CITATION = (
    'Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight '
    'Standardization", arXiv:1903.10520. Wu and He, "Group Normalization", arXiv:1803.08494.'
)


def paragraph(*sentences: str) -> str:
    """Sentences in lines of at most 100 characters; empty ones are left out."""
    return textwrap.fill(
        " ".join(filter(None, sentences)), 100, break_long_words=False, break_on_hyphens=False
    )


WHY = paragraph(
    f"{WS} subtracts from each filter of a convolution its mean and divides it by its standard "
    f"deviation before it is used; {GN} takes mean and deviation over groups of channels of one "
    f"image. So no layer looks at other images of the batch: it trains with one image at a time as "
    f"it does with 256, where BatchNorm breaks down."
)
WHY_BCN = paragraph(
    f"{WS} subtracts from each filter of a convolution its mean and divides it by its standard "
    f"deviation before it is used; {BCN} normalizes by statistics of the batch (or, for one to "
    f"four images, by running estimates of them), then over groups of channels of one image."
)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def facts(rows: Mapping[str, Any]) -> str:
    """A table of two columns without heads; what is None is left out."""
    shown = ((key, str(value)) for key, value in rows.items() if value is not None)
    return table(("", ""), shown)


def pictures(shown: Mapping[str, str], present: Sequence[str]) -> str:
    """Those pictures of ``shown``, file name to what it shows, that are ``present``."""
    return "\n\n".join(f"![{what}]({name})" for name, what in shown.items() if name in present)


def slug(text: str) -> str:
    """A name such as the Hub takes for licences."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def front_matter(
    name: str,
    *,
    license: str,
    license_url: str | None,
    results: Sequence[EvalResult],
    task: str = "image-classification",
    library: str = "timm",
    tags: Sequence[str] = (),
    metrics: Sequence[str] = (),
    **more: Any,
) -> str:
    """The YAML between the lines ``---``, as the Hub reads it.

    Args:
        name: Of the weights; the name in ``model-index``, which is there where there are results.
        license: Of the weights, in the words of its record; never one that the Hub knows by name.
        license_url: Where it is written.
        results: Measured figures.
        task: Pipeline of the Hub.
        library: Which loads them.
        tags: Beside those that every card has.
        metrics: The Hub's names.
        more: Further keys, such as ``datasets``; None is left out.
    """
    data = ModelCardData(
        library_name=library,
        pipeline_tag=task,
        license="other",
        license_name=slug(license),
        license_link=license_url,
        tags=[library, task, *tags],
        metrics=list(metrics) or None,
        model_name=name if results else None,
        eval_results=list(results) or None,
        **more,
    )
    return f"---\n{data.to_yaml().strip()}\n---\n"


def join(sections: Iterable[str]) -> str:
    """Sections under one another; empty ones are left out."""
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n"
