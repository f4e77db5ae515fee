"""GroupNorm and Batch-Channel Normalization against obvious float64 references."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from wszoo.layers import BatchChannelNorm, EstimatedBatchNorm, GroupNorm, groups_for


def relative(actual: Tensor, expected: Tensor) -> float:
    difference = (actual.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()


def randomize(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)


@pytest.mark.parametrize(("channels", "groups"), {
    1: 1, 2: 1, 3: 1, 4: 2, 6: 3, 7: 1, 8: 4, 16: 8, 24: 12, 32: 16, 48: 24, 64: 32, 65: 13,
    67: 1, 72: 24, 96: 32, 128: 32, 240: 30, 2048: 32,
}.items())  # fmt: skip
def test_groups_divide_the_width_and_hold_two_channels(channels: int, groups: int) -> None:
    assert groups_for(channels) == groups
    assert GroupNorm(channels).num_groups == groups


def test_fewer_groups_can_be_asked_for() -> None:
    assert [groups_for(64, wanted) for wanted in (32, 16, 10, 1)] == [32, 16, 8, 1]


def test_group_norm_is_that_of_torch_with_the_channels_first() -> None:
    ours, theirs = GroupNorm(64), nn.GroupNorm(32, 64, eps=1e-5)
    randomize(ours)
    theirs.load_state_dict(ours.state_dict())
    x = 3 * torch.randn(2, 64, 5, 5) + 1

    assert torch.equal(ours(x), theirs(x))
    assert (ours.num_groups, ours.eps) == (theirs.num_groups, theirs.eps)
    assert list(GroupNorm(64, 16, 1e-3, False).state_dict()) == []


def test_a_half_precision_group_norm_keeps_float32_statistics() -> None:
    ours = GroupNorm(64)
    randomize(ours)
    ours = ours.bfloat16()
    naive = nn.GroupNorm(32, 64).bfloat16()
    naive.load_state_dict(ours.state_dict())
    exact = copy.deepcopy(naive).double()
    x = (torch.randn(4, 64, 8, 8) + 8).bfloat16()
    upstream = torch.randn(x.shape).bfloat16()

    def gradients(norm: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        leaf = x.to(dtype).requires_grad_()
        out = norm(leaf)
        assert out.dtype == dtype
        return list(torch.autograd.grad(out, [leaf, *norm.parameters()], upstream.to(dtype)))

    expected = gradients(exact, torch.float64)
    errors = [
        relative(*pair) for pair in zip(gradients(ours, torch.bfloat16), expected, strict=True)
    ]
    naive_errors = [
        relative(*pair) for pair in zip(gradients(naive, torch.bfloat16), expected, strict=True)
    ]

    assert max(errors) < 2**-8, "rounded once, at the end"
    assert naive_errors[1] > 4 * errors[1], "the gradient of the scale"


class Reference:
    """Batch-Channel Normalization as its authors describe it, in loops, without modules."""

    def __init__(self, module: BatchChannelNorm, *, estimate: bool) -> None:
        state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        self.scale, self.shift = state["bn.weight"], state["bn.bias"]
        self.mean, self.var = state["bn.running_mean"], state["bn.running_var"]
        self.group_scale, self.group_shift = state["weight"].flatten(), state["bias"].flatten()
        self.estimate = estimate

    def channel(self, x: Tensor, index: int, training: bool) -> Tensor:
        values = x[:, index]
        mean, var = self.mean[index].clone(), self.var[index].clone()
        if training:
            now = values.detach()
            batch_mean = now.sum() / now.numel()
            if self.estimate:  # about the old estimate of the mean, which moves afterwards
                batch_var = ((now - self.mean[index]) ** 2).sum() / now.numel()
            else:
                batch_var = ((now - batch_mean) ** 2).sum() / (now.numel() - 1)
            self.mean[index] = 0.9 * self.mean[index] + 0.1 * batch_mean
            self.var[index] = 0.9 * self.var[index] + 0.1 * batch_var
            if self.estimate:
                mean, var = self.mean[index].clone(), self.var[index].clone()
            else:
                mean = values.mean()
                var = ((values - mean) ** 2).mean()
        return (values - mean) / torch.sqrt(var + 1e-5) * self.scale[index] + self.shift[index]

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        channels = range(x.shape[1])
        y = torch.stack([self.channel(x, index, training) for index in channels], dim=1)
        groups = len(self.group_scale)
        per_group = x.shape[1] // groups
        images = []
        for image in y:
            parts = []
            for group in range(groups):
                part = image[group * per_group : (group + 1) * per_group]
                var = ((part - part.mean()) ** 2).mean()
                part = (part - part.mean()) / torch.sqrt(var + 1e-5)
                parts.append(part * self.group_scale[group] + self.group_shift[group])
            images.append(torch.cat(parts))
        return torch.stack(images)


def batches() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        noise = torch.randn(2, 8, 3, 3, generator=generator, dtype=torch.float64)
        yield noise * (1 + step) + torch.arange(8).reshape(8, 1, 1)


@pytest.mark.parametrize("estimate", [False, True])
def test_both_forms_are_the_published_arithmetic(estimate: bool) -> None:
    norm = BatchChannelNorm(8, 2, estimate=estimate, dtype=torch.float64)
    randomize(norm)
    reference = Reference(norm, estimate=estimate)

    for x in batches():
        leaf, exact = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, expected = norm(leaf), reference(exact, training=True)
        upstream = torch.randn_like(x)
        (gradient,) = torch.autograd.grad(out, leaf, upstream)
        (expected_gradient,) = torch.autograd.grad(expected, exact, upstream)

        assert relative(out, expected) < 1e-12
        assert relative(gradient, expected_gradient) < 1e-10, "none through the estimates"
        state = norm.state_dict()
        assert relative(state["bn.running_mean"], reference.mean) < 1e-12
        assert relative(state["bn.running_var"], reference.var) < 1e-12

    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    x = next(batches()) + 5
    assert relative(norm(x), reference(x, training=False)) < 1e-12
    assert all(torch.equal(before[key], tensor) for key, tensor in norm.state_dict().items())


@pytest.mark.parametrize("estimate", [False, True])
def test_state_dict_is_that_of_the_authors(estimate: bool) -> None:
    state = BatchChannelNorm(64, estimate=estimate).state_dict()

    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == {
        "weight": (1, 32, 1),
        "bias": (1, 32, 1),
        "bn.weight": (64,),
        "bn.bias": (64,),
        "bn.running_mean": (64,),
        "bn.running_var": (64,),
        "bn.num_batches_tracked": (),
    }
    assert bool((state["weight"] == 1).all()) and not state["bias"].any()


def test_the_rate_of_the_estimates_can_be_set() -> None:
    norm = BatchChannelNorm(8, estimate=True, momentum=0.25)

    norm(torch.ones(1, 8, 2, 2))

    torch.testing.assert_close(norm.bn.running_mean, torch.full((8,), 0.25))
    torch.testing.assert_close(norm.bn.running_var, torch.ones(8))


def test_two_micro_batches_may_be_forwarded_before_one_backward_pass() -> None:
    norm = BatchChannelNorm(8, estimate=True, dtype=torch.float64)
    first, second, _ = (x.requires_grad_() for x in batches())
    alone = copy.deepcopy(norm)
    (expected,) = torch.autograd.grad(alone(first).square().sum() * 0.5, first)

    total = norm(first).square().sum() * 0.5 + norm(second).square().sum() * 0.5
    total.backward()

    assert first.grad is not None and second.grad is not None
    torch.testing.assert_close(first.grad, expected)


def test_the_estimated_form_trains_on_one_pixel() -> None:
    norm = BatchChannelNorm(8, estimate=True)

    norm(torch.randn(1, 8, 1, 1)).square().sum().backward()

    assert all(p.grad is not None and p.grad.isfinite().all() for p in norm.parameters())


@pytest.mark.parametrize("estimate", [False, True])
def test_nothing_is_read_back_from_the_device(estimate: bool) -> None:
    # On the meta device any tensor whose value is asked for raises.
    norm = BatchChannelNorm(8, estimate=estimate, device="meta")

    out = norm(torch.empty(2, 8, 4, 4, device="meta"))
    out.sum().backward()

    assert out.shape == (2, 8, 4, 4)
    assert all(p.grad is not None for p in norm.parameters())


@pytest.mark.parametrize("estimate", [False, True])
def test_the_affine_is_not_rounded_under_autocast(estimate: bool) -> None:
    norm = BatchChannelNorm(64, estimate=estimate)
    randomize(norm)
    x = (torch.randn(4, 64, 8, 8) + 8).bfloat16()
    upstream = torch.randn(x.shape).bfloat16()
    norm(x.float())  # estimates that are off their initial values
    norm.eval()
    channels_done = norm.bn(x).detach().double()
    exact = nn.GroupNorm(32, 64, dtype=torch.float64)
    with torch.no_grad():
        exact.weight.copy_(norm.weight.flatten().repeat_interleave(2))
        exact.bias.copy_(norm.bias.flatten().repeat_interleave(2))
    expected = exact(channels_done)
    (per_channel,) = torch.autograd.grad(expected, [exact.weight], upstream.double())

    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(x)
    (gradient,) = torch.autograd.grad(out, [norm.weight], upstream)

    assert out.dtype == torch.bfloat16
    assert relative(gradient.flatten(), per_channel.reshape(32, 2).sum(dim=1)) < 1e-4


def test_the_estimated_norm_normalizes_alike_in_training_and_evaluation() -> None:
    norm = EstimatedBatchNorm(8)
    x = torch.randn(2, 8, 4, 4) * 3 + 1

    trained = norm(x)

    torch.testing.assert_close(norm.eval()(x), trained)
