"""Checking an installation: versions, devices, folders and packaged weights, without network."""

import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import constants

from wszoo.weights import WEIGHTS, WEIGHTS_FILE, Weights, locate

# Distribution, the version it takes, and the first that is too new; as in pyproject.toml.
REQUIREMENTS: tuple[tuple[str, str, str | None], ...] = (
    ("torch", "2.6", None),
    ("torchvision", "0.21", None),
    ("timm", "1.0.26", None),
    ("huggingface_hub", "1.20", "3"),
    ("safetensors", "0.4.5", None),
    ("pillow", "10.3", None),
)
_PYTHON = (3, 10)
_GIB = 2**30
_DRIVER = Path("/proc/driver/nvidia/version")
_SHARED_MEMORY = _GIB  # bytes; containers have 64 MiB unless told otherwise


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What it is.
        value: What was found.
        ok: Whether the zoo works with it.
        advice: In one line: the way out, or, where all is well, what would be better still.
    """

    subject: str
    value: str
    ok: bool = True
    advice: str | None = None

    def __str__(self) -> str:
        verdict = "BAD" if not self.ok else "note" if self.advice else "ok"
        advice = f"; {self.advice}" if self.advice else ""
        return f"{verdict:<4} {self.subject:<18} {self.value}{advice}"


def diagnose() -> list[Finding]:
    """Look at everything that the zoo needs of this machine; no request leaves it."""
    return [
        check_python(platform.python_version()),
        *(check_version(*requirement) for requirement in REQUIREMENTS),
        check_torchvision_operators(),
        check_gpus(_DRIVER),
        check_cpu(torch.get_num_threads(), _usable_cores()),
        check_shared_memory(Path("/dev/shm")),
        check_hub_cache(Path(constants.HF_HUB_CACHE)),
        check_offline(constants.HF_HUB_OFFLINE),
        check_weights_folder(os.environ),
        *check_packaged(WEIGHTS),
    ]


def check_python(version: str) -> Finding:
    """Whether the interpreter is recent enough."""
    ok = _parts(version) >= _PYTHON
    wanted = ".".join(map(str, _PYTHON))
    advice = None if ok else f"make an environment with Python {wanted} or newer"
    return Finding(subject="python", value=version, ok=ok, advice=advice)


def check_version(package: str, floor: str, ceiling: str | None) -> Finding:
    """Whether ``package`` is installed in a version from ``floor`` up to below ``ceiling``."""
    wanted = f"{package}>={floor}" + (f",<{ceiling}" if ceiling else "")
    advice = f"python -m pip install -U '{wanted}'"
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Finding(subject=package, value="not installed", ok=False, advice=advice)
    ok = _parts(floor) <= _parts(version) and (ceiling is None or _parts(version) < _parts(ceiling))
    return Finding(subject=package, value=version, ok=ok, advice=None if ok else advice)


def _parts(version: str) -> tuple[int, ...]:
    """The numbers of a release: ``"2.6.0+cu124"`` gives ``(2, 6, 0)``."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def check_torchvision_operators() -> Finding:
    """Whether torchvision's compiled operators load, which takes the torch they were built for."""
    subject = "torchvision ops"
    try:
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "torch and torchvision do not match: python -m pip install -U torch torchvision"
        return Finding(subject=subject, value=reason, ok=False, advice=advice)
    return Finding(subject=subject, value="load")


def check_gpus(driver: Path) -> Finding:
    """The GPUs that torch sees; none is fine, if a pity where ``driver`` says that there is one."""
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        named = ", ".join(f"{gpu.name} ({gpu.total_memory / _GIB:.0f} GiB)" for gpu in found)
        return Finding(subject="gpu", value=named)
    if torch.backends.mps.is_available():
        return Finding(subject="gpu", value="Apple (MPS)")
    if driver.exists():
        advice = "to use it, install torch for your driver, see https://pytorch.org/get-started"
        value = f"an NVIDIA driver, which torch {torch.__version__} cannot use"
        return Finding(subject="gpu", value=value, advice=advice)
    return Finding(subject="gpu", value="none")


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_cpu(threads: int, cores: int) -> Finding:
    """Threads of torch beside the cores it may use, vector instructions and native bfloat16."""
    value = f"{threads} threads on {cores} cores, {torch.backends.cpu.get_cpu_capability()}"
    value += f", bf16 {_native_bf16(Path('/proc/cpuinfo'))}"
    advice = None if threads <= cores else f"set OMP_NUM_THREADS={cores}: more threads only wait"
    return Finding(subject="cpu", value=value, advice=advice)


def _native_bf16(cpuinfo: Path) -> str:
    if not cpuinfo.exists():
        return "unknown"
    flags = re.findall(r"\b(?:avx512_bf16|amx_bf16|bf16)\b", cpuinfo.read_text(encoding="utf-8"))
    return "native" if flags else "emulated (slow)"


def check_shared_memory(folder: Path) -> Finding:
    """Whether data-loading workers have room to hand over batches; the zoo itself starts none."""
    subject = "shared memory"
    if not folder.is_dir():
        return Finding(subject=subject, value=f"no {folder} on this system")
    total = shutil.disk_usage(folder).total
    value = f"{total / _GIB:.2f} GiB at {folder}"
    if total >= _SHARED_MEMORY:
        return Finding(subject=subject, value=value)
    advice = "for DataLoader workers of your own, start the container with --shm-size=2g"
    return Finding(subject=subject, value=value, advice=advice)


def check_hub_cache(folder: Path) -> Finding:
    """Whether downloads can be kept; nothing is written to find out."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    ok = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    advice = None if ok else "set HF_HOME to a folder that you may write to"
    value = str(folder) if ok else f"{folder} is not writable"
    return Finding(subject="hub cache", value=value, ok=ok, advice=advice)


def check_offline(is_offline: bool) -> Finding:
    """Whether the Hub's client may use the network."""
    if not is_offline:
        return Finding(subject="HF_HUB_OFFLINE", value="off")
    advice = "unset it to download; cached and packaged weights load"
    return Finding(subject="HF_HUB_OFFLINE", value="on", advice=advice)


def check_weights_folder(environment: Mapping[str, str]) -> Finding:
    """What the folder holds that ``WSZOO_WEIGHTS`` names."""
    subject = "WSZOO_WEIGHTS"
    value = environment.get(subject)
    if not value:
        return Finding(subject=subject, value="not set")
    folder = Path(value).expanduser()
    advice = f"it must name a folder that holds <model.tag>/{WEIGHTS_FILE}, or be unset"
    if not folder.is_dir():
        return Finding(subject=subject, value=f"no folder {value!r}", ok=False, advice=advice)
    held = sorted(path.parent.name for path in folder.glob(f"*/{WEIGHTS_FILE}"))
    if not held:
        return Finding(subject=subject, value=f"no weights in {value!r}", ok=False, advice=advice)
    known = {weights.name for weights in WEIGHTS}
    named = ", ".join(name if name in known else f"{name} (no record)" for name in held)
    return Finding(subject=subject, value=f"{value} holds {named}")


def check_packaged(records: Iterable[Weights]) -> list[Finding]:
    """Whether each packaged file is there and is the one that was published."""
    subject = "packaged weights"
    packaged = [weights for weights in records if weights.packaged]
    if not packaged:
        return [Finding(subject=subject, value="none")]
    return [_check_record(subject, weights) for weights in packaged]


def _check_record(subject: str, weights: Weights) -> Finding:
    try:
        path = locate(weights)
    except (OSError, ValueError) as error:
        advice = "install wszoo again: python -m pip install --force-reinstall --no-deps wszoo"
        value = f"{weights.name}: {str(error).splitlines()[0]}"
        return Finding(subject=subject, value=value, ok=False, advice=advice)
    return Finding(subject=subject, value=f"{weights.name}, verified: {path}")
