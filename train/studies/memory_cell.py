"""Steps of one net at one level of memory: what they take, and how long.

``python -m train.studies.memory_cell MODEL LEVEL PRECISION BATCH PIXELS`` prints the peak of a
fresh process, since what a process has taken once it seldom gives back.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from wszoo.memory import Memory, held_bytes, save_memory
from wszoo.training.engine import DTYPES, Precision

STEPS = 2
_MIB = 2**20


class Cell(NamedTuple):
    """One net, its level, and what it is given.

    Attributes:
        model: As timm knows it.
        level: Of its blocks.
        precision: Of activations.
        batch: Images per step.
        pixels: Side of an image.
    """

    model: str
    level: Memory
    precision: Precision
    batch: int
    pixels: int


class Steps:
    """A net at work: ``step`` is one of SGD with momentum on random images."""

    def __init__(self, cell: Cell) -> None:
        torch.manual_seed(0)
        net: nn.Module = timm.create_model(cell.model, pretrained=False)
        self.net = save_memory(net, cell.level).train()
        self._dtype = DTYPES[cell.precision]
        self._images = torch.randn(cell.batch, 3, cell.pixels, cell.pixels)
        self._optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, momentum=0.9)

    def loss(self) -> Tensor:
        with torch.autocast("cpu", self._dtype, enabled=self._dtype is not torch.float32):
            logits: Tensor = self.net(self._images)
        return logits.float().logsumexp(1).mean()

    def step(self) -> None:
        self.loss().backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)

    def hold_state(self) -> None:
        """Gradients and momentum, as they are from the second step on."""
        for parameter in self.net.parameters():
            parameter.grad = torch.full_like(parameter, 1e-12)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)


def cpu_seconds(step: Callable[[], None]) -> float:
    """CPU time of one step, which other work on the machine lengthens little."""
    started = time.process_time()
    step()
    return time.process_time() - started


def peak_beside_state(cell: Cell) -> dict[str, float]:
    """MiB that steps take at most beside weights, gradients and momentum, and between passes.

    Raises:
        OSError: This system does not tell what a process holds.
    """
    steps = Steps(cell)
    steps.hold_state()
    before = _resident("VmRSS")
    for _ in range(STEPS):
        steps.step()
    peak = _resident("VmHWM")
    return {"peak": (peak - before) / _MIB, "held": held_bytes(steps.loss) / _MIB}


def _resident(line: str) -> int:
    """Bytes, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(each.split()[1] for each in lines if each.startswith(f"{line}:")))


def _main() -> None:
    model, level, precision, batch, pixels = sys.argv[1:]
    torch.set_num_threads(1)
    cell = Cell(model, level, precision, int(batch), int(pixels))  # type: ignore[arg-type]
    sys.stdout.write(json.dumps(peak_beside_state(cell)))


if __name__ == "__main__":
    _main()
