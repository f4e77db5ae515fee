"""Images per second of every model on this machine, measured so that they compare.

The models take turns, in rounds, the order reversed every other round: load that comes and goes
hits all of them alike. A net is made anew for each turn, so that memory holds one at a time.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch

from wszoo import __version__
from wszoo.gallery.rows import Progress, Row
from wszoo.layers import fold
from wszoo.training.report import environment
from wszoo.weights_file import write_whole

SPEEDS = "speed.json"
ROUNDS = 5
WHAT = "inference, batch 1, folded, float32, on the CPU"
PACKAGED = Path(__file__).parent / SPEEDS  # by `python -m train.publish --speeds`
_LEAST_SECONDS = 0.2  # of one turn; shorter ones say little


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one net is.

    Attributes:
        model: The variant; which weights it has makes no difference.
        pixels: Side of the image.
        images_per_second: Median over the rounds.
        slowest: Of the rounds, in images per second.
        fastest: Likewise.
    """

    model: str
    pixels: int
    images_per_second: float
    slowest: float
    fastest: float


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What one run measured, and where.

    Attributes:
        what: What was timed.
        hardware: Threads and processor.
        torch: Its version.
        wszoo: Its version.
        measured: Date, ISO 8601.
        rounds: How often each net had its turn.
        rows: One per net and size.
    """

    what: str
    hardware: str
    torch: str
    wszoo: str
    measured: str
    rounds: int
    rows: tuple[Speed, ...]

    def find(self, row: Row) -> Speed | None:
        """The speed of a row at its own size of images, if it was measured."""
        return next((s for s in self.rows if (s.model, s.pixels) == (row.model, row.pixels)), None)


def measure(
    rows: Iterable[Row],
    *,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    what: str = WHAT,
) -> Speeds:
    """Time the inference of every model of ``rows``, each at its own size of images.

    Threads are those of torch at the time.

    Args:
        rows: What to measure; a model of several rows of one size is measured once.
        rounds: How often each has its turn.
        progress: Wraps the turns in a bar.
        clock: What the seconds are counted by.
        what: What is then timed, in a few words.
    """
    nets = list(dict.fromkeys((row.model, row.pixels) for row in rows))
    turns: Iterable[tuple[str, int]] = _turns(nets, rounds)
    if progress:
        turns = progress(turns, rounds * len(nets), "speed")
    rates: dict[tuple[str, int], list[float]] = {net: [] for net in nets}
    for model, pixels in turns:
        rates[model, pixels].append(_images_per_second(model, pixels, clock))
    speeds = (
        Speed(
            model=model,
            pixels=pixels,
            images_per_second=round(median(of_net), 3),
            slowest=round(min(of_net), 3),
            fastest=round(max(of_net), 3),
        )
        for (model, pixels), of_net in rates.items()
    )
    return Speeds(
        what=what,
        hardware=_cpu(),
        torch=torch.__version__,
        wszoo=__version__,
        measured=date.today().isoformat(),
        rounds=rounds,
        rows=tuple(speeds),
    )


def _cpu() -> str:
    facts = environment()
    count = int(facts["threads per process"])
    return f"{count} thread{'s' * (count > 1)} ({facts['processor']})"


def _turns(nets: list[tuple[str, int]], rounds: int) -> Iterator[tuple[str, int]]:
    for index in range(rounds):
        yield from nets if index % 2 == 0 else reversed(nets)


def _images_per_second(model: str, pixels: int, clock: Callable[[], float]) -> float:
    net = fold(timm.create_model(model).eval())
    image = torch.randn(1, 3, pixels, pixels)
    with torch.inference_mode():
        net(image)  # kernels are chosen and memory is taken the first time
        count, start = 0, clock()
        while (taken := clock() - start) < _LEAST_SECONDS or count < 2:
            net(image)
            count += 1
    return count / taken


def rounded(rate: float) -> str:
    """Three figures of it, and no powers of ten.

    Example:
        >>> rounded(1234.5), rounded(12.345)
        ('1,230', '12.3')
    """
    return f"{float(f'{rate:.3g}'):,.10g}"


def write_speeds(speeds: Speeds, path: Path) -> None:
    """Keep what was measured, as JSON.

    Raises:
        OSError: ``path`` cannot be written.
    """
    write_whole(path, (json.dumps(asdict(speeds), indent=2) + "\n").encode())


def read_speeds(path: Path) -> Speeds:
    """What an earlier run measured.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no file of speeds.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; `wszoo gallery --measure` writes one")
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        speeds = Speeds(**{**found, "rows": tuple(Speed(**row) for row in found["rows"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(_no_speeds(path)) from error
    if not (_is_plausible(speeds) and all(map(_is_rate, speeds.rows))):
        raise ValueError(_no_speeds(path))
    return speeds


def _no_speeds(path: Path) -> str:
    return f"{path} holds no speeds; `wszoo gallery --measure` writes such a file"


def _is_plausible(speeds: Speeds) -> bool:
    texts = (speeds.what, speeds.hardware, speeds.torch, speeds.wszoo, speeds.measured)
    return all(isinstance(text, str) for text in texts) and isinstance(speeds.rounds, int)


def _is_rate(speed: Speed) -> bool:
    rates = (speed.slowest, speed.images_per_second, speed.fastest)
    if not all(isinstance(rate, int | float) for rate in rates):
        return False
    return 0 < rates[0] <= rates[1] <= rates[2] < float("inf")
