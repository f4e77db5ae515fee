"""Where every set of weights lives, how it was made, what it scores; finding and checking files.

The README's table, the model cards, timm's configurations and ``wszoo list`` are views of
``WEIGHTS``. The first record of a model is its default tag.
"""

import json
import math
import os
import struct
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg

from wszoo.files import sha256_of

ASSETS = Path(__file__).parent / "assets"
WEIGHTS_FILE = "model.safetensors"
_HEADER_LIMIT = 100_000_000  # bytes, the format's own
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "U16": 2}
_BYTES |= {"I16": 2, "F32": 4, "U32": 4, "I32": 4, "F64": 8, "U64": 8, "I64": 8, "C64": 8}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published set of weights.

    Attributes:
        model: Variant as registered with timm, e.g. ``"resnet50_gn_ws"``.
        tag: What follows the dot: origin or recipe, then data, e.g. ``"e12_tin200"``.
        sha256: Digest of ``model.safetensors``.
        license: SPDX identifier of the weights, or a few words where there is none.
        formula: Name of the WS formula they were trained with; another one is refused.
        dtype: Type the file stores, as safetensors writes it, e.g. ``"F16"``.
        num_classes: Rows of the classifier in the file.
        labels: File of class names in ``wszoo/assets/labels``.
        input_size: Channels, height, width at which ``metrics`` were measured.
        crop_pct: Share of the resized photo that the centre crop keeps.
        interpolation: How photos are resized.
        mean: Subtracted per channel, of photos in 0..1, RGB.
        std: Divided by per channel.
        recipe: Key of ``train.recipes.RECIPES``; None for weights trained elsewhere.
        metrics: ``{data: {metric: value in percent}}``.
        packaged: The file is in ``wszoo/assets/<model.tag>``.
        hub: ``"namespace/repository@commit"`` once pushed and verified.
        origin_url: Where they come from, if not from this zoo.
        paper_ids: Papers to cite, as timm writes them.
    """

    model: str
    tag: str
    sha256: str
    license: str
    formula: str = "jhu"
    dtype: str = "F16"
    num_classes: int = 1000
    labels: str | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    recipe: str | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    packaged: bool = False
    hub: str | None = None
    origin_url: str | None = None
    paper_ids: str = "arXiv:1903.10520"

    @property
    def name(self) -> str:
        return f"{self.model}.{self.tag}"

    def pretrained_cfg(self, **architecture: Any) -> PretrainedCfg:
        """The record as timm's configuration; ``architecture`` adds what the variant knows."""
        return PretrainedCfg(
            file=str(ASSETS / self.name / WEIGHTS_FILE) if self.packaged else None,
            hf_hub_id=self.hub,
            hf_hub_filename=WEIGHTS_FILE if self.hub else None,
            num_classes=self.num_classes,
            input_size=self.input_size,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            license=self.license,
            origin_url=self.origin_url,
            paper_ids=self.paper_ids,
            **architecture,
        )

    def label_names(self) -> list[str]:
        """What to call each class, in order; their numbers where nothing better is known."""
        if self.labels is None:
            return [str(index) for index in range(self.num_classes)]
        return [name for _, name in _read_labels(self.labels)]

    def label_ids(self) -> list[str]:
        """The class folders of the training data, in order."""
        if self.labels is None:
            return [str(index) for index in range(self.num_classes)]
        return [identifier for identifier, _ in _read_labels(self.labels)]


@cache
def _read_labels(file: str) -> list[tuple[str, str]]:
    lines = (ASSETS / "labels" / file).read_text(encoding="utf-8").splitlines()
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


WEIGHTS: tuple[Weights, ...] = (
    Weights(
        model="resnet18_gn_ws",
        tag="e14_tin200",
        sha256="fd803c289ba96e6151db16b046f503824ef82ebce0b5e9d0314721e04aba7eff",
        license="imagenet-research",
        num_classes=200,
        labels="tin200.tsv",
        input_size=(3, 80, 80),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe="e14_tin200",
        metrics={"Tiny ImageNet val": {"top1": 50.74, "top5": 75.83}},
        packaged=True,
    ),
    Weights(
        model="test_resnet_gn_ws",
        tag="e3_tin200",
        sha256="3579b0630da063616f4671434375b0be9282df83eac73b9437c83a7c9a82a38b",
        license="imagenet-research",
        num_classes=200,
        labels="tin200.tsv",
        input_size=(3, 64, 64),
        crop_pct=1.0,
        interpolation="bicubic",
        recipe="e3_tin200",
        metrics={"Tiny ImageNet val": {"top1": 17.42, "top5": 40.7}},
        packaged=True,
    ),
)


def find(name: str) -> Weights:
    """Look up ``"model.tag"``, or the first record of ``"model"``.

    Raises:
        ValueError: No such model or tag; the message lists those that exist.
    """
    model, _, tag = name.partition(".")
    of_model = [weights for weights in WEIGHTS if weights.model == model]
    if not of_model:
        known = ", ".join(dict.fromkeys(weights.model for weights in WEIGHTS))
        raise ValueError(f"no weights for model {model!r}; models with weights: {known}")
    for weights in of_model:
        if tag in ("", weights.tag):
            return weights
    tags = ", ".join(weights.tag for weights in of_model)
    raise ValueError(f"model {model!r} has no weights tagged {tag!r}; its tags: {tags}")


def record_of(name: str) -> Weights | None:
    """The record behind ``"model.tag"`` or ``"model"``, if there is one."""
    try:
        return find(name)
    except ValueError:
        return None


def locate(weights: Weights, *, cache_dir: str | Path | None = None) -> Path:
    """Path of the record's file, its digest and storage type checked.

    Looked for in this order: the directory that ``WSZOO_WEIGHTS`` names, the package, the Hub.

    Args:
        cache_dir: Where the Hub's client keeps files, instead of its default.

    Raises:
        FileNotFoundError: The record is in none of these places.
        ValueError: The file is there and is not the one that was published.
    """
    path = _search(weights, cache_dir)
    check_file(path, sha256=weights.sha256, dtype=weights.dtype)
    return path


def _search(weights: Weights, cache_dir: str | Path | None) -> Path:
    folder = os.environ.get("WSZOO_WEIGHTS")
    if folder:
        path = Path(folder).expanduser() / weights.name / WEIGHTS_FILE
        if path.exists():
            return path
    if weights.packaged:
        return ASSETS / weights.name / WEIGHTS_FILE
    if weights.hub:
        from huggingface_hub import hf_hub_download  # only where a download is meant

        repository, _, commit = weights.hub.partition("@")
        return Path(hf_hub_download(repository, WEIGHTS_FILE, revision=commit, cache_dir=cache_dir))
    lacking = f" (WSZOO_WEIGHTS={folder!r} does not hold {weights.name}/{WEIGHTS_FILE})"
    raise FileNotFoundError(
        f"the weights {weights.name!r} are in the repository only; "
        f"set WSZOO_WEIGHTS to its folder model_cards{lacking if folder else ''}"
    )


def check_file(path: Path, *, sha256: str | None = None, dtype: str | None = None) -> None:
    """Make sure that ``path`` is an intact safetensors file, and the one that is meant.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is something else, damaged, or of another storage type or digest.
    """
    header = read_header(path)
    types = Counter(entry["dtype"] for entry in header.values())
    if dtype is not None and set(types) != {dtype}:
        stored = ", ".join(f"{count} tensors of {kind}" for kind, count in sorted(types.items()))
        raise ValueError(f"{path} stores {stored}, its record says {dtype}; fetch it again")
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise ValueError(
            f"{path} has sha256 {found[:12]}…, its record says {sha256[:12]}…: "
            f"the file is damaged or another one; fetch it again"
        )


def read_header(path: Path) -> dict[str, Any]:
    """The tensors a safetensors file declares; metadata is left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is not an intact safetensors file; the message says what it looks like.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
        if (reason := _impostor(head)) is not None:
            raise ValueError(f"{path} is {reason}, not safetensors; fetch the real file")
        length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ValueError(
                f"{path} ({size} bytes) is cut short or not safetensors; fetch it again"
            )
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            if not header or not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError("no tensors, or metadata that is no text")
            end = _end_of_tensors(header)
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} has a damaged safetensors header; fetch it again") from error
    if size != 8 + length + end:
        raise ValueError(
            f"{path} has {size} bytes where its header promises {8 + length + end}: "
            f"cut short or overlong; fetch it again"
        )
    return header, metadata


def _end_of_tensors(header: dict[str, Any]) -> int:
    """Last byte of the values; the tensors must fill all up to there, as the format wants it."""
    end = 0
    for entry in sorted(header.values(), key=lambda entry: tuple(entry["data_offsets"])):
        (begin, stop), shape = entry["data_offsets"], entry["shape"]
        is_sane = isinstance(shape, list) and begin == end
        is_sane &= all(type(number) is int and number >= 0 for number in (*shape, begin, stop))
        if not is_sane or stop - begin != math.prod(shape) * _BYTES[entry["dtype"]]:
            raise ValueError(entry)
        end = stop
    return end


def _impostor(head: bytes) -> str | None:
    """What the first bytes of a file are, if plainly not those of safetensors."""
    if head[8:9] == b"{":  # safetensors, whatever the eight bytes of its length look like
        return None
    start = head.lstrip()[:64].lower()
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (clone with git-lfs, or download the file itself)"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (a proxy or a login page answered)"
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return "a pickle or zip archive such as torch.save writes (convert it, never rename it)"
    return None


def read_metadata(path: Path) -> dict[str, str]:
    """Free-form metadata of a safetensors file, e.g. ``folded`` or ``formula``."""
    return _read_header(path)[1]
