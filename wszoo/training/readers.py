"""What all processes that read photos for a run have in common."""

import csv
import signal
from collections.abc import Iterable
from pathlib import Path

from torch.utils.data import DataLoader

from wszoo.training.runlog import RunLog

READ_TIMEOUT = 300.0  # seconds that a batch may take to be read
QUARANTINE = "quarantine.tsv"  # in the folder of a run
MOST_BROKEN = 0.01  # share of photos
_COLUMNS = ("name", "reason")  # as `wszoo check-data --quarantine` writes them


class Unreadable:
    """The photos that a run could not read, in ``quarantine.tsv``, whichever rank met them.

    ``--quarantine`` takes the file.

    Args:
        log: Of the run; its events tell each photo once.
        count: Photos that there are.
        consequence: What becomes of the place of such a photo, for people.
    """

    def __init__(self, log: RunLog, count: int, consequence: str) -> None:
        self.path = log.output / QUARANTINE
        self._log, self._count, self._consequence = log, count, consequence
        self._names = read_unreadable(log.output)

    def add(self, problems: Iterable[tuple[str, str]]) -> None:
        """Write down names of photos and what is wrong with each, unless that is done.

        Raises:
            ValueError: There are too many to go on.
        """
        new = {name: reason for name, reason in problems if name not in self._names}
        if not new:
            return
        self._names.update(new)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.writer(file, "excel-tab", lineterminator="\n")
            if not file.tell():
                rows.writerow(_COLUMNS)
            rows.writerows((name, " ".join(reason.split())) for name, reason in new.items())
        for name, reason in new.items():
            self._log.event(f"{reason}; {self._consequence}", quarantined=name)
        if len(self._names) > max(10, MOST_BROKEN * self._count):
            raise ValueError(
                f"{len(self._names)} of {self._count} photos cannot be read; "
                f"{self.path} names them, the last: {[*new][-1]}"
            )


def read_unreadable(output: Path) -> set[str]:
    """Names that were written down in the folder of a run."""
    path = output / QUARANTINE
    if not path.exists():
        return set()
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file, "excel-tab"))
    # Ranks that begin the file together may each write its heading.
    return {row[0] for row in rows if row and tuple(row) != _COLUMNS}


def ignore_signals(_worker: int) -> None:
    """A signal that stops the run reaches its whole process group; readers end with the run."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)


def end_workers(loader: DataLoader[object]) -> None:
    """End the workers of a loader, which do not mind the signals that would end them otherwise."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        for worker in loader._iterator._workers:  # type: ignore[attr-defined]
            worker.kill()  # such as one that waits for a disk
