from dataclasses import replace
from typing import Any

import pytest
import torch

from wszoo.bench import PEERS, steps
from wszoo.bench.nets import STOCK, STOCK_LABEL, make_net
from wszoo.bench.result import Row
from wszoo.bench.setting import Cell, Setting
from wszoo.bench.timing import WALL
from wszoo.layers import GroupNorm, WSConv2d

TINY = "test_resnet_gn_ws"
TWO_LAYOUTS = [(p, layout) for p in ("fp32", "bf16") for layout in ("contiguous", "channels_last")]


@pytest.fixture
def setting() -> Setting:
    device = torch.device("cpu")
    return Setting(
        variant=TINY, against=("timm", "bn"), device=device, clock=WALL, host_clock=WALL, rounds=1
    )


def run(cells: list[Cell]) -> list[Row]:
    return [row for cell in cells for row in cell()]


def test_steps_are_timed_in_every_kind(setting: Setting) -> None:
    rows = run(steps.cells(replace(setting, quick=True)))

    assert [(row.precision, row.layout) for row in rows[::2]] == TWO_LAYOUTS
    assert [row.peer for row in rows[:2]] == ["StdConv2d", "BatchNorm"]
    assert {row.batch for row in rows} == {2}
    assert len(steps.cells(setting)) == 8


def test_beside_all_peers_both_layouts_are_timed_beside_the_better_one_of_stock_norms(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wszoo.bench.setting.GOALS_FOR", TINY)
    cells = steps.cells(replace(setting, against=tuple(PEERS), quick=True))

    timed: list[int] = []

    def interleave(works: list[Any], *_: object) -> list[list[float]]:
        timed.append(len(works))
        return [[2.0], [3.0], [5.0], [4.0]]  # ours in both layouts, then stock

    monkeypatch.setattr(steps, "interleave", interleave)
    rows = cells[-1]()

    assert timed == [4]
    assert [row.ratio for row in rows] == [0.5, 0.75]
    assert [cell.about for cell in cells[-2:]] == [
        "batch 2, fp32, stock GroupNorm",
        "batch 2, bf16, stock GroupNorm",
    ]
    assert [(row.precision, row.layout, row.goal) for row in rows] == [
        ("bf16", "contiguous", 1.05),
        ("bf16", "channels_last", 1.05),
    ]
    assert {(row.peer, row.theirs) for row in rows} == {(STOCK_LABEL, 4000.0)}
    assert len(steps.cells(replace(setting, against=tuple(PEERS)))) == 12


def test_a_variant_without_our_norm_is_not_timed_beside_that_of_stock(setting: Setting) -> None:
    bcn = replace(setting, against=tuple(PEERS), variant="resnet50_bcn_ws")

    assert len(steps.cells(bcn)) == 8


def test_stock_norms_are_those_of_pytorch_behind_our_convolutions() -> None:
    layers = [*make_net(STOCK, TINY).modules()]

    assert any(isinstance(layer, WSConv2d) for layer in layers)
    assert any(isinstance(layer, torch.nn.GroupNorm) for layer in layers)
    assert not any(isinstance(layer, GroupNorm) for layer in layers)


@pytest.mark.parametrize(("batch", "peer"), [(2, "BatchNorm"), (2, STOCK_LABEL)])
def test_a_step_is_profiled_on_both_sides(setting: Setting, batch: int, peer: str) -> None:
    row = Row(
        group="training", what="step", peer=peer, unit="ms", ours=2.0, theirs=1.0, ratio=2.0,
        goal=1.1, batch=batch, precision="bf16", layout="channels_last",
    )  # fmt: skip

    profile = steps.profile(setting, row)

    assert (profile.name, profile.peer, profile.goal) == (row.name, peer, 1.1)
    assert profile.ours["WS"] > 0
    assert (profile.theirs["WS"] > 0) == (peer == STOCK_LABEL)


@pytest.mark.parametrize(
    ("case", "goal"),
    [
        (("timm", 8, "bf16", "channels_last"), 1.00),
        (("timm", 2, "fp32", "contiguous"), 0.95),
        (("bn", 8, "fp32", "contiguous"), 1.02),
        (("bn", 8, "bf16", "contiguous"), 1.02),
        (("bn", 8, "bf16", "channels_last"), 1.10),
        (("bn", 8, "fp32", "channels_last"), None),
        (("bn", 2, "fp32", "contiguous"), None),
        (("paper", 8, "fp32", "contiguous"), None),
    ],
)
def test_the_goals_of_steps(case: tuple[str, int, str, str], goal: float | None) -> None:
    assert steps.goal_of(*case) == goal
