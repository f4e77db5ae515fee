from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from wszoo.finetune.defaults import HEADS, settings_for
from wszoo.finetune.models import (
    build,
    census_text,
    describe_net,
    freeze_stages,
    rebuild,
    size_text,
)
from wszoo.finetune.settings import FineTuning, TaskName

ALL = [(task, head) for task, heads in HEADS.items() for head in heads]


def tiny(task: TaskName, head: str, **changes: object) -> FineTuning:
    settings = settings_for(task, model="test_resnet_gn_ws", head=head, image_size=64, max_size=96)
    return replace(settings, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("task", "head"), ALL)
def test_every_head_is_built_without_batch_norm_and_built_again_from_its_description(
    task: TaskName, head: str
) -> None:
    settings = tiny(task, head)

    model = build(settings, 3)
    net = describe_net(model, settings)
    again = rebuild(net, settings, 3)

    assert census_text(model).endswith("GroupNorm, 0 BatchNorm")
    assert model.training
    assert (net.architecture, net.formula, net.mean[0]) == ("test_resnet_gn_ws", "jhu", 0.485)
    shapes = [
        {key: value.shape for key, value in each.state_dict().items()} for each in (model, again)
    ]
    assert shapes[0] == shapes[1]
    assert describe_net(again, settings) == net


def test_the_seed_decides_new_layers() -> None:
    first, same, other = (
        build(tiny("classify", "linear", seed=seed), 3).state_dict()["fc.weight"]
        for seed in (0, 0, 1)
    )

    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_random_weights_are_asked_for_by_pretrained() -> None:
    kernels = [
        build(tiny("segment", "semantic_fpn", pretrained=pretrained), 3).state_dict()[
            "backbone.body.conv1.weight"
        ]
        for pretrained in (True, False)
    ]

    assert not torch.equal(*kernels)


def trained(model: nn.Module) -> set[str]:
    return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("stages", "left"),
    [
        (5, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}),
        (4, {"layer1", "layer2", "layer3", "layer4", "fc"}),
        (1, {"layer4", "fc"}),
        (0, {"fc"}),
    ],
)
def test_stages_of_a_classifier_are_counted_from_its_end(stages: int, left: set[str]) -> None:
    model = build(tiny("classify", "linear", trainable_stages=stages), 3)

    assert trained(model) == left


def test_the_plan_tells_how_much_is_trained() -> None:
    detector = build(tiny("detect", "fcos", trainable_stages=1), 3)

    total = sum(p.numel() for p in detector.parameters()) / 1e6
    assert size_text(detector).startswith(f"{total:.1f} M parameters, ")
    assert size_text(detector).endswith("(1 of 5 stages of the backbone)")


@pytest.mark.parametrize(
    ("task", "head", "changes", "message"),
    [
        ("detect", "linear", {}, "no head 'linear' to detect with; choose one of faster_rcnn, mas"),
        (
            "classify",
            "linear",
            {"pretrained": False, "trainable_stages": 2},
            "cannot freeze random weights",
        ),
        ("classify", "linear", {"trainable_stages": 6}, "must be within 0..5, got 6"),
        (
            "classify",
            "linear",
            {"model": "resnet18", "pretrained": False},
            "'resnet18' has 20 BatchNorm layers, whose statistics are noise",
        ),
        ("classify", "linear", {"model": "resnet999_gn_ws"}, "cannot load 'resnet999_gn_ws'"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(
    task: TaskName, head: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny(task, head, **changes), 3)


def test_stages_that_cannot_be_frozen_are_refused() -> None:
    with torch.device("meta"):
        nested = timm.create_model("convnext_atto")
        running = timm.create_model("resnet50_bcn_ws", pretrained=False)

    with pytest.raises(ValueError, match="stages of ConvNeXt cannot be told apart"):
        freeze_stages(nested, 2)
    with pytest.raises(ValueError, match="bn1 has running statistics, which would go on"):
        freeze_stages(running, 2)


@pytest.mark.parametrize(
    ("task", "head"),
    [("classify", "linear"), ("detect", "fcos"), ("segment", "semantic_fpn")],
)
def test_batch_norm_is_taken_and_built_again_where_it_is_asked_for(
    task: TaskName, head: str
) -> None:
    asked = tiny(task, head, model="test_resnet", pretrained=False, allow_batch_norm=True)

    model = build(asked, 3)
    again = rebuild(describe_net(model, asked), asked, 3)

    assert not census_text(model).endswith(" 0 BatchNorm")
    assert model.state_dict().keys() == again.state_dict().keys()
    with pytest.raises(ValueError, match="BatchNorm"):
        build(replace(asked, allow_batch_norm=False), 3)
