import re

import pytest

from tests.bench.results import row
from wszoo.bench.missed import Profile, missed_lines, missed_page

STEP = row("training", "step", 1.18, goal=1.10, peer="BatchNorm", batch=8, precision="bf16")
OPERATOR = row("operator", "formula bcn", 0.57, goal=0.45, layout="contiguous")
MISSED = "1.180 where 1.10 was to be reached"


def of_step(convolution: float, norm: float) -> Profile:
    theirs = {"convolution": 70.0, "norm": 20.0, "WS": 0.0, "rest": 10.0}
    return Profile.of(STEP, theirs | {"convolution": convolution, "norm": norm, "WS": 5.0}, theirs)


def of_operator(kernels: float) -> Profile:
    ours = {"kernels": kernels, "allocation": 0.5, "calls": 1.5}
    return Profile.of(OPERATOR, ours, {"kernels": 33.0, "allocation": 1.0, "calls": 1.0}, 17.5)


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (
            of_step(70.0, 33.0),
            f"{MISSED}, 1.180 in the profile: without their norm and WS, theirs would take 0.80 of "
            "their time; what weighs most beside theirs is norm, +13.0 ms",
        ),
        (
            of_step(70.0, 25.0),
            f"{MISSED}; in the profile it was 1.100, which meets the goal and explains nothing: as "
            "far as this machine repeats itself, it may be either",
        ),
        (
            of_operator(18.0),
            "0.570 where 0.45 was to be reached, 0.571 in the profile: one product forward and one "
            "sum backward over the same kernels, called as here, take 17.5 ms, 0.50 of theirs; "
            "what weighs most beside theirs is calls, +0.5 ms",
        ),
    ],
)
def test_what_stands_against_a_goal_is_told(profile: Profile, why: str) -> None:
    assert profile.why == why


def test_a_part_that_takes_no_longer_is_not_blamed() -> None:
    theirs = {"kernels": 33.0, "allocation": 1.0, "calls": 1.0}
    found = Profile.of(OPERATOR, theirs | {"kernels": 33.1}, theirs, 17.5)

    assert found.why.endswith("take 17.5 ms, 0.50 of theirs")


def test_the_page_has_a_table_per_kind_of_parts_and_a_sentence_per_row() -> None:
    page = missed_page([of_operator(18.0), of_step(70.0, 33.0)], "bench.json").splitlines()

    assert page[0] == "# Missed, by how much and why"
    assert "[the results](bench.json)" in page[2]
    assert page[4] == "| row | against | kernels | allocation | calls | together |"
    assert page[6].startswith("| formula bcn, contiguous | StdConv2d | 18.0 / 33.0 | 0.5 / 1.0 |")
    assert page[6].endswith("| 20.0 / 35.0 |")
    assert page[8] == "| row | against | convolution | norm | WS | rest | together |"
    assert "| step, batch 8, bf16 | BatchNorm | 70.0 / 70.0 | 33.0 / 20.0 |" in page[10]
    assert [line.partition(":")[0] for line in page[12:]] == [
        "- formula bcn, contiguous, against StdConv2d",
        "- step, batch 8, bf16, against BatchNorm",
    ]
    columns = {len(re.findall(r"\|", line)) for line in page[4:7]}
    assert columns == {7}


def test_a_terminal_gets_the_same_and_nothing_where_nothing_was_missed() -> None:
    assert missed_lines([]) == []
    lines = missed_lines([of_step(70.0, 33.0)])
    assert lines[1] == "Missed, by how much and why"
    assert "    convolution 70.0 / 70.0, norm 33.0 / 20.0, WS 5.0 / 0.0, rest 10.0 / 10.0" in lines
