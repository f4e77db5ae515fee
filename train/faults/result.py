"""How runs took a fault."""

from dataclasses import dataclass, field, fields
from typing import Any

from train.faults.job import Job


@dataclass(kw_only=True)
class Result:
    """How runs took a fault.

    Attributes:
        fault: What was done to them.
        tries: How often.
        repeated: Steps that were done again after each.
        seconds: From each to the next new step.
        same: Of each run, whether its final weights have the bits of one left alone.
        remark: What else a person should know.
    """

    fault: str
    tries: int = 0
    repeated: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    remark: str = ""

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Result":
        """A row of the file of results."""
        return cls(**{one.name: row[one.name] for one in fields(cls)})

    def row(self) -> dict[str, object]:
        """For the table."""
        equal = f"{sum(self.same)} of {len(self.same)} runs" if self.same else None
        return {
            "fault": self.fault,
            "tries": self.tries,
            "steps repeated": f"<= {max(self.repeated)}" if self.repeated else None,
            "seconds to go on": f"<= {max(self.seconds):.0f}" if self.seconds else None,
            "same sha256": equal,
            "remark": self.remark or None,
        }

    def note(self, job: Job, step: int, starts: int) -> None:
        """Wait until a run goes on after a fault at ``step``, and write down how."""
        seconds = job.wait_for("new start", lambda: len(job.starts()) > starts)
        resumed = job.starts()[-1]
        told = job.told_at()
        seconds += job.wait_for("new step", lambda: job.ended() or job.told_at() > told)
        self.tries += 1
        self.repeated.append(max(0, step - resumed))
        self.seconds.append(round(seconds, 1))
