from functools import partial

import pytest
import torch
from torch import nn

from wszoo.bench.nets import PEERS, in_layout, make_net, random_images, trainer
from wszoo.bench.shares import _marked, allocation_of, shares_of
from wszoo.layers import BatchChannelNorm, WSConv2d

TINY = "test_resnet_gn_ws"
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["ours", *PEERS])
def test_a_step_is_shared_out_to_what_its_layers_do_in_both_directions(kind: str) -> None:
    net = in_layout(make_net(kind, TINY), CPU, "channels_last")
    step = trainer(net, "fp32")

    (parts,) = shares_of([(net, partial(step, random_images(2, "channels_last", CPU, 64)))], 1)

    assert [*parts] == ["convolution", "norm", "WS", "rest"]
    assert (parts["WS"] > 0) == (kind != "bn")
    assert min(parts["convolution"], parts["norm"], parts["rest"]) > 0


def test_what_a_backward_pass_takes_goes_to_the_part_that_it_differentiates() -> None:
    net = nn.Sequential(WSConv2d(8, 8, 3), nn.GroupNorm(2, 8))
    images = torch.randn(8, 8, 64, 64)

    def spent(backward: bool) -> dict[str, float]:
        def work() -> None:
            out = net(images).sum()
            if backward:
                out.backward()

        return shares_of([(net, work)], 5)[0]

    forward, both = spent(False), spent(True)

    # Backward, convolution and norm cost more than forward, and the sum at the end is cheap.
    assert both["convolution"] > 1.5 * forward["convolution"]
    assert both["norm"] > 1.5 * forward["norm"]
    assert both["WS"] > 1.2 * forward["WS"]


def test_only_outermost_layers_are_marked_and_are_afterwards_as_before() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), BatchChannelNorm(8))
    with _marked(net):
        marked = [path for path, layer in net.named_modules() if "forward" in layer.__dict__]
    after = [path for path, layer in net.named_modules() if "forward" in layer.__dict__]

    assert marked == ["0", "1"]
    assert after == []


def test_asking_for_memory_is_told_from_using_it() -> None:
    x, y = torch.randn(2, 1000)

    assert allocation_of(lambda: [torch.empty(10**6) for _ in range(20)], 1) > 0
    assert allocation_of(lambda: [x.add_(y) for _ in range(20)], 1) == 0
