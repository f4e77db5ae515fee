import json
import math
import re
from typing import Any

import pytest
import timm
import torch
from torch import nn

from wszoo.training.gauges import DriftWatch, weight_gauges


def net(name: str = "test_resnet_gn_ws", **options: Any) -> Any:
    return timm.create_model(name, **options)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_gauges_are_the_length_of_the_kernels_and_lr_over_its_square() -> None:
    model = net()
    optimizer = torch.optim.SGD(
        [{"params": model.layer1.parameters(), "lr": 0.5}, {"params": model.layer4.parameters()}],
        lr=0.1,
    )

    gauges = weight_gauges(model, optimizer)

    kernels = [m.weight for m in model.layer1.modules() if isinstance(m, nn.Conv2d)]
    lengths = [float(kernel.detach().norm()) for kernel in kernels]
    assert gauges["norm/layer1"] == pytest.approx(math.hypot(*lengths))
    assert gauges["lr/layer1"] == pytest.approx(0.5)
    assert gauges["lr/layer4"] == pytest.approx(0.1)
    wanted = sum(0.5 / length**2 for length in lengths) / len(lengths)
    assert gauges["effective_lr/layer1"] == pytest.approx(wanted)
    assert "effective_lr/layer2" not in gauges, "the optimizer does not have it"


@pytest.mark.parametrize("name", ["test_resnet_gn_ws", "resnet18d_gn_ws"])
def test_every_stage_has_gauges_and_the_head_a_norm_alone(name: str) -> None:
    model = net(name)
    stages = ["stem", "layer1", "layer2", "layer3", "layer4"]

    gauges = weight_gauges(model, sgd(model))

    assert set(gauges) == {
        *(f"{kind}/{stage}" for kind in ("norm", "lr", "effective_lr") for stage in stages),
        "norm/head",
    }


def test_the_gauges_of_a_replica_are_those_of_its_net() -> None:
    model = net()
    replica = nn.Module()
    replica.module = model

    assert weight_gauges(replica, sgd(model)) == weight_gauges(model, sgd(model))


def test_frozen_stages_and_kernels_of_attention_have_no_effective_learning_rate() -> None:
    model = net(block_args={"attn_layer": "se"})
    model.layer2.requires_grad_(False)
    before = weight_gauges(model, sgd(model))

    with torch.no_grad():
        for path, kernel in model.named_parameters():
            if ".se." in path:
                kernel.mul_(10)
    after = weight_gauges(model, sgd(model))

    assert after["effective_lr/layer1"] == before["effective_lr/layer1"]
    assert after["norm/layer1"] > before["norm/layer1"]
    assert "effective_lr/layer2" not in before
    assert "norm/layer2" in before


def gauges_at(lr: float, square: float, stage: str = "layer1") -> dict[str, float]:
    return {f"lr/{stage}": lr, f"effective_lr/{stage}": lr / square, f"norm/{stage}": square**0.5}


def test_a_schedule_from_nothing_to_nothing_is_no_drift() -> None:
    watch = DriftWatch()

    for lr in (0.0, 1e-4, 0.1, 0.05, 1e-6, 0.0):
        assert watch.look(gauges_at(lr, square=4.0)) == []


def test_kernels_that_change_during_warm_up_are_no_drift() -> None:
    watch = DriftWatch()

    for lr, square in ((0.01, 1.0), (0.05, 20.0), (0.1, 400.0), (0.1, 400.0), (0.05, 90.0)):
        assert watch.look(gauges_at(lr, square)) == []


@pytest.mark.parametrize(
    ("square", "sentence"),
    [
        (0.3, r"layer1 is 13\.3 times what .* have shrunk; .* lower the weight decay or"),
        (50.0, r"layer1 is 12\.5 times lower than .* have grown; .* raise the weight decay or"),
    ],
)
def test_kernels_that_shrink_or_grow_are_told_once_per_stage_with_the_way_out(
    square: float, sentence: str
) -> None:
    watch = DriftWatch()
    start = gauges_at(0.1, 4.0) | gauges_at(0.2, 4.0, "layer2")
    watch.look(start)

    assert watch.look(start | gauges_at(0.05, 1.5 if square < 4 else 20.0)) == []
    [warning] = watch.look(start | gauges_at(0.05, square))
    assert watch.look(start | gauges_at(0.05, square)) == []
    [other] = watch.look(start | gauges_at(0.05, square, "layer2"))

    assert re.search(sentence, warning)
    assert "layer2" in other


def test_a_resumed_watch_knows_where_the_run_stood_after_warm_up() -> None:
    watch = DriftWatch(factor=3)
    watch.look(gauges_at(0.1, 4.0))
    state = json.loads(json.dumps(watch.state_dict()))

    resumed = DriftWatch(factor=3)
    resumed.load_state_dict(state)
    assert len(resumed.look(gauges_at(0.1, 1.0))) == 1

    again = DriftWatch(factor=3)
    again.load_state_dict(resumed.state_dict())
    assert again.look(gauges_at(0.1, 1.0)) == []


def test_a_factor_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="factor must be above 1, got 1"):
        DriftWatch(factor=1)
