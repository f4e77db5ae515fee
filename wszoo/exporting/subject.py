"""What is exported: a net and what those who run it have to know of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config
from torch import nn

from wszoo.evaluate import class_names
from wszoo.files import sha256_of
from wszoo.finetune.models import backbone_of
from wszoo.finetune.outputs import load_finetuned, output_folder, read_facts
from wszoo.finetune.settings import TaskName
from wszoo.layers import WSConv2d, formula_name
from wszoo.weights import WEIGHTS_FILE, record_of

_LOCAL = "local-dir:"
_FACTS = ("mean", "std", "classes", "formula", "min_score", "sha256")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A net to export.

    Attributes:
        net: As it is loaded, standardized and in eval mode.
        name: Of the weights, or the folder of the run.
        task: What it does.
        head: ``"linear"``, or the constructor in ``wszoo.detection`` or ``wszoo.segmentation``.
        size: Height and width that the weights were measured at, in pixels.
        mean: Per channel of images in 0..1.
        std: Likewise.
        classes: Names, of a detector without the background; None where nobody named them.
        formula: Of its Weight Standardization; None where there is none.
        min_score: Below which what a detector finds is better left out, where it was measured.
        sha256: Of the file of weights, where there is one.
    """

    net: nn.Module
    name: str
    task: TaskName
    head: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] | None = None
    formula: str | None = None
    min_score: float | None = None
    sha256: str | None = None

    def metadata(self) -> dict[str, str]:
        """All that is known of it, apart from the net, as text; lists are JSON."""
        facts = {key: getattr(self, key) for key in _FACTS}
        texts = {
            key: fact if isinstance(fact, str) else json.dumps(fact)
            for key, fact in facts.items()
            if fact is not None
        }
        if self.classes is not None:
            texts["first_class"] = "1" if self.task == "detect" else "0"
        return {"model": self.name, "task": self.task, "head": self.head, **texts}


def subject_of_classifier(net: nn.Module, name: str) -> Subject:
    """A classifier that timm has loaded under ``name``.

    Raises:
        ValueError: It has no classifier, so that nobody could say what comes out.
    """
    if not getattr(net, "num_classes", 0):
        raise ValueError(f"{name!r} has no classifier; name weights that have one")
    config = resolve_model_data_config(net)
    _, height, width = config["input_size"]
    record = record_of(name)
    names = class_names(net, record)
    return Subject(
        net=net,
        name=name.removeprefix(_LOCAL),
        task="classify",
        head="linear",
        size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        classes=None if names is None else tuple(names),
        formula=_formula(net),
        sha256=record.sha256 if record else _digest(name),
    )


def subject_of_run(path: Path) -> Subject:
    """The detector or segmenter that a run of ``wszoo finetune`` left.

    Raises:
        FileNotFoundError: There is no finished run.
        ValueError: Weights or configuration are damaged, or it is a classifier's, which timm loads
            by the name ``local-dir:RUN/model``.
    """
    if (folder := output_folder(path)) is not None and read_facts(path).net.task == "classify":
        raise ValueError(f"{path} holds a classifier; load it as {_LOCAL}{folder}")
    net, facts = load_finetuned(path)
    backbone: Any = backbone_of(net)
    side = facts.settings.image_size
    return Subject(
        net=net,
        name=str(path),
        task=facts.net.task,
        head=facts.net.head,
        size=(side, side),
        mean=backbone.mean,
        std=backbone.std,
        classes=facts.classes,
        formula=_formula(net),
        min_score=facts.min_score,
        sha256=facts.sha256,
    )


def _formula(net: nn.Module) -> str | None:
    formulas = (module.formula for module in net.modules() if isinstance(module, WSConv2d))
    formula = next(formulas, None)
    return None if formula is None else formula_name(formula)


def _digest(name: str) -> str | None:
    file = Path(name.removeprefix(_LOCAL)) / WEIGHTS_FILE
    return sha256_of(file) if name.startswith(_LOCAL) and file.is_file() else None
