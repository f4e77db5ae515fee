"""Cards of weights that others have trained: what is known of them, and by whose word."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from wszoo.cards import render_card
from wszoo.weights import WEIGHTS, Weights, find

CARDS = Path(__file__).parents[1] / "model_cards"
FOREIGN = [weights for weights in WEIGHTS if weights.origin is not None]
every_foreign = pytest.mark.parametrize(
    "weights",
    [
        pytest.param(w, id=w.name, marks=[] if w.model == "resnet50_gn_ws" else [pytest.mark.slow])
        for w in FOREIGN
    ],
)


def front_matter(card: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(card.split("---\n", 2)[1])
    return content


def words(card: str) -> str:
    return " ".join(card.split())


@every_foreign
def test_the_card_of_converted_weights_says_by_whose_word(weights: Weights) -> None:
    card = render_card(weights, {})
    text = words(card)

    assert "**Not checked against the original**" in text
    assert f"`{weights.origin.file_name}`" in text  # type: ignore[union-attr]
    assert all(f"| {file.url} |" in card for file in weights.origin.files)  # type: ignore[union-attr]
    for scores in weights.metrics.values():
        for value in scores.values():
            assert f"| {value:.2f} % | published by the authors, not measured here" in card
    assert not {"model-index", "license", "license_name"} & front_matter(card).keys()
    tags = front_matter(card)["tags"]
    assert ("batch-channel-normalization" in tags) == ("bcn" in weights.name)
    assert ("group-normalization" in tags) == ("bcn" not in weights.name)
    assert "Their authors stated none for them: ask before you publish copies." in text
    assert ("Batch-Channel Normalization](" in text) == ("bcn" in weights.name)
    if not weights.metrics:
        assert "| accuracy | none published | not measured |" in card


def test_converted_weights_that_were_confirmed_say_so() -> None:
    weights = find("resnet50_gn_ws.jhu_in1k")
    assert weights.origin is not None
    confirmed = replace(
        weights, sha256="ab" * 32, origin=replace(weights.origin, checked_against_original=True)
    )

    card = render_card(confirmed, {"file_bytes": 102_000_000})

    assert "The conversion was confirmed on the original file." in words(card)
    assert "Not checked" not in card
    assert f"| sha256 | `{'ab' * 32}` |" in card
    assert "| file | 102,000,000 bytes, F32 |" in card


def test_converted_weights_have_no_committed_card_but_the_page_of_their_authors() -> None:
    assert FOREIGN
    for weights in FOREIGN:
        assert not (CARDS / weights.name).exists()
        assert weights.origin_url and weights.origin_url.startswith("https://")
        assert weights.recipe is None
