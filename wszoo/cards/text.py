"""Markdown and front matter that cards are made of."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from wszoo.cards.licences import on_hub

WS = "[Weight Standardization](https://arxiv.org/abs/1903.10520)"
GN = "[GroupNorm](https://arxiv.org/abs/1803.08494)"
BCN = "[Batch-Channel Normalization](https://arxiv.org/abs/1903.10520)"
NOT_MEASURED = "not measured"
CITATION = (
    'Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight '
    'Standardization", arXiv:1903.10520. Wu and He, "Group Normalization", arXiv:1803.08494.'
)
_CITATION_BCN = (
    'Qiao et al., "Rethinking Normalization and Elimination Singularity in Neural Networks", '
    "arXiv:1911.09738."
)


def paragraph(*sentences: str) -> str:
    """Sentences in lines of at most 100 characters; empty ones are left out."""
    return textwrap.fill(
        " ".join(filter(None, sentences)), 100, break_long_words=False, break_on_hyphens=False
    )


_WHY = paragraph(
    f"{WS} subtracts from each filter of a convolution its mean and divides it by its standard "
    f"deviation before it is used; {GN} takes mean and deviation over groups of channels of one "
    f"image. So no layer looks at other images of the batch: it trains with one image at a time as "
    f"it does with 256, where BatchNorm breaks down."
)
_WHY_BCN = paragraph(
    f"{WS} subtracts from each filter of a convolution its mean and divides it by its standard "
    f"deviation before it is used; {BCN} normalizes by statistics of the batch (or, for one to "
    f"four images, by running estimates of them), then over groups of channels of one image."
)


def why(norm: str) -> str:
    """What the layers of a net are for; ``norm`` as ``wszoo.describe.norm_name`` says it."""
    return _WHY_BCN if norm == "BCN" else _WHY


def layer_tags(norm: str) -> tuple[str, str]:
    """The layers of a net, as tags of the Hub."""
    is_bcn = norm == "BCN"
    name = "batch-channel-normalization" if is_bcn else "group-normalization"
    return "weight-standardization", name


def citations(norm: str, *more: str) -> str:
    """The section of a card that names the papers: of the layers, and ``more``."""
    text = paragraph(_CITATION_BCN if norm == "BCN" else "", CITATION, *more)
    return f"## Citation\n\n{text}"


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
    license: str | None,
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
        license: Of the weights, by its identifier or in a few words; None where none is stated.
        license_url: Where it is written, if the Hub does not know it.
        results: Measured figures.
        task: Pipeline of the Hub.
        library: Which loads them.
        tags: Beside those that every card has.
        metrics: The Hub's names.
        more: Further keys, such as ``datasets``; None is left out.
    """
    known = on_hub(license) if license else None
    is_other = license is not None and known is None
    data = ModelCardData(
        library_name=library,
        pipeline_tag=task,
        license="other" if is_other else known,
        license_name=slug(license) if license and is_other else None,
        license_link=license_url if is_other else None,
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
