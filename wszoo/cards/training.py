"""The section of a card that says how a net was pretrained."""

from typing import Any

from wszoo.cards.text import facts, paragraph, pictures, table
from wszoo.cards.words import NOT_RECORDED
from wszoo.training.report import duration

CURVES, COST = "curves.png", "cost.png"


def training_section(results: dict[str, Any], classes: int, commands: str) -> str:
    """Pictures, commands, recipe, hardware, hours and epochs of a run of ``train.pretrain``.

    Args:
        results: Of a ``results.json``; ``evaluation`` and what else only published weights
            have may lack.
        classes: Of the net.
        commands: That make it, with fields named as the keys of ``results``.
    """
    recipe, epochs = results["recipe"], results["epochs"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    rows = [
        (
            str(row["epoch"]),
            str(row["pixels"]),
            f"{row['loss']:.3f}",
            f"{row['held_out_top1']:.2f}",
            f"{row['seconds'] / 60:.0f}",
        )
        for row in epochs
    ]
    shown = {CURVES: "loss and held-out accuracy by epoch", COST: "held-out accuracy by hours"}
    parts = (
        "## Training",
        pictures(shown, results.get("pictures", ())),
        f"```\n{commands.format(**results)}\n```",
        _average(results),
        paragraph(_chosen_on(recipe, classes), _lineage(results), str(results.get("remark", ""))),
        f"One process on {_where(results)}, {duration(epochs[-1]['seconds'])} of wall time; "
        f"energy was not measured.\nCode {results['code']}; {versions}.",
        facts({f"`{key}`": value for key, value in recipe.items()}),
        "`wszoo/training/recipe.py` says what each of these means; `results.json` has them too.",
        f"After each epoch, at {recipe['test_size']} pixels:",
        table(("epoch", "pixels", "loss", "held-out top-1 (%)", "minutes so far"), rows),
        _by_pixels(results.get("held_out_by_pixels", {})),
    )
    return "\n\n".join(filter(None, parts))


def _where(results: dict[str, Any]) -> str:
    hardware = str(results["hardware"])
    return "hardware that was not recorded" if hardware == NOT_RECORDED else hardware


def _average(results: dict[str, Any]) -> str:
    """What the weights are a mean of, and what else was tried."""
    if "average" not in results:
        return ""
    found = results["average"]
    parts = ", ".join(f"{share:g} of `{name}`" for name, share in found["shares"].items())
    tried = [
        (
            " + ".join(f"{share:g} {name.split('.')[1]}" for name, share in each["shares"].items()),
            f"{each['held_out_top1']:.2f}",
        )
        for each in found["tried"]
    ]
    text = paragraph(
        f"These weights are a mean: {parts}. Nothing was trained for it; the shares are those that "
        f"did best on the photos held out, at {found['pixels']} pixels. What follows tells of the "
        f"run that ended in `{next(iter(found['shares']))}`."
    )
    return f"{text}\n\n{table(('mixture', 'held-out top-1 (%)'), tried)}"


def _chosen_on(recipe: dict[str, Any], classes: int) -> str:
    count = recipe.get("held_out_per_class", 0) * classes
    return (
        f"Recipe and stopping were chosen on {f'{count:,} ' if count else ''}photos held out of "
        f"the training set."
    )


def _lineage(results: dict[str, Any]) -> str:
    tag, before = results["recipe"].get("start_tag"), results.get("before", [])
    if tag is None:
        return ""
    told = f"The run began with the weights tagged `{tag}`."
    if not before:
        return told
    epochs = sum(run["epochs"] for run in before) + len(results["epochs"])
    seconds = sum(run["seconds"] for run in before) + results["epochs"][-1]["seconds"]
    tags = ", ".join(f"`{run['tag']}`" for run in before)
    return f"{told} With all that it goes back to ({tags}): {epochs} epochs, {duration(seconds)}."


def _by_pixels(top1: dict[str, float]) -> str:
    if not top1:
        return ""
    sizes = ", ".join(f"{value} % at {pixels}" for pixels, value in top1.items())
    return paragraph(f"Held-out top-1 of the final weights by evaluation size: {sizes} pixels.")
