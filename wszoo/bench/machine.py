"""Where a measurement was taken, and whether the machine had other work."""

import os
from dataclasses import dataclass
from datetime import date

import torch

_SLACK = 0.5  # of a core, that a machine at rest may be busy with


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine, and the software on it.

    Attributes:
        processor: Its name.
        cores: Of the machine, idle or not.
        usable: Of these, those that this process may use.
        threads: Of torch.
        gpu: Name of the GPU that was measured; None where it was the CPU.
        system: Operating system and architecture.
        python, torch, torchvision, timm, wszoo: Versions.
        commit: Of the checkout that ``wszoo`` was in; None where it was in none.
        measured: Date, ISO 8601.
        load_before, load_after: Programs that wanted to run, in the mean over the minute before;
            None where the system does not say.
    """

    processor: str
    cores: int
    usable: int
    threads: int
    gpu: str | None
    system: str
    python: str
    torch: str
    torchvision: str
    timm: str
    wszoo: str
    commit: str | None
    measured: str
    load_before: float | None
    load_after: float | None

    def __str__(self) -> str:
        where = self.gpu or f"{self.processor}, {_count(self.usable, 'core')}"
        commit = f" ({self.commit})" if self.commit else ""
        versions = f"torch {self.torch}, timm {self.timm}, wszoo {self.wszoo}{commit}"
        loads = ""
        if self.load_before is not None and self.load_after is not None:
            loads = f"; load {self.load_before:.1f} before, {self.load_after:.1f} after"
        return f"{where}, {_count(self.threads, 'thread')}; {versions}{loads}; {self.measured}"

    def warnings(self) -> list[str]:
        """What of other work on the machine stands against the figures."""
        if self.load_before is None or self.load_after is None:
            return []
        most = self.cores + _SLACK
        found = []
        if self.load_before + self.threads > most:
            found.append(f"{self.load_before:.1f} before {_count(self.threads, 'thread')} began")
        if self.load_after > most:
            found.append(f"{self.load_after:.1f} at the end")
        cores = _count(self.cores, "core")
        return [
            f"the machine was busy: load {each} on {cores}; measure again when it rests"
            for each in found
        ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def load() -> float | None:
    """Programs that wanted to run in the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_machine(device: torch.device, load_before: float | None) -> Machine:
    """This machine, at the end of a measurement."""
    from wszoo.training.declaration import code_version
    from wszoo.training.report import environment

    facts, commit, cores = environment(), code_version(), os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        processor=facts["processor"],
        cores=cores,
        usable=len(affinity(0)) if affinity else cores,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        system=facts["system"],
        python=facts["python"],
        torch=facts["torch"],
        torchvision=facts["torchvision"],
        timm=facts["timm"],
        wszoo=facts["wszoo"],
        commit=None if commit == "unknown" else commit,
        measured=date.today().isoformat(),
        load_before=load_before,
        load_after=load(),
    )
