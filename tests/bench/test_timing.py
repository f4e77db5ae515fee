import time
from collections.abc import Callable

import pytest
import torch

from wszoo.bench import interleave, to_row
from wszoo.bench.timing import CUDA, PROCESSOR, WALL, torch_threads


def test_the_ratio_is_the_median_of_paired_ratios_and_not_the_ratio_of_medians() -> None:
    facts = {"group": "training", "what": "pairs", "peer": "theirs"}
    row = to_row(ours=[1.0, 10.0, 2.0], theirs=[2.0, 40.0, 2.0], goal=0.5, **facts)

    assert row.ratio == 0.5
    assert row.quartiles == (0.375, 0.75)
    assert (row.ours, row.theirs, row.unit) == (2000.0, 2000.0, "ms")
    assert (row.name, row.rounds, row.met) == ("pairs", 3, True)


def test_one_round_gives_a_ratio_without_spread() -> None:
    row = to_row([1.0], [4.0], group="training", what="one", peer="theirs")

    assert (row.ratio, row.quartiles, row.rounds) == (0.25, (0.25, 0.25), 1)


def test_contenders_run_in_turn_and_the_order_is_reversed_every_other_round() -> None:
    order: list[str] = []

    def contender(name: str) -> Callable[[], object]:
        return lambda: order.append(name)

    seconds = interleave([contender("a"), contender("b"), contender("c")], rounds=3)

    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert [len(taken) for taken in seconds] == [3, 3, 3]


def test_who_waits_takes_time_on_the_wall_and_none_of_the_processor() -> None:
    def wait() -> None:
        time.sleep(0.05)

    ((on_the_wall,),) = interleave([wait], 1, WALL)
    ((of_the_processor,),) = interleave([wait], 1, PROCESSOR)

    assert on_the_wall > 0.05
    assert of_the_processor < 0.04


@pytest.mark.gpu
def test_the_clock_of_the_gpu_waits_for_what_was_started_there() -> None:
    square = torch.randn(4096, 4096, device="cuda")

    ((once,), (often,)) = interleave(
        [lambda: square @ square, lambda: [square @ square for _ in range(8)]], 1, CUDA
    )

    assert often > 4 * once


def test_the_number_of_threads_is_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2

    seen: list[int] = []

    def fail() -> None:
        with torch_threads(other):
            seen.append(torch.get_num_threads())
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()

    assert seen == [other]
    assert torch.get_num_threads() == before
