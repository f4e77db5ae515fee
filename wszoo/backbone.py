"""Backbones: the feature maps of a net, for detectors and segmenters to build on."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import chain, cycle, islice
from typing import Any

import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from wszoo import ws_resnet as _registers_the_variants  # noqa: F401
from wszoo.layers import (
    FORMULAS,
    BatchChannelNorm,
    WSConv2d,
    WSFormula,
    freeze,
    refuse_folded,
    unfreeze,
)
from wszoo.lint import lint
from wszoo.memory import Memory, require_memory, save_memory

_TRAINABLE_STAGES = 3  # of pretrained nets, as in torchvision's detectors


class Backbone(nn.Module):
    """Feature maps of a net, and what a detector or segmenter has to know of it.

    ``load_backbone`` makes it. State-dict keys are ``body.`` and timm's.

    Attributes:
        name: As timm knows the net.
        body: timm's ``features_only`` net.
        out_channels: Channels of each feature map.
        strides: Pixels of the image per pixel of each feature map.
        out_indices: Which feature maps of the net these are.
        mean: Per channel of images in 0..1, to be subtracted before ``forward``.
        std: To be divided by, likewise.
        in_chans: Channels of the images.
        trainable_stages: Stages that train, counted from the last one.

    Shape:
        Normalized images ``(N, in_chans, H, W)`` to a list of
        ``(N, out_channels[i], H / strides[i], W / strides[i])``, rounded up in timm's ResNets.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        in_chans: int,
    ) -> None:
        super().__init__()
        maps: Any = body.feature_info
        self.name = name
        self.body = body
        self.out_channels: tuple[int, ...] = tuple(maps.channels())
        self.strides: tuple[int, ...] = tuple(maps.reduction())
        self.out_indices: tuple[int, ...] = tuple(maps.out_indices)
        self.mean = mean
        self.std = std
        self.in_chans = in_chans
        self.trainable_stages = self.num_stages = len(maps)
        self._frozen: tuple[str, ...] = ()  # paths in the body: folding replaces modules

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body(x)

    def train(self, mode: bool = True) -> "Backbone":
        """As for ``nn.Module``, but frozen stages stay in eval mode, and a folded net refuses."""
        if mode:
            refuse_folded(self, "trained")
        super().train(mode)
        for path in self._frozen:
            self.body.get_submodule(path).eval()
        return self

    def set_trainable_stages(self, trainable_stages: int) -> None:
        """Freeze all stages but the last ``trainable_stages``, and let those train.

        Counted as torchvision counts ``trainable_backbone_layers``: in a ResNet, 5 is everything,
        4 all but the stem, 3 all but the stem and ``layer1``, 0 nothing. A net with other feature
        maps has as many stages as maps, the stem being part of the first one. Stages of which
        ``out_indices`` asks no map are counted, too.

        Raises:
            ValueError: There are not that many stages, or timm's description of the net does not
                tell which of its layers belong to which stage.
        """
        if not 0 <= trainable_stages <= self.num_stages:
            raise ValueError(
                f"trainable_stages of {self.name!r} must be within 0..{self.num_stages}, "
                f"got {trainable_stages}"
            )
        if trainable_stages == 0:
            frozen: tuple[str, ...] = ("",)  # everything, wherever its stages begin and end
        elif trainable_stages == self.num_stages:
            frozen = ()
        else:
            frozen = tuple(chain(*self._stages()[: self.num_stages - trainable_stages]))
        unfreeze(self.body)
        for path in frozen:
            freeze(self.body.get_submodule(path))
        self._frozen = frozen
        self.trainable_stages = trainable_stages
        self.train(self.training)

    def _stages(self) -> list[list[str]]:
        """Paths of the modules of each stage, told by the order of registration."""
        maps: Any = self.body.feature_info
        ends = [info["module"] for info in maps.info]
        root = "model." if isinstance(self.body, FeatureGetterNet) else ""
        stages: list[list[str]] = [[] for _ in ends]
        reached = 0
        for path in _undivided(self.body.get_submodule(root[:-1]), ends):
            stages[min(reached, len(ends) - 1)].append(root + path)
            if reached < len(ends) and path in _spellings(ends[reached]):
                reached += 1
        if reached <= max(self.out_indices):
            raise ValueError(
                f"the stages of {self.name!r} cannot be told apart; "
                f"use trainable_stages=0 or {self.num_stages}"
            )
        return stages

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory: compute activations inside of stages again in the backward pass.

        This is timm's way, for any of its nets. In ResNets ``wszoo.memory.save_memory`` keeps as
        little for less time, and has levels between.

        Raises:
            ValueError: timm has no checkpoints for this net.
        """
        body: Any = self.body
        if not hasattr(body, "set_grad_checkpointing"):
            raise ValueError(f"{self.name!r} has no gradient checkpointing; leave it off")
        body.set_grad_checkpointing(enable)

    def norm_census(self) -> dict[str, int]:
        """Class name of each kind of norm to how many there are, see ``wszoo.lint``."""
        return lint(self).norms

    def extra_repr(self) -> str:
        return f"{self.name!r}, trainable_stages={self.trainable_stages}"


def _undivided(module: nn.Module, ends: list[str], path: str = "") -> Iterator[str]:
    """Paths of the largest modules that hold no end of a stage inside, in order.

    Nothing at all where a module that has to be divided owns tensors itself: they are of no stage.
    """
    if any(True for _ in module.parameters(recurse=False)):
        return
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if any(end.startswith(f"{inner}.") for end in ends):
            yield from _undivided(child, ends, inner)
        else:
            yield inner


def _spellings(path: str) -> tuple[str, str]:
    """As a path stands and as timm writes it where it has taken a Sequential apart."""
    return path, path.replace(".", "_")


def load_backbone(
    name: str,
    *,
    pretrained: bool = True,
    trainable_stages: int | None = None,
    in_chans: int = 3,
    output_stride: int = 32,
    out_indices: tuple[int, ...] = (1, 2, 3, 4),
    allow_batch_norm: bool = False,
    memory: Memory = "fast",
    **kwargs: Any,
) -> Backbone:
    """Load a net without its classifier, ready to sit under a pyramid or a decoder.

    Args:
        name: A variant of this zoo, with a tag or without, or any model of timm.
        pretrained: Load the weights of that tag; False leaves random ones.
        trainable_stages: See ``Backbone.set_trainable_stages``. By default 3 when pretrained, all
            when not: random weights are never frozen.
        in_chans: Channels of the images. The mean and std of weights over three channels become
            their averages for one channel, and are repeated for any other number.
        output_stride: 32, or 16 or 8 to trade stride for dilation in the last stages.
        out_indices: Which feature maps, ascending; in a ResNet 0 is the stem's, of stride 2.
        allow_batch_norm: Take a net with BatchNorm all the same.
        memory: ``"fast"``, or ``"lean"``, ``"small"`` or ``"smallest"`` to trade time for memory in
            training; see ``wszoo.memory.save_memory``.
        **kwargs: For ``timm.create_model``, e.g. ``drop_path_rate``.

    Raises:
        FileNotFoundError: The weights are nowhere to be found.
        ValueError: There is no such net, it lacks what was asked for, or it has BatchNorm.

    Example:
        >>> backbone = load_backbone("test_resnet_gn_ws", trainable_stages=2)
        >>> backbone.out_channels, backbone.strides
        ((16, 32, 64, 128), (4, 8, 16, 32))
        >>> [tuple(map.shape) for map in backbone(torch.randn(1, 3, 64, 64))]
        [(1, 16, 16, 16), (1, 32, 8, 8), (1, 64, 4, 4), (1, 128, 2, 2)]
    """
    _require_name(name)
    require_memory(memory)
    if in_chans < 1:
        raise ValueError(f"in_chans must be at least 1, got {in_chans}")
    options = kwargs | {"in_chans": in_chans}
    with torch.device("meta"):  # to find fault before anything is downloaded
        draft = _create_dilated(name, output_stride, options)
    _require_maps(name, draft, out_indices)
    if not allow_batch_norm:
        _require_no_batch_norm(name, draft)
    save_memory(draft, memory)
    stages = len(draft.feature_info)
    if trainable_stages is None:
        trainable_stages = min(_TRAINABLE_STAGES, stages) if pretrained else stages
    if not pretrained and trainable_stages < stages:
        raise ValueError(
            f"cannot freeze random weights: trainable_stages={trainable_stages} of {name!r} "
            f"would train on noise; pass pretrained=True, or leave trainable_stages out"
        )
    options |= {"pretrained": pretrained, "out_indices": out_indices}
    body = _create_dilated(name, output_stride, options)
    backbone = Backbone(
        name,
        body,
        mean=_for_channels(body.pretrained_cfg["mean"], in_chans),
        std=_for_channels(body.pretrained_cfg["std"], in_chans),
        in_chans=in_chans,
    )
    backbone.set_trainable_stages(trainable_stages)
    return save_memory(backbone, memory)


def _require_name(name: str) -> None:
    if ":" in name or timm.is_model(name):  # hf-hub:, local-dir:
        return
    model = name.split(".")[0]
    close = ", ".join(get_close_matches(model, timm.list_models(), n=3)) or "see timm.list_models()"
    raise ValueError(f"timm knows no model {model!r}; similar ones: {close}")


def _create_dilated(name: str, output_stride: int, options: dict[str, Any]) -> Any:
    """A ``features_only`` net whose last maps have ``output_stride``."""
    if output_stride == 32:  # what nets have, and many do not take it as an argument
        return _create(name, options)
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
    try:
        body = _create(name, options | {"output_stride": output_stride})
    except (TypeError, AssertionError) as error:
        if isinstance(error, TypeError) and "output_stride" not in str(error):
            raise
        raise ValueError(f"{name!r} has no dilated form; use output_stride=32") from error
    strides = [info["reduction"] for info in body.feature_info.info]
    if max(strides) > output_stride:
        raise ValueError(
            f"{name!r} keeps its strides {strides} at output_stride={output_stride}; use 32"
        )
    return body


def _create(name: str, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, features_only=True, **options)
    except RuntimeError as error:  # timm's word for what the caller asked wrongly
        if type(error) is not RuntimeError:
            raise
        raise ValueError(f"cannot load {name!r} as a backbone: {error}") from error


def _require_maps(name: str, body: Any, out_indices: tuple[int, ...]) -> None:
    strides = [info["reduction"] for info in body.feature_info.info]
    ascending = sorted(set(out_indices).intersection(range(len(strides))))
    if not out_indices or list(out_indices) != ascending:
        raise ValueError(
            f"out_indices of {name!r} must ascend within 0..{len(strides) - 1}, got "
            f"{tuple(out_indices)}; its feature maps have strides {strides}"
        )
    if getattr(body, "output_fmt", "NCHW") != "NCHW":
        raise ValueError(
            f"the feature maps of {name!r} have their channels last; pass feature_cls='getter'"
        )


def _require_no_batch_norm(name: str, body: nn.Module) -> None:
    own = {norm.bn for norm in body.modules() if isinstance(norm, BatchChannelNorm)}
    kinds = [m for m in body.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    count = len([norm for norm in kinds if norm not in own])
    if count:
        raise ValueError(
            f"{name!r} has {count} BatchNorm layers, whose statistics are noise at one to four "
            f"images per step; take a '*_gn_ws' variant, or pass allow_batch_norm=True"
        )


def formula_of(body: nn.Module) -> WSFormula:
    """The WS formula of a net, so that what is put on top uses the same; ``jhu`` where it has none.

    One formula for a whole detector or segmenter is what makes ``fold`` and ``lint`` simple.
    """
    for module in body.modules():
        if isinstance(module, WSConv2d):
            return module.formula
    return FORMULAS["jhu"]


def _for_channels(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    if len(values) == in_chans:
        return tuple(values)
    if in_chans == 1:
        return (sum(values) / len(values),)
    return tuple(islice(cycle(values), in_chans))
