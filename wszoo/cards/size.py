"""How large a net is: what its weights and an image in it take."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from wszoo.describe import describe
from wszoo.weights import Weights


def activations(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Values that the convolutions and the classifier of a net put out for one image.

    Counted as timm and fvcore do; ``model`` may be on the meta device.
    """
    count = 0

    def add(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal count
        count += output.numel()

    hooks = [
        module.register_forward_hook(add)
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    try:
        with torch.no_grad():
            model(torch.empty(1, *input_size, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return count


def size_rows(weights: Weights, described: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the facts of a card say of net, input and file of a record.

    Args:
        weights: The record.
        described: What ``wszoo.describe.describe`` says, where that is known already.
    """
    known = described or describe(weights.model, weights)
    with torch.device("meta"):
        model = timm.create_model(weights.model, num_classes=weights.num_classes)
    return {
        "parameters": known["params"],
        "MACs": known["MACs"],
        "activations": f"{activations(model, weights.input_size) / 1e6:.2f} M",
        "strides": known["strides"],
        "channels": known["channels"],
        "input": known["input"],
        "mean": weights.mean,
        "std": weights.std,
        "WS formula": weights.formula,
        "norm": known["norm"],
    }
