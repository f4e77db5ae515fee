"""A layer to keep the kernel of, what it should compute, and how often it standardizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from wszoo.layers import FORMULAS, WSConv2d, refresh, standardize_weight


class Standardizations(TorchDispatchMode):
    """Counts how often kernels are standardized: normalized with a group per channel."""

    def __init__(self, name: str = "native_group_norm") -> None:
        super().__init__()
        self.name, self.count = name, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ == self.name:
            *_, channels, _, groups, _ = args
            self.count += channels == groups
        return func(*args, **(kwargs or {}))


def standardizations(run: Callable[[], object]) -> int:
    """How often ``run`` standardizes a kernel."""
    with Standardizations() as counter:
        run()
    return counter.count


def make_layer(formula: str = "jhu") -> WSConv2d:
    """Of filters small enough for the formulas to differ."""
    layer = WSConv2d(16, 8, 3, padding=1, formula=formula)
    with torch.no_grad():
        layer.weight.mul_(1e-2)
    return layer


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def live(layer: WSConv2d, x: Tensor) -> Tensor:
    """What the layer should compute, from its raw kernel and nothing else."""
    with torch.no_grad():
        kernel = standardize_weight(layer.weight.detach(), layer.formula)
        return nn.functional.conv2d(x, kernel, layer.bias, layer.stride, layer.padding)


def _load(layer: WSConv2d, *, assign: bool = False) -> None:
    layer.load_state_dict(WSConv2d(16, 8, 3).state_dict(), assign=assign)


def _write(layer: WSConv2d) -> None:
    with torch.no_grad():
        layer.weight[3].normal_()


def _write_in_inference_mode(layer: WSConv2d) -> None:
    with torch.inference_mode():
        layer.weight[3].normal_()


def _set_data(layer: WSConv2d) -> None:
    layer.weight.data = torch.randn(8, 16, 3, 3)


def _turn_data(layer: WSConv2d) -> None:
    layer.weight.data = layer.weight.data.transpose(2, 3)


def _set_data_twice(layer: WSConv2d) -> None:
    """Without a kept reference the second lies where the weight lay, and passes for it."""
    for _ in range(2):
        vector_to_parameters(torch.randn(8 * 16 * 9 + 8), layer.parameters())


def _replace(layer: WSConv2d) -> None:
    layer.weight = nn.Parameter(torch.randn(8, 16, 3, 3), requires_grad=False)


def _refresh(layer: WSConv2d) -> None:
    layer.weight.data[3].normal_()
    layer.weight.detach().numpy()[4] += layer.weight.detach().numpy()[5]
    refresh(layer)


def _set_formula(layer: WSConv2d) -> None:
    layer.formula = FORMULAS["bcn"]


CHANGES: dict[str, Callable[[Any], object]] = {
    "load": _load,
    "assign": lambda layer: _load(layer, assign=True),
    "write": _write,
    "write in inference mode": _write_in_inference_mode,
    "data": _set_data,
    "turned data": _turn_data,
    "data twice": _set_data_twice,
    "replace": _replace,
    "refresh": _refresh,
    "formula": _set_formula,
    "half and back": lambda layer: layer.half().float(),  # may lie where it lay before
    "layout": lambda layer: layer.to(memory_format=torch.channels_last),
    "empty": lambda layer: layer.to_empty(device="meta").to_empty(device="cpu").reset_parameters(),
}


def _exported(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.export.export(layer, (image(),)).module()


GRAPHS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "script": torch.jit.script,
    "trace": lambda layer: torch.jit.trace(layer, image()),
    "fx": torch.fx.symbolic_trace,
    "compile": lambda layer: torch.compile(layer, backend="eager", fullgraph=True),
    "export": _exported,
}
