"""Nets to fine-tune: over published weights, random ones, or as an earlier run left them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from wszoo import detection, segmentation
from wszoo.backbone import Backbone, load_backbone
from wszoo.detection.assembly import batch_norms_beside_body
from wszoo.finetune.defaults import HEADS
from wszoo.finetune.settings import FineTuning, TaskName
from wszoo.layers import BatchChannelNorm, formula_key, freeze, to_formula
from wszoo.lint import lint

TRAINABLE_STAGES = 3  # of a net that has learned before, as in torchvision's detectors
_MAPS: dict[str, dict[str, Any]] = {  # what these take other than the maps of strides 4 to 32
    "unet": {"out_indices": (0, 1, 2, 3, 4)},
    "deeplab_v3_plus": {"output_stride": 16},
}


@dataclass(frozen=True, kw_only=True)
class Net:
    """What a net was made of, enough to make it again without any file.

    Attributes:
        task: What it does.
        head: As in ``FineTuning``.
        architecture: Backbone, as timm knows it without a tag.
        formula: Of its Weight Standardization, as ``to_formula`` takes it; None for foreign nets.
        mean: Per channel of images in 0..1.
        std: Likewise.
    """

    task: TaskName
    head: str
    architecture: str
    formula: str | tuple[bool | float, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def net_from_json(data: dict[str, Any]) -> Net:
    """A ``Net`` out of what ``dataclasses.asdict`` and JSON have made of it.

    Raises:
        KeyError, TypeError: A part is missing or of another type.
    """
    lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
    return Net(**{**data, **lists})


def build(settings: FineTuning, num_classes: int) -> nn.Module:
    """The net of ``settings``, in training mode; ``settings.seed`` decides its new layers.

    Args:
        num_classes: Names of classes; detectors get a background beside them.

    Raises:
        FileNotFoundError: The weights are nowhere to be found.
        ValueError: There is no such head or net, it has BatchNorm, or cannot be frozen so.
    """
    _require_head(settings.task, settings.head)
    torch.manual_seed(settings.seed)
    if settings.task == "classify":
        model = _classifier(settings.model, num_classes, settings, pretrained=settings.pretrained)
        if settings.trainable_stages is not None:
            if not settings.pretrained:
                raise ValueError(
                    f"cannot freeze random weights of {settings.model!r}; leave "
                    f"--trainable-stages out, or start from published weights"
                )
            freeze_stages(model, settings.trainable_stages)
        return model.train()
    backbone = load_backbone(
        settings.model,
        pretrained=settings.pretrained,
        trainable_stages=settings.trainable_stages,
        allow_batch_norm=settings.allow_batch_norm,
        **_MAPS.get(settings.head, {}),
    )
    return _with_head(settings, settings.head, backbone, num_classes).train()


def rebuild(net: Net, settings: FineTuning, num_classes: int) -> nn.Module:
    """A net like an earlier one with random weights, all of which train.

    Args:
        settings: Of these only seed and image sizes are used.
        num_classes: As for ``build``.
    """
    _require_head(net.task, net.head)
    torch.manual_seed(settings.seed)
    like: dict[str, Any] = {"pretrained_cfg_overlay": {"mean": net.mean, "std": net.std}}
    if net.formula is not None:
        like["formula"] = to_formula(net.formula)  # type: ignore[arg-type]
    if net.task == "classify":
        return _classifier(net.architecture, num_classes, settings, pretrained=False, **like)
    like |= {"allow_batch_norm": settings.allow_batch_norm, **_MAPS.get(net.head, {})}
    backbone = load_backbone(net.architecture, pretrained=False, **like)
    return _with_head(settings, net.head, backbone, num_classes)


def _require_head(task: TaskName, head: str) -> None:
    if head not in HEADS[task]:
        raise ValueError(f"no head {head!r} to {task} with; choose one of {', '.join(HEADS[task])}")


def _classifier(name: str, num_classes: int, settings: FineTuning, **options: Any) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, num_classes=num_classes, **options)
    except RuntimeError as error:  # timm's word for what the caller asked wrongly
        if type(error) is not RuntimeError:
            raise
        raise ValueError(f"cannot load {name!r}: {error}") from error
    if not settings.allow_batch_norm and (found := batch_norms_beside_body(model)):
        raise ValueError(
            f"{name!r} has {len(found)} BatchNorm layers, whose statistics are noise at one to "
            f"four images per step; take a '*_gn_ws' variant, or --allow-batch-norm to compare"
        )
    return model


def _with_head(settings: FineTuning, head: str, backbone: Backbone, num_classes: int) -> nn.Module:
    if head in HEADS["segment"]:
        segmenter: nn.Module = getattr(segmentation, head)(backbone, num_classes=num_classes)
        return segmenter
    detector: nn.Module = getattr(detection, head)(
        backbone,
        num_classes=num_classes + 1,  # torchvision counts the background
        min_size=settings.image_size,
        max_size=settings.max_size,
    )
    return detector


def backbone_of(model: nn.Module) -> Backbone | None:
    """What is under a detector or a segmenter; None for a classifier."""
    part = getattr(model, "backbone", None)
    part = getattr(part, "source", part)
    return part if isinstance(part, Backbone) else None


def freeze_stages(model: nn.Module, trainable_stages: int) -> None:
    """Freeze all stages of a timm classifier but the last ones, as ``load_backbone`` counts them.

    The classifier itself always trains.

    Raises:
        ValueError: There are not that many stages, they cannot be told apart, or a frozen one has
            running statistics.
    """
    ends = [info["module"] for info in model.feature_info]  # type: ignore[union-attr]
    if not 0 <= trainable_stages <= len(ends):
        raise ValueError(f"trainable_stages must be within 0..{len(ends)}, got {trainable_stages}")
    if trainable_stages == len(ends):
        return
    last = ends[len(ends) - trainable_stages - 1]
    names = [name for name, _ in model.named_children()]
    if last not in names:
        raise ValueError(
            f"the stages of {type(model).__name__} cannot be told apart; leave trainable_stages out"
        )
    for name in names[: names.index(last) + 1]:
        stage = model.get_submodule(name)
        if any(isinstance(module, BatchChannelNorm) for module in stage.modules()):
            raise ValueError(
                f"{name} has running statistics, which would go on changing in a frozen stage; "
                f"leave trainable_stages out"
            )
        freeze(stage)


def set_trainable_stages(model: nn.Module, trainable_stages: int) -> None:
    """Freeze the backbone of any net that is fine-tuned here, but its last stages."""
    if (backbone := backbone_of(model)) is not None:
        backbone.set_trainable_stages(trainable_stages)
    else:
        freeze_stages(model, trainable_stages)


def describe_net(model: nn.Module, settings: FineTuning) -> Net:
    """What ``model`` was made of."""
    backbone = backbone_of(model)
    body: Any = model if backbone is None else backbone.body
    cfg = body.pretrained_cfg
    architecture = cfg["architecture"]
    formula = None
    if architecture in timm.list_models(module="ws_resnet"):
        key = formula_key(next(_formulas(body)))
        formula = key if isinstance(key, str) else tuple(key)
    return Net(
        task=settings.task,
        head=settings.head,
        architecture=architecture,
        formula=formula,
        mean=tuple(cfg["mean"]) if backbone is None else backbone.mean,
        std=tuple(cfg["std"]) if backbone is None else backbone.std,
    )


def _formulas(model: nn.Module) -> Iterator[Any]:
    return (module.formula for module in model.modules() if hasattr(module, "formula"))


def size_text(model: nn.Module) -> str:
    """How large a net is and what of it trains, for people."""
    total = sum(p.numel() for p in model.parameters()) / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    text = f"{total:.1f} M parameters, {trained:.1f} M to train"
    if (backbone := backbone_of(model)) is None:
        return text
    return f"{text} ({backbone.trainable_stages} of {backbone.num_stages} stages of the backbone)"


def census_text(model: nn.Module) -> str:
    """The norms of a net, for people; the number of BatchNorm is said even if it is zero."""
    norms = lint(model).norms
    ours = [f"{count} {name}" for name, count in norms.items() if "BatchNorm" not in name]
    own = {module.bn for module in model.modules() if isinstance(module, BatchChannelNorm)}
    kind = nn.modules.batchnorm._BatchNorm
    foreign = sum(isinstance(m, kind) and m not in own for m in model.modules())
    return ", ".join([*ours, f"{foreign} BatchNorm"])
