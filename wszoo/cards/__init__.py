"""Model cards: rendered from records, results and what a run has left; nothing typed by hand."""

from wszoo.cards.published import render_card
from wszoo.cards.results import read_results

__all__ = ["read_results", "render_card"]
