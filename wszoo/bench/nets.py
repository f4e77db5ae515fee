"""The nets that are compared: ours, and the same architecture as its peers build it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers.norm import GroupNorm
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from wszoo.layers import GroupNorm as OurGroupNorm
from wszoo.layers import WSConv2d, groups_for
from wszoo.ws_resnet import WSResNet

PRECISIONS = ("fp32", "bf16")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
IMAGE_SIZE = 224  # pixels


def timm_standardize(weight: Tensor) -> Tensor:
    """What ``timm.layers.StdConv2d.forward`` does to its kernel, with its default eps."""
    rows = weight.reshape(1, weight.shape[0], -1)
    return F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(weight)


def paper_standardize(weight: Tensor) -> Tensor:
    """What the code of the paper does to its kernel.

    It says ``view`` for ``reshape``, which channels_last kernels refuse.

    Source: https://github.com/joe-siyuan-qiao/WeightStandardization
    """
    mean = weight.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True).mean(dim=3, keepdim=True)
    weight = weight - mean
    std = weight.reshape(weight.shape[0], -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
    return weight / std.expand_as(weight)


class PaperConv2d(nn.Conv2d):
    """The convolution of the paper's code."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, paper_standardize(self.weight), self.bias)


def _group_norm(num_channels: int, **kwargs: Any) -> GroupNorm:
    """The norm of timm, with as many groups as ours where 32 do not divide the channels."""
    return GroupNorm(num_channels, groups_for(num_channels), **kwargs)


class Peer(NamedTuple):
    """A way to build the architecture: what rows call it, its convolution, norm and operator."""

    label: str
    conv: type[nn.Conv2d]
    norm_layer: Callable[..., nn.Module]
    standardize: Callable[[Tensor], Tensor] | None


PEERS = {
    "timm": Peer("StdConv2d", StdConv2d, _group_norm, timm_standardize),
    "paper": Peer("paper's WS", PaperConv2d, _group_norm, paper_standardize),
    "bn": Peer("BatchNorm", nn.Conv2d, nn.BatchNorm2d, None),
}


STOCK = "stock"
STOCK_LABEL = "PyTorch's GroupNorm in its better layout"


def make_ours(variant: str) -> WSResNet:
    """A net of this zoo in eval mode, with random weights.

    Raises:
        ValueError: There is no such variant.
    """
    if variant not in timm.list_models(module="ws_resnet"):
        raise ValueError(f"{variant!r} is no variant of this zoo; `wszoo list` shows them")
    model = timm.create_model(variant).eval()
    assert isinstance(model, WSResNet)
    return model


def make_twin(model: WSResNet, variant: str, peer: str = "timm") -> nn.Module:
    """The same architecture from the layers of a peer, sharing kernels and head with ``model``.

    Args:
        model: The net that shares its weights.
        variant: What ``model`` was created as.
        peer: One of ``PEERS``.
    """
    kind = PEERS[peer]
    twin: nn.Module = timm.create_model(variant, norm_layer=kind.norm_layer)
    for path, layer in model.named_modules():
        if isinstance(layer, WSConv2d):
            twin.set_submodule(path, _like(layer, kind.conv))
    twin.set_submodule("fc", model.get_submodule("fc"))
    return twin.eval()


def _like(layer: WSConv2d, kind: type[nn.Conv2d]) -> nn.Conv2d:
    twin = kind(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    twin.weight, twin.bias = layer.weight, layer.bias
    return twin


def make_net(kind: str, variant: str) -> nn.Module:
    """``"ours"`` or the net of a peer, in training mode, with weights of its own.

    ``STOCK`` is ours but for its norms, which are PyTorch's.
    """
    if kind == STOCK:
        stock: nn.Module = timm.create_model(variant, norm_layer=_group_norm)
        return stock.train()
    ours = make_ours(variant)
    return (ours if kind == "ours" else make_twin(ours, variant, kind)).train()


def kind_of(label: str) -> str:
    """The kind of net that rows call ``label``."""
    return next(name for name, peer in PEERS.items() if peer.label == label)


def has_group_norm(variant: str) -> bool:
    """Whether the norms of a variant are this zoo's ``GroupNorm``."""
    return any(isinstance(layer, OurGroupNorm) for layer in make_ours(variant).modules())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a pass in ``precision``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def random_images(batch: int, layout: str, device: torch.device, size: int = IMAGE_SIZE) -> Tensor:
    """Images to compute on, of shape ``(batch, 3, size, size)``."""
    images = torch.randn(batch, 3, size, size, device=device)
    return images.contiguous(memory_format=LAYOUTS[layout])


def trainer(net: nn.Module, precision: str) -> Callable[[Tensor], None]:
    """A training step of ``net`` on given images: forward, backward, SGD with momentum."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        loss_of(net, images, precision).backward()
        optimizer.step()

    return step


def loss_of(net: nn.Module, images: Tensor, precision: str) -> Tensor:
    """What a step goes back from; each image is of a class of its own."""
    targets = torch.arange(len(images), device=images.device)
    with autocast(images.device, precision):
        return F.cross_entropy(net(images), targets)


def in_layout(net: nn.Module, device: torch.device, layout: str) -> nn.Module:
    """``net`` itself, moved and laid out so."""
    return net.to(device).to(memory_format=LAYOUTS[layout])
