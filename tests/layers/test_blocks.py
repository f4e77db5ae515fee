"""Blocks of this zoo where nothing is fused; tests/triton_kernels has the others."""

from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from wszoo.layers.blocks import FUSING, FusingBasicBlock, FusingBottleneck, norm_act
from wszoo.layers.norm import GroupNorm


@pytest.mark.parametrize("plain", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_on_the_cpu_a_block_computes_the_bits_of_timm(plain: Any, layout: Any) -> None:
    theirs, ours = (
        kind(32, 32 // plain.expansion, norm_layer=GroupNorm) for kind in (plain, FUSING[plain])
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 32, 8, 8).to(memory_format=layout)
    found = []
    for block in (ours, theirs):
        leaf = x.clone().requires_grad_()
        out = block(leaf)
        found.append([out, *torch.autograd.grad(out.sum(), [leaf, *block.parameters()])])

    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_nets_of_this_zoo_have_blocks_that_may_fuse() -> None:
    basic, bottleneck = (
        timm.create_model(name).get_submodule("layer1.0")
        for name in ("test_resnet_gn_ws", "resnet14_gn_ws")
    )

    assert type(basic) is FusingBasicBlock
    assert type(bottleneck) is FusingBottleneck


def test_other_norms_and_activations_are_run_in_turn() -> None:
    x, residual = torch.randn(2, 2, 8, 4, 4)
    norm, act = nn.BatchNorm2d(8).eval(), nn.SiLU()

    torch.testing.assert_close(norm_act(norm, act, x, residual), act(norm(x) + residual))
    torch.testing.assert_close(norm_act(norm, act, x), act(norm(x)))
