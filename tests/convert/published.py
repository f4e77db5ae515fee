"""Foreign state dicts with the keys, shapes and order of those that were published."""

import re
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

State = dict[str, Tensor]


class AuthorsBCN(nn.Module):
    """The tensors of the authors' Batch-Channel Normalization."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 32, 1))
        self.bias = nn.Parameter(torch.zeros(1, 32, 1))
        self.pbn = nn.BatchNorm2d(num_channels)


def group_norm(num_channels: int) -> nn.Module:
    return nn.GroupNorm(32, num_channels)


def filled(state: State) -> State:
    """Values that differ everywhere, and from tensor to tensor; counters stay counters."""
    return {
        key: torch.arange(number, number + tensor.numel(), dtype=torch.float32).view(tensor.shape)
        if tensor.is_floating_point()
        else torch.tensor(7)
        for number, (key, tensor) in enumerate(state.items())
    }


def of_torchvision(name: str, norm: Callable[[int], nn.Module] = group_norm) -> State:
    """The state dict, on the meta device, of a torchvision net: the authors' order and names."""
    with torch.device("meta"):
        if name == "resnext101_32x4d":  # torchvision has the class, not the name
            kind, sizes = torchvision.models.resnet.Bottleneck, dict(groups=32, width_per_group=4)
            net = torchvision.models.ResNet(kind, [3, 4, 23, 3], norm_layer=norm, **sizes)
        else:
            net = torchvision.models.get_model(name, norm_layer=norm)
    return dict(net.state_dict())


def with_prefix(state: State, prefix: str = "module.") -> State:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def in_openmmlab_names(state: State) -> State:
    return {re.sub(r"\bbn(\d)", r"gn\1", key): tensor for key, tensor in state.items()}


def detectron_keys(depths: tuple[int, ...]) -> list[str]:
    """Blobs of R-50-GN.pkl and R-101-GN.pkl, in the order of the net."""
    keys = ["conv1_w", "conv1_gn_s", "conv1_gn_b"]
    for stage, depth in enumerate(depths, start=2):
        for block in range(depth):
            branches = ["branch2a", "branch2b", "branch2c", *(["branch1"] if block == 0 else [])]
            for branch in branches:
                keys += [f"res{stage}_{block}_{branch}_{end}" for end in ("w", "gn_s", "gn_b")]
    return [*keys, "pred_w", "pred_b"]


def mmdet_detector(name: str, *, has_masks: bool = True, num_classes: int = 80) -> State:
    """A detector of mmdetection's configs/gn+ws, on the meta device: its keys in its order."""
    backbone = in_openmmlab_names(of_torchvision(name))
    state = {f"backbone.{k}": v for k, v in backbone.items() if not k.startswith("fc.")}

    def add(key: str, *shape: int) -> None:
        state[key] = torch.empty(shape, device="meta")

    def conv_norm(path: str, *shape: int) -> None:
        add(f"{path}.conv.weight", *shape)
        add(f"{path}.gn.weight", shape[0])
        add(f"{path}.gn.bias", shape[0])

    def layer(path: str, *shape: int, bias: int | None = None) -> None:
        add(f"{path}.weight", *shape)
        add(f"{path}.bias", bias or shape[0])

    for i, channels in enumerate((256, 512, 1024, 2048)):
        conv_norm(f"neck.lateral_convs.{i}", 256, channels, 1, 1)
    for i in range(4):
        conv_norm(f"neck.fpn_convs.{i}", 256, 256, 3, 3)
    layer("rpn_head.rpn_conv", 256, 256, 3, 3)
    layer("rpn_head.rpn_cls", 3, 256, 1, 1)
    layer("rpn_head.rpn_reg", 12, 256, 1, 1)
    layer("roi_head.bbox_head.fc_cls", num_classes + 1, 1024)
    layer("roi_head.bbox_head.fc_reg", 4 * num_classes, 1024)
    for i in range(4):
        conv_norm(f"roi_head.bbox_head.shared_convs.{i}", 256, 256, 3, 3)
    layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7)
    if has_masks:
        for i in range(4):
            conv_norm(f"roi_head.mask_head.convs.{i}", 256, 256, 3, 3)
        layer("roi_head.mask_head.upsample", 256, 256, 2, 2)
        layer("roi_head.mask_head.conv_logits", num_classes, 256, 1, 1)
    return state
