"""How fast a run goes, and when it will end."""

import math
import time
from collections import deque
from statistics import fmean, median

from wszoo.training.report import duration

ESTIMATE_AFTER = 20  # steps of this process


class Pace:
    """How fast steps are taken; means are over those since the last line, the ``every`` newest."""

    def __init__(self, every: int) -> None:
        self.total = self.steps_per_epoch = 0  # 0 while not known
        self.count = 0  # steps of this process
        self._step, self._lr = 0, 0.0
        self._first: list[float] = []  # seconds
        self._newest: deque[tuple[float, int, float, float]] = deque(maxlen=every)
        self._ended = time.monotonic()
        self._evaluation = 0.0  # seconds

    def add(
        self, step: int, loss: float, lr: float, images: int, seconds: float, waited: float
    ) -> None:
        self._step, self._lr, self._ended = step, lr, time.monotonic()
        self.count += 1
        if self.count <= ESTIMATE_AFTER:
            self._first.append(seconds)
        self._newest.append((loss, images, seconds, waited))

    def end_epoch(self) -> None:
        self._evaluation = time.monotonic() - self._ended

    def means(self) -> dict[str, float]:
        losses, images, seconds, waited = zip(*self._newest, strict=True)
        finite = [loss for loss in losses if math.isfinite(loss)]
        took = max(sum(seconds), 1e-9)
        return {
            "loss": fmean(finite) if finite else math.nan,
            "lr": self._lr,
            "images_per_second": round(sum(images) / took, 1),
            "waited_percent": round(100 * sum(waited) / took, 2),
        }

    def left(self) -> float:
        """Seconds to the end, with an evaluation per epoch as long as the last one was."""
        per_step = fmean(seconds for _, _, seconds, _ in self._newest)
        steps = self.total - self._step
        evaluations = math.ceil((steps + 1) / self.steps_per_epoch) if self.steps_per_epoch else 0
        return steps * per_step + evaluations * self._evaluation

    def estimate(self) -> str:
        per_step = median(self._first)  # the first one may have compiled or warmed up something
        left = self.total - self._step
        return (
            f"the whole run takes about {duration(self.total * per_step)} at {per_step:.3g} s per "
            f"step, without evaluation; {duration(left * per_step)} are left"
        )

    def __str__(self) -> str:
        means = self.means()
        rate = means["images_per_second"]
        left = f"{duration(self.left())} left, " if self.total else ""
        return (
            f"{left}loss {means['loss']:.4f}, lr {means['lr']:.3g}, "
            f"{rate:,.{0 if rate >= 10 else 1}f} images/s, "
            f"{means['waited_percent']:.1f} % waiting for data"
        )
