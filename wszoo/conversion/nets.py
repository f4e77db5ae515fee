"""Which net of timm's registry runs converted weights, and what has to be done to them for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from wszoo.conversion.reference import lay_in, num_classes_of
from wszoo.conversion.rescaling import rescale_kernel
from wszoo.convert import Converted

_STAGES = ("stem", "stage 1", "stage 2", "stage 3", "stage 4", "logits")
RESNET_TAPS = dict(
    zip(_STAGES, ("maxpool", "layer1", "layer2", "layer3", "layer4", "fc"), strict=True)
)
RESNETV2_TAPS = dict(
    zip(_STAGES, ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "head"), strict=True)
)
_IN_TIMM = {"resnet50_gn_ws": "resnetv2_50x1_bit", "resnet101_gn_ws": "resnetv2_101x1_bit"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A net of timm's registry and the weights to put into it.

    Attributes:
        model: Its registered name.
        model_args: Arguments of ``timm.create_model``, without the number of classes.
        formula: What it standardizes kernels with; None for plain ones.
        state_dict: Weights under its keys, in the precision of their source or in float64.
        taps: Name of a stage to the module whose output it is.
        outputs: The stages that are results.
        notes: What was done to the values, if anything.
        names: Key of ``Converted``, of what is there and of what is missing, to that of
            ``state_dict``, where they differ.
        changes: Key of ``state_dict`` to what was done to its values, one after the other.
        first_conv: Name of its stem convolution, for timm.
        classifier: Name of its classifier, for timm.
        flips_channels: It takes RGB where its source took BGR.
    """

    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    formula: str | None
    state_dict: dict[str, Tensor]
    taps: Mapping[str, str] = field(default_factory=lambda: RESNET_TAPS)
    outputs: tuple[str, ...] = ("logits",)
    notes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    first_conv: str = "conv1"
    classifier: str = "fc"
    flips_channels: bool = False

    @property
    def num_classes(self) -> int:
        return num_classes_of(self.state_dict)

    @property
    def call(self) -> str:
        """Python that builds the net."""
        arguments = "".join(f", {key}={value!r}" for key, value in self.model_args.items())
        return f"timm.create_model({self.model!r}{arguments})"

    def build(self, state_dict: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The net in eval mode and float64, holding its weights or those given.

        Raises:
            ValueError: They do not fit.
        """
        with torch.device("meta"):
            net = timm.create_model(self.model, num_classes=self.num_classes, **self.model_args)
        return lay_in(net, self.state_dict if state_dict is None else state_dict, self.model)

    def run(self, net: nn.Module, image: Tensor) -> None:
        """Call every module of ``taps``; ``net`` is this net or the one to compare it with."""
        net(image)


def taps_of_reference(architecture: str) -> Mapping[str, str]:
    """Name of a stage to the module of an independent net whose output it is."""
    return RESNETV2_TAPS if architecture.startswith("resnetv2_") else RESNET_TAPS


def target_for(converted: Converted, to: str = "wszoo") -> Target:
    """The net that runs ``converted``, and its weights.

    Args:
        converted: What ``wszoo.convert.convert_state`` made of a file.
        to: ``"wszoo"`` for the net of the same name, ``"timm"`` for one that timm alone builds.

    Raises:
        ValueError: timm has no net for it.
    """
    target = _in_timm(converted) if to == "timm" else _as_it_is(converted)
    if converted.source.card.channels == "BGR":
        target = _taking_rgb(target)
    return target


def _as_it_is(converted: Converted) -> Target:
    architecture, formula = converted.architecture, converted.source.formula
    if architecture.startswith("resnetv2_"):
        return _bit(converted)
    if formula is not None:
        return Target(
            model=architecture,
            model_args={"formula": formula},
            formula=formula,
            state_dict=converted.state_dict,
        )
    if timm.is_model(architecture):  # resnet50_gn
        return Target(model=architecture, formula=None, state_dict=converted.state_dict)
    if not timm.is_model(plain := architecture.removesuffix("_gn")):
        raise ValueError(
            f"timm has no net for a {architecture!r} with plain kernels; if these were trained "
            f"with WS, name another source"
        )
    return Target(
        model=plain,
        model_args={"norm_layer": "groupnorm"},
        formula=None,
        state_dict=converted.state_dict,
    )


def _bit(converted: Converted) -> Target:
    """BiT in timm, whose eps is another than Google's: kernels are rescaled to make up for it."""
    formula, state_dict = converted.source.formula, converted.state_dict
    assert formula is not None
    notes: tuple[str, ...] = ()
    changes: dict[str, tuple[str, ...]] = {}
    if formula != "timm_bit":
        state_dict, notes, changes = _rescaled(state_dict, formula)
    return Target(
        model=converted.architecture,
        formula="timm_bit",
        state_dict=state_dict,
        taps=RESNETV2_TAPS,
        notes=notes,
        changes=changes,
        first_conv="stem.conv",
        classifier="head.fc",
    )


def _in_timm(converted: Converted) -> Target:
    """A post-activation net as timm's ResNetV2: see ``preact``."""
    formula = converted.source.formula
    if converted.architecture not in _IN_TIMM or formula is None:
        raise ValueError(
            f"timm alone has no net for a {converted.architecture!r}; "
            f"--to timm takes {' and '.join(_IN_TIMM)}"
        )
    names = {key: _key_in_timm(key) for key in (*converted.state_dict, *converted.missing)}
    renamed = {names[key]: value for key, value in converted.state_dict.items()}
    reshaped: dict[str, tuple[str, ...]] = {}
    if "head.fc.weight" in renamed:
        renamed["head.fc.weight"] = renamed["head.fc.weight"][:, :, None, None]
        reshaped["head.fc.weight"] = ("made a 1x1 convolution",)
    state_dict, notes, changes = _rescaled(renamed, formula)
    return Target(
        model=_IN_TIMM[converted.architecture],
        model_args={"preact": False},
        formula="timm_bit",
        state_dict=state_dict,
        taps=RESNETV2_TAPS,
        notes=notes,
        names=names,
        changes=changes | reshaped,
        first_conv="stem.conv",
        classifier="head.fc",
    )


def _key_in_timm(key: str) -> str:
    if key.startswith("layer"):
        stage, block, *rest = key.split(".")
        inner = ".".join(rest)
        for ours, theirs in (
            ("downsample.0", "downsample.conv"),
            ("downsample.1", "downsample.norm"),
        ):
            inner = inner.replace(ours, theirs)
        return f"stages.{int(stage[5:]) - 1}.blocks.{block}.{inner.replace('bn', 'norm')}"
    for ours, theirs in (("conv1.", "stem.conv."), ("bn1.", "stem.norm."), ("fc.", "head.fc.")):
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise ValueError(f"{key} is no tensor of a ResNet")


def _rescaled(
    state_dict: dict[str, Tensor], formula: str
) -> tuple[dict[str, Tensor], tuple[str, ...], dict[str, tuple[str, ...]]]:
    """All tensors, the kernels among them rescaled for timm's formula; a note; what changed."""
    kernels = [k for k, v in state_dict.items() if v.ndim == 4 and not k.startswith("head.")]
    rescaled = {key: rescale_kernel(state_dict[key], formula, "timm_bit") for key in kernels}
    note = (
        f"{len(kernels)} kernels rescaled filter by filter, so that timm's WS formula (timm_bit) "
        f"makes of them what {formula} made of the published ones"
    )
    change: tuple[str, ...] = (f"rescaled from {formula} to timm_bit",)
    return {**state_dict, **rescaled}, (note,), dict.fromkeys(kernels, change)


def _taking_rgb(target: Target) -> Target:
    """Input channels of the stem turned round, so that photos need not be."""
    stem = f"{target.first_conv}.weight"
    turned = {**target.state_dict, stem: target.state_dict[stem].flip(1)}
    note = f"{stem} turned round to take RGB where the published net takes BGR"
    stem_changes = (*target.changes.get(stem, ()), "BGR to RGB")
    return replace(
        target,
        state_dict=turned,
        notes=(*target.notes, note),
        changes={**target.changes, stem: stem_changes},
        flips_channels=True,
    )
