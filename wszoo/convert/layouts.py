"""How each family names and lays out the tensors of a net, and which net a state dict holds."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wszoo.convert.architecture import BIT_NETS, RESNETS, Layer, Net
from wszoo.layers import groups_for


class Change(NamedTuple):
    """What is done to the values of a tensor on the way to our layout and back."""

    name: str
    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


AS_IS = Change("as it is", lambda tensor: tensor, lambda tensor: tensor)
HWIO = Change("HWIO to OIHW", lambda k: k.permute(3, 2, 0, 1), lambda k: k.permute(2, 3, 1, 0))
TRANSPOSED = Change("transposed", lambda matrix: matrix.t(), lambda matrix: matrix.t())


@dataclass(frozen=True)
class Entry:
    """One tensor under both names, with the shape it has here."""

    theirs: str
    ours: str
    shape: tuple[int, ...]
    change: Change = AS_IS
    optional: bool = False  # the classifier, which backbones come without

    @property
    def their_shape(self) -> tuple[int, ...]:
        if self.change is AS_IS:
            return self.shape
        return tuple(self.change.to_theirs(torch.empty(self.shape, device="meta")).shape)


Layout = Callable[[Layer], Iterator[Entry]]


def _entries(
    layer: Layer, theirs: str, names: Mapping[str, str], change: Change
) -> Iterator[Entry]:
    """Weight and, if ``names`` has it, bias of a layer that they call ``theirs``."""
    is_classifier = layer.kind == "classifier"
    yield Entry(
        f"{theirs}{names['weight']}", f"{layer.name}.weight", layer.shape, change, is_classifier
    )
    if layer.kind != "conv":
        shape = layer.shape[:1]
        yield Entry(f"{theirs}{names['bias']}", f"{layer.name}.bias", shape, optional=is_classifier)


_TORCH = {"weight": ".weight", "bias": ".bias"}


def timm_layout(layer: Layer) -> Iterator[Entry]:
    """The names of timm, which are those of torchvision and of the authors' nets."""
    return _entries(layer, layer.name, _TORCH, AS_IS)


def openmmlab_layout(layer: Layer) -> Iterator[Entry]:
    """Norms of a block are gn1 to gn3; that of a shortcut stays downsample.1."""
    return _entries(layer, re.sub(r"\bbn(\d)$", r"gn\1", layer.name), _TORCH, AS_IS)


def bcn_layout(layer: Layer) -> Iterator[Entry]:
    """Each norm has an affine per group, and a BatchNorm ``pbn`` inside."""
    if layer.kind != "norm":
        yield from timm_layout(layer)
        return
    (channels,) = layer.shape
    for name in ("weight", "bias"):
        yield Entry(f"{layer.name}.{name}", f"{layer.name}.{name}", (1, groups_for(channels), 1))
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        shape = () if name == "num_batches_tracked" else layer.shape
        yield Entry(f"{layer.name}.pbn.{name}", f"{layer.name}.bn.{name}", shape)


def detectron_layout(layer: Layer) -> Iterator[Entry]:
    """Caffe2's blobs: res2_0_branch2a_w, res2_0_branch2a_gn_s, res2_0_branch1_w, pred_w."""
    suffixes = {"weight": "_gn_s", "bias": "_gn_b"} if layer.kind == "norm" else {}
    return _entries(layer, _detectron_name(layer), {"weight": "_w", "bias": "_b"} | suffixes, AS_IS)


def _detectron_name(layer: Layer) -> str:
    if layer.kind == "classifier":
        return "pred"
    stage, *rest = layer.name.split(".")
    if not rest:  # conv1 and bn1, of the stem
        return "conv1"
    block, *inner = rest
    branch = "branch1" if inner[0] == "downsample" else f"branch2{'abc'[int(inner[0][-1]) - 1]}"
    return f"res{int(stage.removeprefix('layer')) + 1}_{block}_{branch}"


def tensorflow_layout(layer: Layer) -> Iterator[Entry]:
    """Our names with slashes, the variables named and laid out as TensorFlow does."""
    names = {"weight": "/kernel", "bias": "/bias"}
    if layer.kind == "norm":
        names = {"weight": "/gamma", "bias": "/beta"}
    change = {"conv": HWIO, "norm": AS_IS, "classifier": TRANSPOSED}[layer.kind]
    return _entries(layer, layer.name.replace(".", "/"), names, change)


def google_bit_layout(layer: Layer) -> Iterator[Entry]:
    """Names of Google's .npz: resnet/block1/unit01/a/standardized_conv2d/kernel."""
    if layer.kind == "classifier":
        names, change = {"weight": "/kernel", "bias": "/bias"}, HWIO
        return _entries(layer, "resnet/head/conv2d", names, change)
    path = f"resnet{_google_path(layer.name)}"
    if layer.kind == "norm":
        names = {"weight": "/group_norm/gamma", "bias": "/group_norm/beta"}
        return _entries(layer, path, names, AS_IS)
    return _entries(layer, path, {"weight": "/standardized_conv2d/kernel"}, HWIO)


def _google_path(name: str) -> str:
    if not name.startswith("stages."):
        return "/root_block" if name == "stem.conv" else ""  # the last norm has no path
    _, stage, _, block, inner, *_ = name.split(".")
    part = "a/proj" if inner == "downsample" else "abc"[int(inner[-1]) - 1]
    return f"/block{int(stage) + 1}/unit{int(block) + 1:02d}/{part}"


LAYOUTS: dict[str, tuple[Layout, Mapping[str, Net]]] = {
    "timm": (timm_layout, RESNETS),
    "openmmlab": (openmmlab_layout, RESNETS),
    "bcn": (bcn_layout, RESNETS),
    "detectron": (detectron_layout, RESNETS),
    "tensorflow": (tensorflow_layout, RESNETS),
    "timm_bit": (timm_layout, BIT_NETS),
    "google_bit": (google_bit_layout, BIT_NETS),
}


class Fit(NamedTuple):
    """The net that a state dict holds.

    Attributes:
        name: Of the net, without what its norms and kernels add to it.
        entries: Its tensors that are there, in the net's order.
        missing: Our keys of a classifier that is not there.
    """

    name: str
    entries: list[Entry]
    missing: tuple[str, ...]


def fit(state: Mapping[str, Tensor], layout: str, *, by: str = "theirs") -> Fit:
    """Find the net whose tensors are exactly those of ``state``, but for a classifier.

    Args:
        state: Tensors under the keys of the layout, or under ours.
        layout: Key of ``LAYOUTS``.
        by: ``"theirs"`` or ``"ours"``, whose keys and shapes to compare.

    Raises:
        ValueError: There is none; the message says how the closest one differs.
    """
    rename, nets = LAYOUTS[layout]
    closest: tuple[int, str] | None = None
    for name, net in nets.items():
        every = [
            entry
            for layer in net.layers(_classes(state, by, net, rename))
            for entry in rename(layer)
        ]
        has_head = any(e.optional and key_of(e, by) in state for e in every)
        entries = [e for e in every if has_head or not e.optional]
        if not (differences := differences_of(state, entries, by=by)):
            return Fit(name, entries, tuple(e.ours for e in every if e.optional and not has_head))
        if closest is None or len(differences) < closest[0]:
            closest = len(differences), f"{name}: {summary_of(differences)}"
    assert closest is not None
    raise ValueError(f"the tensors fit no known net; the closest is {closest[1]}")


def _classes(state: Mapping[str, Tensor], by: str, net: Net, rename: Layout) -> int:
    """Length of the classifier's bias, which is a vector in every layout."""
    *_, classifier = net.layers(0)
    *_, bias = rename(classifier)
    found = state.get(key_of(bias, by))
    return len(found) if found is not None and found.ndim == 1 else 1


def key_of(entry: Entry, by: str) -> str:
    """The name that "theirs" or "ours" is."""
    return entry.theirs if by == "theirs" else entry.ours


def differences_of(
    state: Mapping[str, Tensor], entries: list[Entry], *, by: str = "theirs"
) -> list[str]:
    """What keeps ``state`` from being exactly ``entries``, a few words each."""
    wanted = {key_of(entry, by): entry for entry in entries}
    lacking = [f"{key} is missing" for key in wanted if key not in state]
    unknown = [f"{key} is unknown" for key in state if key not in wanted]
    misshapen = []
    for key, entry in wanted.items():
        right = entry.their_shape if by == "theirs" else entry.shape
        if key in state and (found := tuple(state[key].shape)) != right:
            misshapen.append(f"{key} has shape {found}, not {right}")
    return [*lacking, *unknown, *misshapen]


def summary_of(differences: list[str]) -> str:
    """The first few, and how many there are."""
    more = len(differences) - 3
    return "; ".join(differences[:3]) + (f"; and {more} more" if more > 0 else "")
