"""Publish a mean of published weights: ``python -m train.average NAME NAME... --tag TAG``.

Nets that went on from one another lie in one basin, and between them there are better ones:
Wortsman et al., "Model soups", https://arxiv.org/abs/2203.05482. The first net is mixed with the
others, one after another, each in the share that gets most of the photos held out right; a net that
helps in no share stays out.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import timm
from torch import Tensor

from train.publish import CARDS, publish_trained, top1
from train.recipes import RECIPES
from wszoo.cards import read_results
from wszoo.cards.pretrained import PretrainedRun
from wszoo.datasets import store_images
from wszoo.terminal import OneLineErrors
from wszoo.training.declaration import code_version
from wszoo.training.sources import held_out_split
from wszoo.weights import Weights, find

State = dict[str, Tensor]
Judge = Callable[[State], float]

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of each further net


def mean(states: dict[str, State], shares: dict[str, float]) -> State:
    """The weighted mean of nets of one architecture."""
    keys = next(iter(states.values()))
    return {key: sum(shares[n] * states[n][key] for n in shares) for key in keys}  # type: ignore[misc]


def choose(states: dict[str, State], judge: Judge) -> list[dict[str, Any]]:
    """All mixtures that were tried, the best one last.

    Args:
        states: The nets by name; those after the first are added in this order.
        judge: Says how good a mixture is.
    """
    first, *others = states
    shares = {first: 1.0}
    tried = [_judged(states, shares, judge)]
    for other in others:
        before = max(tried, key=_score)
        for share in SHARES:
            rest = {name: round(part * (1 - share), 4) for name, part in before["shares"].items()}
            tried.append(_judged(states, {**rest, other: share}, judge))
    return sorted(tried, key=_score)


def _score(mixture: dict[str, Any]) -> float:
    return float(mixture["held_out_top1"])


def _judged(states: dict[str, State], shares: dict[str, float], judge: Judge) -> dict[str, Any]:
    score = round(judge(mean(states, shares)), 2)
    told = " + ".join(f"{share:g} {name}" for name, share in shares.items())
    click.echo(f"{score:.2f} % held out: {told}")
    return {"shares": shares, "held_out_top1": score}


def on_held_out(weights: Weights, data: Path, cache: Path) -> Judge:
    """Top-1 at the size of ``weights``, on the photos that their recipe keeps to choose by."""
    recipe = RECIPES[read_results(CARDS / weights.name)["recipe_name"]]
    assert recipe.stored_pixels is not None
    stored = store_images(data, "train", recipe.stored_pixels, cache)
    _, held = held_out_split(stored.targets.tolist(), recipe.held_out_per_class)
    model = timm.create_model(weights.model, num_classes=weights.num_classes).eval()

    def judge(state: State) -> float:
        model.load_state_dict(state)
        return top1(model, stored, held, weights.input_size[-1])

    return judge


def average(records: list[Weights], tag: str, data: Path, cache: Path) -> PretrainedRun:
    """The best mixture, as a run that ended with it.

    Raises:
        ValueError: The weights do not go together.
    """
    first = records[0]
    for other in records[1:]:
        for key in ("model", "formula", "num_classes"):
            if getattr(other, key) != getattr(first, key):
                raise ValueError(
                    f"{other.name} has {key} {getattr(other, key)!r} and {first.name} "
                    f"{getattr(first, key)!r}; average weights of one net and one set of classes"
                )
    states = {
        each.name: timm.create_model(each.name, pretrained=True).state_dict() for each in records
    }
    tried = choose(states, on_held_out(first, data, cache))
    last = read_results(CARDS / first.name)
    facts = {
        "model": first.model,
        "tag": tag,
        "recipe": last["recipe_name"],
        "settings": last["recipe"],
        "hardware": last["hardware"],
        "code": code_version(),
        "average": {"pixels": first.input_size[-1], "tried": tried, **tried[-1]},
    }
    best = mean(states, tried[-1]["shares"])
    return PretrainedRun(facts=facts, epochs=last["epochs"], state_dict=best)


def _tag(_context: click.Context, _parameter: click.Parameter, tag: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", tag):
        raise click.BadParameter(f"{tag!r} is no tag; use small letters, digits and underscores")
    return tag


@click.command(cls=OneLineErrors)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--tag", required=True, callback=_tag, help="What to call the mean.")
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="Decoded photos.")
def main(names: tuple[str, ...], tag: str, data: Path, cache: Path) -> None:
    """Mix the weights NAMES of one net, the best first, and publish what does best."""
    records = list({record.name: record for record in map(find, names)}.values())
    if len(records) < 2:
        raise click.UsageError("name at least two different weights to average")
    if tag.rpartition("_")[2] != (learned := records[0].tag.rpartition("_")[2]):
        raise click.BadParameter(f"{tag!r} names no data; end it in _{learned}", param_hint="--tag")
    trained = average(records, tag, data, cache)
    if len(trained.facts["average"]["shares"]) < 2:
        raise ValueError(f"no mean is better than {records[0].name} alone; nothing was published")
    weights, folder = publish_trained(trained, data, cache)
    click.echo(f"{folder}; the record:\n{weights}")


if __name__ == "__main__":
    main()
