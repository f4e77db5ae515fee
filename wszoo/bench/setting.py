"""How a run of the bench is to be."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from wszoo.bench.result import Row
from wszoo.bench.timing import Clock

GOALS_FOR = "resnet50_gn_ws"
_QUICK_ROUNDS = 3


class Cell(NamedTuple):
    """One part of a run.

    Attributes:
        about: What it measures, for those who wait.
        work: Measures it.
    """

    about: str
    work: Callable[[], list[Row]]

    def __call__(self) -> list[Row]:
        return self.work()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run measures, and how.

    Attributes:
        variant: Of ours.
        against: Keys of ``PEERS``.
        device: Where the nets are.
        clock: Of what happens there.
        host_clock: Of what happens on the CPU in any case.
        rounds: How often each side has its turn; None: as each group does by default.
        quick: Leave out the larger half, and take few rounds.
        data: Class folders for the loader; None: the packaged photos.
        warnings: Gathers what stands against the figures.
    """

    variant: str
    against: tuple[str, ...]
    device: torch.device
    clock: Clock
    host_clock: Clock
    rounds: int | None = None
    quick: bool = False
    data: Path | None = None
    warnings: list[str] = field(default_factory=list)

    def rounds_of(self, by_default: int) -> int:
        """How many rounds to take."""
        return self.rounds or (_QUICK_ROUNDS if self.quick else by_default)

    def goal(self, value: float | None) -> float | None:
        """``value`` where goals are set: for ResNet-50 on a CPU."""
        holds = self.variant == GOALS_FOR and self.device.type == "cpu"
        return value if holds else None
