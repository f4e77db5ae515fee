"""The three systems of the document that this project grew from, in one small net.

The document ("失之交臂的灵感-卷积权重标准化") shows Weight Standardization as a PyTorch ``Conv2d``
and as TensorFlow lines, and then its author's own attempt from before the paper. What is the
document's is marked so, and is kept as it is but for types and for ``super()``; the rest is this
study's.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo import GroupNorm, WSConv2d

CHANNELS, KERNEL, FEATURES = 5, 5, 4 * 4 * 5


def pytorch_kernel(weight: Tensor) -> Tensor:
    """The kernel that the document's PyTorch ``Conv2d`` convolves with, ``(out, in, kh, kw)``."""
    # The document's lines, from its forward:
    weight_mean = (
        weight.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True).mean(dim=3, keepdim=True)
    )
    weight = weight - weight_mean
    std = weight.view(weight.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
    weight = weight / std.expand_as(weight)
    return weight


def tensorflow_kernel(kernel: Tensor) -> Tensor:
    """What the document's TensorFlow lines make of a kernel, ``(kh, kw, in, out)`` both."""
    # The document's lines, in torch's words: tf.math.reduce_mean(kernel, axis=[0, 1, 2],
    # keepdims=True), and tf.keras.backend.std, which divides by the number of values.
    kernel_mean = kernel.mean(dim=(0, 1, 2), keepdim=True)
    kernel = kernel - kernel_mean
    kernel_std = kernel.std(dim=(0, 1, 2), keepdim=True, correction=0)
    kernel = kernel / (kernel_std + 1e-5)
    return kernel


class Conv2d(nn.Conv2d):
    """The document's PyTorch form."""

    def forward(self, x: Tensor) -> Tensor:
        weight = pytorch_kernel(self.weight)
        # The document's line:
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class KernelConv2d(nn.Module):
    """A convolution around the document's TensorFlow lines; its kernel lies as TensorFlow's do."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size)  # for its random numbers
        self.kernel = nn.Parameter(conv.weight.detach().permute(2, 3, 1, 0).contiguous())
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, tensorflow_kernel(self.kernel).permute(3, 2, 0, 1), self.bias)


class Attempt(nn.Module):
    """The document's third system, its author's attempt from before the paper."""

    def __init__(self) -> None:
        super().__init__()
        # The document's lines:
        self.conv1 = nn.Conv2d(1, 5, 5, 1)
        self.conv1_bn = nn.BatchNorm2d(1)
        self.conv2 = nn.Conv2d(5, 5, 5, 1)
        self.conv2_bn = nn.BatchNorm2d(5)
        self.fc = nn.Linear(4 * 4 * 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        # The document's lines:
        self.conv1.weight.data = self.conv1_bn(self.conv1.weight.data)
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(x, 2, 2)
        self.conv2.weight.data = self.conv2_bn(self.conv2.weight.data)
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2, 2)
        x = x.view(-1, 4 * 4 * 5)
        x = self.fc(x)
        return F.log_softmax(x, dim=1)


def attempt_kernel(weight: Tensor) -> Tensor:
    """The kernel as the attempt's BatchNorm gives it in training, ``(out, in, kh, kw)``.

    BatchNorm takes the first axis for images and the second for channels, so mean and variance are
    those of each input channel, over all filters. Its own weight and bias are 1 and 0 and stay so:
    what goes through ``.data`` has no gradient.
    """
    return F.batch_norm(weight, None, None, training=True)


class ThroughConv2d(nn.Conv2d):
    """The attempt's normalization as a part of the forward pass, so that the gradient sees it.

    Nothing is written into the parameter, and no statistics are kept for evaluation.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, attempt_kernel(self.weight), self.bias)


class Net(nn.Module):
    """The net of the attempt, with any convolution and with a norm after it or none."""

    def __init__(
        self, conv: Callable[[int, int, int], nn.Module], norm: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(1, CHANNELS, KERNEL), norm()
        self.conv2, self.norm2 = conv(CHANNELS, CHANNELS, KERNEL), norm()
        self.fc = nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2, 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2, 2)
        return F.log_softmax(self.fc(x.flatten(1)), dim=1)


def _begun_at_unit_deviation() -> Net:
    """A net that sees through the normalization, from the kernels that the attempt steps from."""
    net = Net(ThroughConv2d, nn.Identity)
    with torch.no_grad():
        for name in ("conv1.weight", "conv2.weight"):
            weight = net.get_parameter(name)
            weight.copy_(attempt_kernel(weight))
    return net


def _group_norm() -> nn.Module:
    return GroupNorm(CHANNELS)  # the zoo's rule makes five channels one group


class System(NamedTuple):
    """A net that is trained.

    Attributes:
        label: In tables.
        line: In the figure.
        make: The net, with the random numbers that torch gives.
    """

    label: str
    line: str
    make: Callable[[], nn.Module]


SYSTEMS = {
    "plain": System("no normalization", "plain", lambda: Net(nn.Conv2d, nn.Identity)),
    "attempt": System("the attempt, as written", "attempt", Attempt),
    "unit": System(
        "the same in the graph, begun at deviation 1", "in the graph", _begun_at_unit_deviation
    ),
    "through": System(
        "the same in the graph", "in the graph", lambda: Net(ThroughConv2d, nn.Identity)
    ),
    "pytorch": System("the document's `Conv2d`", "Conv2d", lambda: Net(Conv2d, nn.Identity)),
    "tensorflow": System(
        "the document's TensorFlow kernel", "TensorFlow", lambda: Net(KernelConv2d, nn.Identity)
    ),
    "gn": System("GroupNorm alone", "GN", lambda: Net(nn.Conv2d, _group_norm)),
    "gn_ws": System("GroupNorm and WS", "GN+WS", lambda: Net(WSConv2d, _group_norm)),
}


def make_system(name: str, seed: int) -> nn.Module:
    """The net of a system; those of one seed start from the same numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SYSTEMS[name].make()


def plain_net(attempt: Attempt, kernels: tuple[Tensor, Tensor]) -> Net:
    """A net that is nothing but convolutions with ``kernels``, otherwise as ``attempt`` is."""
    net = Net(nn.Conv2d, nn.Identity).to(kernels[0].dtype)
    names = [name for name, _ in net.named_parameters()]
    state = {name: value for name, value in attempt.state_dict().items() if name in names}
    net.load_state_dict(state | {"conv1.weight": kernels[0], "conv2.weight": kernels[1]})
    return net.eval()
