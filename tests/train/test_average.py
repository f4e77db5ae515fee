from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from train import average
from train.average import SHARES, State, choose, main, mean
from wszoo.cards import read_results, render_card
from wszoo.weights import find

SMALL = find("test_resnet_gn_ws")
CARDS = Path(__file__).parents[2] / "model_cards"


def near(target: float) -> average.Judge:
    """Rates a net by how near its one weight is to ``target``."""
    return lambda state: 100 - abs(float(state["w"]) - target)


def nets(**values: float) -> dict[str, State]:
    return {name: {"w": torch.tensor(value)} for name, value in values.items()}


def test_the_mean_weighs_each_net_by_its_share() -> None:
    assert mean(nets(a=1.0, b=3.0), {"a": 0.25, "b": 0.75})["w"] == 2.5


def test_the_share_that_does_best_is_taken_and_all_are_told() -> None:
    tried = choose(nets(a=0.0, b=10.0), near(3.2))

    assert tried[-1] == {"shares": {"a": 0.7, "b": 0.3}, "held_out_top1": 99.8}
    assert len(tried) == 1 + len(SHARES)


def test_a_third_net_is_mixed_into_the_best_of_the_first_two() -> None:
    tried = choose(nets(a=0.0, b=10.0, c=100.0), near(22.0))

    assert tried[-1]["shares"] == {"a": 0.4, "b": 0.4, "c": 0.2}
    assert tried[-1]["held_out_top1"] == 98.0


def test_a_net_that_helps_in_no_share_stays_out() -> None:
    assert choose(nets(a=0.0, b=10.0), near(-1.0))[-1]["shares"] == {"a": 1.0}


def test_weights_of_other_formulas_are_not_averaged(tmp_path: Path) -> None:
    other = replace(SMALL, formula="tf", tag="other")

    with pytest.raises(ValueError, match=r"has formula 'tf' and .* 'jhu'; average weights of one"):
        average.average([SMALL, other], "mean", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tag", "Mean", SMALL.name], "'Mean' is no tag; use small letters"),
        (["--tag", "mean_tin200", SMALL.name, SMALL.model], "name at least two different weights"),
        (["--tag", "mean_tin200", SMALL.name, "resnet18_gn_ws.e999"], "e999"),
        (
            ["--tag", "mean", SMALL.name, "resnet18_gn_ws"],
            "'mean' names no data; end it in _tin200",
        ),
    ],
)
def test_wrong_use_is_told_in_a_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    places = ["--data", str(tmp_path), "--cache", str(tmp_path)]

    result = CliRunner().invoke(main, [*arguments, *places])

    assert result.exit_code in (2, 3)
    assert message in result.output


def test_the_card_of_a_mean_says_of_what_and_how_its_shares_were_chosen() -> None:
    shares = {SMALL.name: 0.7, "test_resnet_gn_ws.other": 0.3}
    tried = [{"shares": {SMALL.name: 1.0}, "held_out_top1": 17.0}]
    tried.append({"shares": shares, "held_out_top1": 18.5})
    results = read_results(CARDS / SMALL.name)
    results["average"] = {"pixels": 64, "tried": tried, **tried[-1]}

    card = render_card(replace(SMALL, tag="mean_tin200"), results)

    assert f"python -m train.average {SMALL.name} test_resnet_gn_ws.other --tag mean_tin200" in card
    assert "| 0.7 e3_tin200 + 0.3 other | 18.50 |" in card
    assert "train.pretrain" not in card
