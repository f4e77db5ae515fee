"""Gradient accumulation in the engine: weights are standardized once per step, on any ranks."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.layers.standardizations import Standardizations
from tests.training.test_distributed import torchrun
from wszoo.layers import WSConv2d
from wszoo.training.engine import Learner, Precision

PASSES = 4


def learner(
    precision: Precision = "fp32", *, compiled: bool = False, passes: int = PASSES
) -> Learner:
    net: nn.Module = timm.create_model("test_resnet_gn_ws", num_classes=4).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return Learner(
        net, optimizer, accumulation_steps=passes, precision=precision, compiled=compiled
    )


def loss(net: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(net(batch).float(), torch.zeros(len(batch), dtype=torch.long))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_weights_are_standardized_once_per_step(precision: Precision) -> None:
    trained = learner(precision)
    convs = sum(isinstance(module, WSConv2d) for module in trained.model.modules())
    batches = [*torch.randn(PASSES, 1, 3, 32, 32)]

    for _ in range(2):
        with Standardizations("native_group_norm_backward") as backward:
            trained.step(batches, loss, rate=1.0)
        assert backward.count == convs
    assert not any("_once" in module.__dict__ for module in trained.model.modules())


def test_after_an_error_in_a_pass_the_next_step_is_an_ordinary_one() -> None:
    trained, alone = learner(), learner()
    alone.model.load_state_dict(trained.model.state_dict())
    batches = [*torch.randn(PASSES, 1, 3, 32, 32)]
    with pytest.raises(ValueError, match="takes 4 micro-batches, it was given 2"):
        trained.step(batches[:2], loss, rate=1.0)
    trained.optimizer.zero_grad()

    trained.step(batches, loss, rate=1.0)

    alone.step(batches, loss, rate=1.0)
    for mine, other in zip(trained.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(mine, other)


# Run by torchrun: the ranks accumulate over four passes, of which the last one skips a layer on
# the ranks named, at last in a loop that forgets to settle; rank 0 saves what was found.
TRAIN = """
import sys
from contextlib import nullcontext
import torch
import torch.nn.functional as F
from torch import nn
from wszoo.layers import GroupNorm, WSConv2d, standardized_once
from wszoo.training.distributed import join_ranks
from wszoo.training.engine import Learner

PASSES = 4

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(WSConv2d(3, 8, 3, padding=1), GroupNorm(8), nn.ReLU())
        self.second = nn.Sequential(WSConv2d(8, 8, 3, padding=1), GroupNorm(8), nn.ReLU())
        self.never = WSConv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, batch):
        images, _, full = batch
        x = self.first(images)
        if full:
            x = x + self.second(x)
        return self.head(x.mean((2, 3)))

def make():
    torch.manual_seed(0)
    return Net().double()

def loss(net, batch):
    return F.cross_entropy(net(batch), batch[1])

def batches(rank, skipping):
    draw = torch.Generator().manual_seed(rank)
    for index in range(PASSES):
        images = torch.randn(2, 3, 8, 8, generator=draw, dtype=torch.float64)
        full = index < PASSES - 1 or str(rank) not in skipping
        yield images, torch.randint(4, (2,), generator=draw), full

def engine(ranks, skipping):
    model, found = make(), {}
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    still.register_step_pre_hook(lambda *_: found.update(
        {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    ))
    learner = Learner(model, still, ranks=ranks, accumulation_steps=PASSES)
    learner.step(batches(ranks.rank, skipping), loss, rate=1.0)
    return found

def forgetful(ranks):
    model = make()
    replica = ranks.replicate(model)
    try:
        with standardized_once(model):
            for index, batch in enumerate(batches(ranks.rank, ""), 1):
                with nullcontext() if index == PASSES else replica.no_sync():
                    loss(replica, batch).backward()
    except RuntimeError as error:
        return str(error)

if __name__ == "__main__":
    with join_ranks(device="cpu", wait_minutes=1) as ranks:
        found = {skipping: engine(ranks, skipping) for skipping in ("", "0", "01")}
        found["error"] = forgetful(ranks)
        if ranks.is_main:
            torch.save(found, sys.argv[1])
"""


def reference(scope: dict[str, Any], skipping: str) -> dict[str, Tensor]:
    """Gradients of the same mean loss, without engine, passes or ranks."""
    model: nn.Module = scope["make"]()
    batches = [batch for rank in (0, 1) for batch in scope["batches"](rank, skipping)]
    torch.stack([scope["loss"](model, batch) for batch in batches]).mean().backward()
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_two_ranks_accumulate_the_gradients_of_one_pass_over_everything(tmp_path: Path) -> None:
    script, saved = tmp_path / "train.py", tmp_path / "gradients.pt"
    script.write_text(TRAIN)
    scope: dict[str, Any] = {}
    exec(TRAIN, scope)

    torchrun(2, script, str(saved))

    found = torch.load(saved, weights_only=True)
    message = "not added up the gradients of 2 kernels; call settle() before the last forward pass"
    assert message in found.pop("error")
    assert [*found] == ["", "0", "01"]
    for skipping, actual in found.items():
        for key, gradient in reference(scope, skipping).items():
            torch.testing.assert_close(actual[key], gradient, rtol=1e-10, atol=1e-13)
        assert "never.weight" not in actual or not actual["never.weight"].any()
