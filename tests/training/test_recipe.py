import math
from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

import wszoo  # noqa: F401  registers the variants
from train.recipes import RECIPES
from wszoo.training.recipe import Recipe, make_optimizer

BASE = Recipe(phases=((8, 32), (2, 64)), batch_size=8, test_size=64, lr=0.1, weight_decay=0.01)


def rates(recipe: Recipe, steps: int = 1000) -> list[float]:
    return [recipe.rate_at(step, steps) for step in range(steps)]


def net() -> nn.Module:
    model: nn.Module = timm.create_model("test_resnet_gn_ws", num_classes=3)
    return model


def test_images_grow_from_phase_to_phase() -> None:
    assert [BASE.size_at(epoch) for epoch in (0, 7, 8, 9)] == [32, 32, 64, 64]
    with pytest.raises(ValueError, match="the recipe has 10 epochs, there is no epoch 10"):
        BASE.size_at(10)


def test_a_linear_schedule_is_flat_then_falls_to_almost_nothing() -> None:
    seen = rates(replace(BASE, warmup_steps=100, decay=0.4))

    assert seen[:2] == [0.01, 0.02]
    assert seen[99:601] == [1.0] * 502
    assert seen[800] == pytest.approx(0.5)
    assert seen[-1] == pytest.approx(1 / 400)


def test_a_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
    expected = []
    for _ in range(1000):
        expected.append(torchs.get_last_lr()[0])
        optimizer.step()
        torchs.step()

    assert rates(replace(BASE, schedule="cosine")) == pytest.approx(expected, abs=1e-9)


def test_one_cycle_is_that_of_torch_but_for_its_small_ends() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=1001, pct_start=0.3, div_factor=1e9, cycle_momentum=False
    )
    expected = []
    for _ in range(1000):
        expected.append(torchs.get_last_lr()[0])
        optimizer.step()
        torchs.step()

    assert rates(replace(BASE, schedule="onecycle", decay=0.7)) == pytest.approx(expected, abs=0.01)


def test_steps_fall_at_the_milestones() -> None:
    seen = rates(replace(BASE, schedule="step", milestones=(3, 6), warmup_epochs=1))

    assert seen[49] == pytest.approx(0.5)
    assert [seen[step] for step in (299, 300, 599, 600)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_an_optimizer_and_a_rate_that_falls(name: str) -> None:
    recipe = RECIPES[name]

    optimizer = make_optimizer(net(), recipe)
    seen = rates(recipe, 10_000)

    assert max(seen) == pytest.approx(1, abs=0.01)
    assert 0 <= seen[-1] <= 0.0100001
    assert max(group["lr"] for group in optimizer.param_groups) == recipe.lr
    assert recipe.size_at(recipe.epochs - 1) > 0


@pytest.mark.parametrize("name", ["muon", "sgd", "adamw", "lamb"])
def test_every_parameter_that_is_trained_is_in_one_group(name: str) -> None:
    model = net()
    model.get_submodule("layer1").requires_grad_(False)

    groups = make_optimizer(model, replace(BASE, optimizer=name)).param_groups

    seen = [p for group in groups for p in group["params"]]
    assert len(seen) == len({*seen})
    assert {*seen} == {p for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("decay_all", [False, True])
def test_norms_and_biases_decay_only_if_asked(decay_all: bool) -> None:
    recipe = replace(BASE, optimizer="sgd", decay_all=decay_all)

    groups = make_optimizer(net(), recipe).param_groups

    decayed = {p.ndim for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == ({1, 2, 4} if decay_all else {2, 4})


def test_lower_layers_learn_more_slowly_with_layer_decay() -> None:
    groups = make_optimizer(net(), replace(BASE, optimizer="sgd", layer_decay=0.5)).param_groups

    scales = sorted({group["lr_scale"] for group in groups})
    assert scales[-1] == 1
    assert all(math.isclose(high / low, 2) for low, high in pairwise(scales))
    assert len(scales) > 2


def test_muon_takes_no_layer_decay() -> None:
    with pytest.raises(ValueError, match="muon takes no layer_decay; choose another optimizer"):
        make_optimizer(net(), replace(BASE, layer_decay=0.5))
