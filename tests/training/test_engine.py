import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wszoo  # noqa: F401  registers the variants
from wszoo.layers import WSConv2d, fold
from wszoo.training.engine import Learner

Batch = tuple[Tensor, Tensor]


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]).float(), batch[1])


def batches(count: int, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(count * size, 5, generator=generator, dtype=torch.float64)
    return [(part[:, :3], part[:, 3:]) for part in pairs.split(size)]


def linear() -> nn.Linear:
    return nn.Linear(3, 2).double()


def learner(model: nn.Module, **more: Any) -> Learner:
    return Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), **more)


BAD = (torch.full((2, 3), torch.nan, dtype=torch.float64), torch.zeros(2, 2).double())


def gradients(name: str, micro: int, dtype: torch.dtype) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step on 16 photos in passes of ``micro``."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, zero_init_last=False).to(dtype).train()
    targets = torch.arange(16) % 4
    images = (torch.randn(16, 3, 64, 64) + targets.view(-1, 1, 1, 1)).to(dtype)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    kept: dict[str, Tensor] = {}
    still.register_step_pre_hook(
        lambda *_: kept.update(
            {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
        )
    )
    passes = list(zip(images.split(micro), targets.split(micro), strict=True))
    trained = Learner(model, still, accumulation_steps=16 // micro)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    return trained.step(passes, loss, rate=1.0).loss, kept


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str
)
def test_sixteen_passes_of_one_image_are_one_pass_of_sixteen(
    dtype: torch.dtype, tolerance: float
) -> None:
    loss, together = gradients("test_resnet_gn_ws", 16, dtype)
    apart_loss, apart = gradients("test_resnet_gn_ws", 1, dtype)

    assert apart_loss == pytest.approx(loss, rel=tolerance)
    for key, value in together.items():
        worst = float((apart[key] - value).abs().max() / value.abs().max())
        assert worst < tolerance, key


def test_with_batch_norm_they_are_not() -> None:
    loss, together = gradients("resnet10t", 16, torch.float64)
    apart_loss, apart = gradients("resnet10t", 2, torch.float64)

    assert abs(apart_loss / loss - 1) > 1e-3
    first = together["conv1.0.weight"]
    assert (apart["conv1.0.weight"] - first).abs().max() / first.abs().max() > 0.1


def test_the_rate_is_a_share_of_the_peak_of_each_group() -> None:
    model = linear()
    groups: list[dict[str, Any]] = [
        {"params": [model.weight], "lr": 0.4, "lr_scale": 0.5},
        {"params": [model.bias]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    trained = Learner(model, optimizer)

    for step in range(3):
        trained.step(batches(1, 2), squared_error, rate=1 / (1 + step))

    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.2 / 3, 0.1 / 3])


@pytest.mark.parametrize("given", [1, 3])
def test_a_step_takes_as_many_micro_batches_as_were_planned(given: int) -> None:
    trained = learner(linear(), accumulation_steps=2)

    with pytest.raises(ValueError, match=f"takes 2 micro-batches, it was given {given}"):
        trained.step(batches(given, 2), squared_error, rate=1.0)


def test_a_loss_that_is_not_finite_leaves_everything_as_it_was() -> None:
    model = linear()
    trained = learner(model, ema_decay=0.5)
    trained.step(batches(1, 2), squared_error, rate=1.0)
    before = copy.deepcopy(trained.state_dict())

    outcome = trained.step([BAD], squared_error, rate=1.0)

    assert not outcome.taken
    assert math.isnan(outcome.loss)
    after = trained.state_dict()
    assert (after["step"], after["skipped"]) == (before["step"] + 1, 1)
    for part in ("model", "ema"):
        for key, value in before[part].items():
            assert torch.equal(after[part][key], value)


def test_a_gradient_that_overflows_under_a_finite_loss_is_not_stepped_with() -> None:
    model = linear()
    before = model.weight.detach().clone()

    def cliff(net: nn.Module, batch: Batch) -> Tensor:
        return (net(batch[0]) * 0).abs().sqrt().sum()  # 0, and its slope is infinite

    outcome = learner(model).step(batches(1, 2), cliff, rate=1.0)

    assert outcome.loss == 0
    assert not outcome.taken
    assert torch.equal(model.weight, before)


def test_a_good_step_ends_a_row_of_skipped_ones() -> None:
    trained = learner(linear())

    counts = []
    for batch in (BAD, BAD, batches(1, 2)[0], BAD):
        trained.step([batch], squared_error, rate=1.0)
        counts.append(trained.skipped)

    assert counts == [1, 2, 0, 1]


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_gradients_are_clipped_in_every_mode(mode: Any) -> None:
    free = linear()
    bound, start = copy.deepcopy(free), copy.deepcopy(free)

    norm = learner(free).step(batches(1, 2), squared_error, rate=1.0).grad_norm
    clipped = learner(bound, clip_grad=1e-3, clip_mode=mode)
    told = clipped.step(batches(1, 2), squared_error, rate=1.0).grad_norm

    assert told == pytest.approx(norm), "the length is told as it was before clipping"
    moved, unclipped = (bound.weight - start.weight).norm(), (free.weight - start.weight).norm()
    assert 0 < moved < 0.05 * unclipped


def test_a_gradient_of_twice_the_bound_is_halved() -> None:
    free = linear()
    bound, start = copy.deepcopy(free), copy.deepcopy(free)
    norm = learner(free).step(batches(1, 2), squared_error, rate=1.0).grad_norm

    learner(bound, clip_grad=norm / 2).step(batches(1, 2), squared_error, rate=1.0)

    torch.testing.assert_close(
        bound.weight - start.weight, (free.weight - start.weight) / 2, rtol=1e-9, atol=1e-12
    )


def test_the_moving_average_follows_and_is_what_is_judged() -> None:
    model = linear()
    trained = learner(model, ema_decay=0.9)
    for _ in range(3):
        trained.step(batches(1, 2), squared_error, rate=1.0)

    averaged = trained.best_model()

    assert isinstance(averaged, nn.Linear)
    assert not torch.equal(averaged.weight, model.weight)
    assert learner(model).best_model() is model


def test_what_the_net_draws_is_decided_by_seed_and_step() -> None:
    def lengths(steps: Sequence[int], *, seed: int = 0) -> list[float]:
        """Of the gradients behind a dropout layer, with weights that never move."""
        layer = linear()
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        trained = Learner(
            nn.Sequential(nn.Dropout(0.5), layer), torch.optim.SGD(layer.parameters(), 0)
        )
        found = []
        for step in steps:
            trained.step_count = step
            outcome = trained.step(batches(1, 8), squared_error, rate=1.0, seed=seed)
            found.append(outcome.grad_norm)
        return found

    whole = lengths([0, 1, 2, 3])

    assert len({*whole}) == 4
    assert lengths([2, 3]) == whole[2:]
    assert lengths([2, 3], seed=1) != whole[2:]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_activations_are_of_the_precision_and_weights_stay_fp32(precision: Any) -> None:
    model = timm.create_model("test_resnet_gn_ws", num_classes=4).train()
    seen = []
    model.get_submodule("layer1").register_forward_hook(lambda *given: seen.append(given[2].dtype))
    trained = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), precision=precision)

    outcomes = [
        trained.step([(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))], cross_entropy, rate=1.0)
        for _ in range(3)
    ]

    assert {*seen} == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert all(math.isfinite(outcome.loss) for outcome in outcomes)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_learner_restored_goes_on_bit_by_bit() -> None:
    start = linear()
    whole, halves = copy.deepcopy(start), copy.deepcopy(start)
    data = batches(6, 2)

    def make(model: nn.Module) -> Learner:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return Learner(model, optimizer, ema_decay=0.9)

    alone, first = make(whole), make(halves)
    for batch in data:
        alone.step([batch], squared_error, rate=0.5)
    for batch in data[:3]:
        first.step([batch], squared_error, rate=0.5)
    second = make(linear())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in data[3:]:
        second.step([batch], squared_error, rate=0.5)

    assert second.step_count == alone.step_count == 6
    for part in ("model", "ema"):
        for key, value in alone.state_dict()[part].items():
            assert torch.equal(second.state_dict()[part][key], value), (part, key)


def test_a_state_without_the_average_that_is_kept_is_refused() -> None:
    state = learner(linear()).state_dict()

    with pytest.raises(ValueError, match="differ on the moving average"):
        learner(linear(), ema_decay=0.9).load_state_dict(state)


def test_a_folded_net_is_refused() -> None:
    model = fold(nn.Sequential(WSConv2d(3, 4, 3)))

    with pytest.raises(ValueError, match="cannot be trained"):
        learner(model)


def test_fp16_goes_on_after_a_loss_that_is_not_finite() -> None:
    model = nn.Linear(3, 2)
    trained = learner(model, precision="fp16")
    good = (torch.randn(4, 3), torch.randn(4, 2))
    bad = (torch.full((4, 3), torch.nan), torch.zeros(4, 2))

    taken = [
        trained.step([batch], squared_error, rate=1.0).taken for batch in (good, bad, bad, good)
    ]

    assert taken == [True, False, False, True]


@pytest.mark.slow
def test_a_compiled_net_learns_what_a_plain_one_learns() -> None:
    plain = nn.Sequential(WSConv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten())
    compiled = copy.deepcopy(plain)
    given = (torch.randn(2, 3, 6, 6), torch.randn(2, 128))

    losses = [
        [one.step([given], squared_error, rate=1.0).loss for _ in range(3)]
        for one in (learner(plain), learner(compiled, compiled=True))
    ]

    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert [*compiled.state_dict()] == [*plain.state_dict()]
