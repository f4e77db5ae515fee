import json
from dataclasses import replace

import pytest

from tests.bench.results import MACHINE, RESULT, row
from wszoo.bench import GROUPS, Comparison


def test_a_comparison_survives_json() -> None:
    data = json.loads(json.dumps(RESULT.to_json()))

    assert Comparison.from_json(data) == RESULT
    assert data["rows"][1]["name"] == "step, batch 8, bf16"
    assert [each["met"] for each in data["rows"]] == [each.met for each in RESULT.rows]
    assert data["machine"]["commit"] == "abc123"


@pytest.mark.parametrize("data", [{}, {"rows": [{"name": "x"}]}, {"model": "resnet50_gn_ws"}])
def test_other_json_is_no_result(data: dict[str, object]) -> None:
    with pytest.raises(
        ValueError, match=r"no result of `wszoo bench`; `wszoo bench -o DIR` writes one"
    ):
        Comparison.from_json(data)


def test_it_prints_one_line_per_row_under_its_group_and_says_which_goals_are_met() -> None:
    rows = (
        row("training", "bad one", 1.0, goal=0.75),
        row("operator", "good", 0.5, goal=0.75, quartiles=(0.44, 0.56)),
        row("training", "free", 3.0),
    )
    result = replace(RESULT, rows=rows, warnings=("it was busy",))

    lines = str(result).splitlines()

    assert lines[0] == "resnet50_gn_ws: ours over theirs, below 1 is better; wall time"
    assert lines[1] == str(MACHINE)
    assert lines[2:4] == ["warning: it was busy", ""]
    assert lines[5] == GROUPS["operator"]
    words = [" ".join(line.split()) for line in lines]
    assert words[6] == "good StdConv2d 5.0 10.0 ms 0.50 0.44..0.56 0.75 met"
    assert lines[7] == GROUPS["training"]
    assert words[8] == "bad one StdConv2d 10.0 10.0 ms 1.00 0.75 missed"
    assert words[9] == "free StdConv2d 30.0 10.0 ms 3.00"
    assert not result.met
    assert replace(RESULT, rows=rows[1:]).met


def test_a_name_says_what_was_measured_and_on_what() -> None:
    plain = row("operator", "formula jhu", 0.5)

    assert plain.name == "formula jhu"
    assert replace(plain, layout="contiguous").name == "formula jhu, contiguous"
    assert replace(plain, batch=2, precision="bf16").name == "formula jhu, batch 2, bf16"
