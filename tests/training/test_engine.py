import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.layers import WSConv2d, fold
from wszoo.training.engine import train

Batch = tuple[Tensor, Tensor]


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def batches(count: int, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(count * size, 5, generator=generator, dtype=torch.float64)
    return [(part[:, :3], part[:, 3:]) for part in pairs.split(size)]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def run(model: nn.Module, data: list[Batch], accumulation_steps: int) -> list[tuple[int, float]]:
    seen: list[tuple[int, float]] = []
    train(
        model,
        data,
        squared_error,
        sgd(model),
        rate_at=lambda step: 0.5**step,
        on_step=lambda step, loss: seen.append((step, loss)),
        accumulation_steps=accumulation_steps,
    )
    return seen


def test_accumulated_micro_batches_step_as_one_large_batch_does() -> None:
    together = nn.Linear(3, 2).double()
    apart = copy.deepcopy(together)

    seen = run(together, batches(3, 8), accumulation_steps=1)
    seen_apart = run(apart, batches(12, 2), accumulation_steps=4)

    torch.testing.assert_close(apart.weight, together.weight, rtol=1e-12, atol=1e-12)
    assert [step for step, _ in seen_apart] == [1, 2, 3]
    assert [loss for _, loss in seen_apart] == pytest.approx([loss for _, loss in seen])


def test_the_rate_is_a_share_of_the_peak_of_each_group() -> None:
    model = nn.Linear(3, 2).double()
    optimizer = sgd(model)

    train(
        model,
        batches(3, 2),
        squared_error,
        optimizer,
        rate_at=lambda step: 1 / (1 + step),
        on_step=lambda step, loss: None,
    )

    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 3)


def test_a_short_group_at_the_end_takes_no_step() -> None:
    seen = run(nn.Linear(3, 2).double(), batches(5, 2), accumulation_steps=2)

    assert [step for step, _ in seen] == [1, 2]


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt() -> None:
    model = nn.Linear(3, 2).double()
    before = model.weight.detach().clone()
    bad = [(torch.full((2, 3), torch.nan, dtype=torch.float64), torch.zeros(2, 2).double())]

    with pytest.raises(FloatingPointError, match="the loss of step 1 is nan"):
        run(model, bad, accumulation_steps=1)

    assert torch.equal(model.weight, before)


def test_a_folded_net_is_refused() -> None:
    model = fold(nn.Sequential(WSConv2d(3, 4, 3)))

    with pytest.raises(ValueError, match="cannot be trained"):
        run(model, batches(1, 2), accumulation_steps=1)
