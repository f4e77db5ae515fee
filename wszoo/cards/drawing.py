"""Pictures of a card that are drawn from its ``results.json``."""

from pathlib import Path
from typing import Any

from wszoo.cards.training import COST, CURVES
from wszoo.cards.words import NOT_RECORDED
from wszoo.visualize import draw_curves


def draw_training(results: dict[str, Any], name: str, folder: Path) -> None:
    """Draw the epochs of a pretraining run: by number, and by hours.

    Args:
        results: With ``epochs``, and ``before`` for a run that went on from another.
        name: Of the weights.
        folder: Of the card.
    """
    epochs = results["epochs"]
    draw_curves(
        {
            "held-out top-1": [(row["epoch"], row["held_out_top1"]) for row in epochs],
            "loss x 10": [(row["epoch"], 10 * row["loss"]) for row in epochs],
        },
        folder / CURVES,
        x_label="epoch",
        y_label="top-1 (%), loss x 10",
        title=name,
    )
    draw_cost(results, name, folder)


def draw_cost(results: dict[str, Any], name: str, folder: Path) -> None:
    """Draw accuracy over what it has cost, from the first of the runs that lead here."""
    own = [(row["seconds"], row["held_out_top1"]) for row in results["epochs"]]
    before = [(run["tag"], run["points"]) for run in reversed(results.get("before", []))]
    is_known = not before and results["hardware"] != NOT_RECORDED
    spent, series = 0.0, {}
    for tag, points in (*before, (results["recipe_name"], own)):
        series[tag] = [((spent + seconds) / 3600, top1) for seconds, top1 in points]
        spent += points[-1][0]
    draw_curves(
        series,
        folder / COST,
        x_label=f"hours on {results['hardware']}" if is_known else "hours of wall time",
        y_label="held-out top-1 (%)",
        title=f"{name}: accuracy over cost",
    )
