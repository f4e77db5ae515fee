"""What a net began with is told by its run, its files and its card, through all runs before it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.photo_sets import write_masks
from wszoo.cards.run import write_run_card
from wszoo.cards.words import Words
from wszoo.finetune.data import DataSource
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build
from wszoo.finetune.origin import RANDOM, chain_of, origin_of, origin_text
from wszoo.finetune.outputs import read_config, read_facts, save_output
from wszoo.finetune.run import Conditions, fine_tune
from wszoo.finetune.settings import FineTuning

SMALL = "test_resnet_gn_ws.e3_tin200"
SAID = Words(name="mine", license="mit", data_license="CC0-1.0")


def settings(pretrained: bool = True) -> FineTuning:
    chosen = settings_for(
        "segment",
        model=SMALL,
        head="semantic_fpn",
        pretrained=pretrained,
        epochs=1,
        batch_size=2,
        image_size=64,
    )
    return replace(chosen, max_size=96, scale=(0.8, 1.0))


def save(run: Path, chosen: FineTuning, start: Path | None = None) -> Path:
    """What a run leaves, without its learning."""
    names = ("ground", "red")
    save_output(
        run,
        build(chosen, 2),
        chosen,
        classes=names,
        class_ids=names,
        epoch=1,
        metrics={"miou": 50.0},
        origin=origin_of(chosen, start),
    )
    return run


def card_of(run: Path, words: Words = SAID) -> str:
    return (write_run_card(run, words=words).folder / "README.md").read_text(encoding="utf-8")


def test_a_run_that_goes_on_from_random_weights_began_with_random_weights(tmp_path: Path) -> None:
    first = save(tmp_path / "first", settings(pretrained=False))
    second = save(tmp_path / "second", settings(), first)
    third = save(tmp_path / "third", settings(), second)

    chain = chain_of(read_facts(third))
    card = card_of(third)

    assert chain == (RANDOM, read_facts(first).sha256, read_facts(second).sha256)
    digests = f"`{chain[1]}`, `{chain[2]}`"
    assert f"| random weights, through runs whose weights have the sha256 {digests} |" in card
    assert "license: mit" in card and SMALL not in card.partition("## Training")[0]
    results = json.loads((third / "model" / "results.json").read_text())
    assert results["origin"] == [*chain]


def test_a_run_that_goes_on_from_published_weights_keeps_their_licence(tmp_path: Path) -> None:
    first = save(tmp_path / "first", settings())
    second = save(tmp_path / "second", settings(), first)

    assert chain_of(read_facts(second)) == (SMALL, read_facts(first).sha256)
    with pytest.raises(ValueError, match=f"'mit' cannot be .* {SMALL}, whose licence, imagenet-re"):
        card_of(second)
    card = card_of(second, replace(SAID, license="not stated"))
    assert f"`{SMALL}` (imagenet-research), through runs whose weights have the sha256" in card


def test_a_net_that_was_kept_before_origins_were_began_as_its_settings_say(tmp_path: Path) -> None:
    old = save(tmp_path / "old", settings(pretrained=False))
    path = old / "model" / "config.json"
    ours = read_config(old / "model")
    del ours["origin"]
    path.write_text(json.dumps({"wszoo": ours}))

    assert read_facts(old).origin == ()
    assert chain_of(read_facts(old)) == (RANDOM,)
    assert chain_of(read_facts(save(tmp_path / "new", settings(), old)))[0] == RANDOM


def test_an_origin_is_told_in_words() -> None:
    assert origin_text((SMALL,)) == SMALL
    assert origin_text((RANDOM, "a", "b")) == "random weights, through 2 earlier runs"


@pytest.mark.slow
def test_the_plan_and_the_files_of_a_run_say_what_it_began_with(tmp_path: Path) -> None:
    source = DataSource(task="segment", path=write_masks(tmp_path / "data"))
    quick = Conditions(workers=0)

    fine_tune(settings(pretrained=False), source, tmp_path / "first", conditions=quick)
    first = tmp_path / "first"
    fine_tune(settings(), source, tmp_path / "next", start=first, conditions=quick)

    plans = [json.loads((tmp_path / run / "plan.json").read_text()) for run in ("first", "next")]
    assert plans[0]["from"] == "random weights"
    assert ", which began with random weights; classes: " in plans[1]["from"]
    assert read_facts(tmp_path / "next").origin == (RANDOM, read_facts(first).sha256)
