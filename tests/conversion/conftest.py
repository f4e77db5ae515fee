"""Random weights of whole nets, whose filters have the scale that a test asks for."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor

RandomWeights = Callable[..., dict[str, Tensor]]


@pytest.fixture(scope="session")
def random_weights() -> RandomWeights:
    return make_random_weights


def make_random_weights(architecture: str, scale: str, num_classes: int = 10) -> dict[str, Tensor]:
    """Raw weights with filters of that deviation, and norms that do something."""
    with torch.device("meta"):
        shapes = timm.create_model(architecture, num_classes=num_classes).state_dict()
    weights = {}
    for key, shape in shapes.items():
        value = torch.randn(shape.shape)
        if value.ndim == 4:
            deviations = torch.randn(len(value), 1, 1, 1).exp() * 0.01
            value *= deviations if scale == "log-normal" else float(scale)
        elif key.startswith("fc"):
            value *= 0.02
        elif key.endswith("running_var"):
            value = value.square() + 0.5
        elif key.endswith("num_batches_tracked"):
            value = torch.zeros((), dtype=torch.long)
        elif key.endswith("weight"):
            value = 1 + 0.2 * value
        else:
            value = 0.2 * value
        weights[key] = value
    return weights
