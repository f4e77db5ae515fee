"""Licences of weights: what the Hub calls them, and what goes on to hold of those begun with."""

from wszoo.cards.data_sets import data_set_of
from wszoo.cards.words import NOT_STATED, Words
from wszoo.weights import Weights

NONE_STATED = "none stated"  # in records of weights whose authors granted nothing

# https://huggingface.co/docs/hub/repositories-licenses, less "other" and "unknown"
_IDENTIFIERS = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by
odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
deepfloyd-if-license llama2 gemma
"""
_ON_HUB = frozenset(_IDENTIFIERS.split())
_FROM_SPDX = {
    "c-uda-1.0": "c-uda",
    "lgpllr": "lgpl-lr",
    "odbl-1.0": "odbl",
    "odc-by-1.0": "odc-by",
    "pddl-1.0": "pddl",
}


def on_hub(license: str) -> str | None:
    """The Hub's identifier of a licence, given by that or by its SPDX one; None where it has none.

    Example:
        >>> on_hub("CC0-1.0"), on_hub("GPL-3.0-only"), on_hub("imagenet-research")
        ('cc0-1.0', 'gpl-3.0', None)
    """
    key = license.strip().lower().removesuffix("-only").removesuffix("-or-later")
    key = _FROM_SPDX.get(key, key)
    return key if key in _ON_HUB else None


def licence_of(words: Words, base: Weights | None) -> str | None:
    """The licence of weights that a run made; None where nobody has stated one.

    Args:
        words: What a person says.
        base: The published weights that the run began with.

    Raises:
        ValueError: ``words`` state another licence than that of ``base``.
    """
    stated = None if words.license == NOT_STATED else words.license
    if base is None:
        return stated
    held = None if base.license == NONE_STATED else base.license
    if stated is not None and stated != held:
        terms = f"whose licence, {held}, goes on to hold" if held else "which have no licence"
        raise ValueError(
            f"{stated!r} cannot be the licence of weights that began with {base.name}, {terms}; "
            f"leave --license out"
        )
    return held


def told(words: Words, base: Weights | None) -> str:
    """The sentence of a card about the licence of weights that a run made."""
    licence = licence_of(words, base) or NOT_STATED
    if base is None:
        return f"Weights: {licence}."
    ask = ", and its authors stated none: ask them before you publish copies"
    held = f", whose licence, {base.license}, goes on to hold"
    return (
        f"Weights: {licence}. They began with {base.name}"
        f"{ask if base.license == NONE_STATED else held}."
    )


def link_of(base: Weights | None) -> str | None:
    """Where the licence that goes on to hold is written; None where nothing does."""
    if base is None or base.license == NONE_STATED:
        return None
    return data_set_of(base).terms_url
