"""What a fine-tuned net began with, through all runs that led to it."""

from pathlib import Path

from wszoo.finetune.outputs import Facts, read_facts
from wszoo.finetune.settings import FineTuning

RANDOM = "random weights"


def origin_of(settings: FineTuning, start: Path | None) -> tuple[str, ...]:
    """What a run begins with, as ``Facts.origin``.

    Args:
        settings: Of the run.
        start: Folder of the run that it goes on from, if there is one.

    Raises:
        FileNotFoundError: There is no finished run in ``start``.
        ValueError: Its configuration is damaged.
    """
    if start is None:
        return (_root(settings),)
    before = read_facts(start)
    return *chain_of(before), before.sha256


def chain_of(facts: Facts) -> tuple[str, ...]:
    """The origin of a net; of one that was kept before origins were, what its settings say."""
    return facts.origin or (_root(facts.settings),)


def origin_text(origin: tuple[str, ...]) -> str:
    """An origin for people.

    >>> origin_text(("random weights", "ab12"))
    'random weights, through 1 earlier run'
    """
    first, *runs = origin
    if not runs:
        return first
    return f"{first}, through {len(runs)} earlier run{'s' * (len(runs) > 1)}"


def _root(settings: FineTuning) -> str:
    return settings.model if settings.pretrained else RANDOM
