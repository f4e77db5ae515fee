"""What all constructors of detectors share: arguments checked before, the model checked after."""

import inspect
import logging
from difflib import get_close_matches
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wszoo.backbone import Backbone
from wszoo.detection.inputs import InputCheck
from wszoo.layers import BatchChannelNorm

Detector = TypeVar("Detector", bound=nn.Module)

_logger = logging.getLogger(__name__)

_GROUPS = 32
_OURS = {"self", "backbone", "num_classes", "min_size", "max_size", "kwargs"}
_PREDICTORS = ("rpn.head", "roi_heads.box_predictor", "head")  # of torchvision's detectors
_OF_TRANSFORM = {"size_divisible", "fixed_size"}  # torchvision hands these on


def checked_arguments(
    name: str, detector: Any, kwargs: dict[str, Any], *, num_classes: int, pyramid_channels: int
) -> dict[str, Any]:
    """Refuse what torchvision would swallow or fail on later.

    Args:
        name: Of the constructor, for messages.
        detector: torchvision's class, which takes ``kwargs``.

    Returns:
        ``kwargs`` without those that are None, torchvision's word for a default.

    Raises:
        TypeError: torchvision's class takes no such argument.
        ValueError: A number makes no sense.
    """
    known = (set(inspect.signature(detector.__init__).parameters) | _OF_TRANSFORM) - _OURS
    for argument in kwargs:
        if argument not in known:
            near = get_close_matches(argument, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see {detector.__name__}"
            raise TypeError(f"{name}() takes no argument {argument!r}, torchvision neither; {hint}")
    if num_classes < 2:
        raise ValueError(
            f"num_classes={num_classes} leaves no class beside the background, which is counted "
            f"as torchvision does; pass 2 for one kind of object"
        )
    if pyramid_channels < _GROUPS or pyramid_channels % _GROUPS:
        raise ValueError(
            f"pyramid_channels must be a multiple of {_GROUPS}, the groups of a GroupNorm, "
            f"got {pyramid_channels}"
        )
    return {argument: value for argument, value in kwargs.items() if value is not None}


def normalisation(backbone: Backbone, kwargs: dict[str, Any]) -> dict[str, list[float]]:
    """Mean and std of the backbone's weights, or with a warning those in ``kwargs``.

    Raises:
        ValueError: ``kwargs`` has another number of them than there are channels.
    """
    result = {"image_mean": list(backbone.mean), "image_std": list(backbone.std)}
    for key, expected in result.items():
        given = list(kwargs.get(key, expected))
        if len(given) != backbone.in_chans:
            raise ValueError(
                f"{key} has {len(given)} values for {backbone.in_chans} channels; give one each"
            )
        if given != expected:
            weights = f"the weights of {backbone.name}, {expected}"
            _logger.warning("%s=%s is not that of %s", key, given, weights)
            result[key] = given
    return result


def finish(model: Detector, check: InputCheck) -> Detector:
    """Make sure that no BatchNorm came in, and check every input from now on.

    Boxes are decoded in float32 whatever the autocast: torchvision casts anchors to the type of
    what is predicted, and eight bits cannot tell two pixels apart beyond the 256th.

    Raises:
        ValueError: There is a BatchNorm beside the backbone, which refuses its own.
    """
    found = batch_norms_beside_body(model)
    if found:
        raise ValueError(
            f"{len(found)} BatchNorm in {check.detector}, first {found[0]}, which fails on small "
            f"batches; call wszoo.to_group_norm on the part that was passed in"
        )
    model.register_forward_pre_hook(check, with_kwargs=True)
    for path, module in model.named_modules():
        if path in _PREDICTORS:
            module.register_forward_hook(_in_float32)
    return model


def _in_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """A forward hook: the same, with floating tensors in float32 at least."""
    return _widened(output)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, dict):
        return {key: _widened(each) for key, each in value.items()}
    return type(value)(_widened(each) for each in value)


def batch_norms_beside_body(model: nn.Module) -> list[str]:
    """Paths of all BatchNorm layers but those in the backbone's body."""
    own = {m.bn for m in model.modules() if isinstance(m, BatchChannelNorm)}
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module not in own
        and not path.startswith("backbone.body.")
    ]
