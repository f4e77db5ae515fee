"""What all detectors promise."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

from wszoo import fold
from wszoo.backbone import load_backbone
from wszoo.detection import faster_rcnn, fcos, mask_rcnn, retinanet
from wszoo.layers import FORMULAS, GroupNorm, WSConv2d
from wszoo.lint import lint

Scene = tuple[Tensor, dict[str, Tensor]]
Build = Callable[..., Any]
Draw = Callable[[int], Scene]


def step(model: nn.Module, *scenes: Scene) -> Tensor:
    """The gradients of one step, and its loss."""
    losses = model([image for image, _ in scenes], [target for _, target in scenes])
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    return loss


def keep_scores_above(threshold: float, model: Any) -> Any:
    """``model`` that predicts what scores higher."""
    owner = model.roi_heads if hasattr(model, "roi_heads") else model
    owner.score_thresh = threshold
    return model


def test_one_step_at_batch_size_one_reaches_every_trainable_parameter(
    build: Build, scene: Draw
) -> None:
    model = build(trainable_stages=5)

    loss = step(model, scene(0))

    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_frozen_stages_get_no_gradient(build: Build, scene: Draw) -> None:
    model = build(trainable_stages=2)

    step(model, scene(0))

    body = dict(model.backbone.body.named_parameters())
    trained = {name for name, parameter in body.items() if parameter.grad is not None}
    assert trained == {name for name in body if name.startswith(("layer3", "layer4"))}


def test_pretrained_backbones_train_three_stages_unless_told_otherwise(build: Build) -> None:
    body = build().backbone.body

    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}


def test_images_without_objects_train(
    build: Build, scene: Draw, nothing: dict[str, Tensor]
) -> None:
    model = build()

    loss = step(model, (torch.rand(3, 128, 128), nothing))

    assert loss.isfinite()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert step(model, scene(0), (torch.rand(3, 96, 64), _of_size(nothing, 96, 64))).isfinite()


def _of_size(nothing: dict[str, Tensor], height: int, width: int) -> dict[str, Tensor]:
    return {**nothing, "masks": torch.zeros(0, height, width, dtype=torch.uint8)}


def test_predictions_of_one_image_are_in_its_pixels_and_classes(build: Build, scene: Draw) -> None:
    model = keep_scores_above(0.0, build().eval())
    image = scene(0)[0][:, :96]

    (found,) = model([image])

    assert len(found["boxes"]) > 0
    assert found["boxes"].min() >= 0
    assert found["boxes"][:, 0::2].max() <= 128 and found["boxes"][:, 1::2].max() <= 96
    assert set(found["labels"].tolist()) <= {0, 1, 2}
    if "masks" in found:
        assert found["masks"].shape == (len(found["boxes"]), 1, 96, 128)


def test_no_prediction_at_all_is_an_answer(build: Build) -> None:
    model = keep_scores_above(1.0, build().eval())

    (found,) = model([torch.zeros(3, 128, 128)])

    assert all(len(values) == 0 for values in found.values())
    assert found["boxes"].shape == (0, 4)


def test_there_is_no_batch_norm_and_every_norm_has_a_standardized_kernel_before_it(
    build: Build,
) -> None:
    census = lint(build())

    assert census.ok and set(census.norms) == {"GroupNorm"}
    assert sum(census.standardized.values()) == census.norms["GroupNorm"]
    assert set(census.standardized) == {"jhu"}


def test_heads_use_the_formula_of_the_backbone(build: Build) -> None:
    model = build(load_backbone("test_resnet_gn_ws", pretrained=False, formula="bit"))

    assert {m.formula for m in model.modules() if isinstance(m, WSConv2d)} == {FORMULAS["bit"]}


def test_a_backbone_without_ws_gets_the_default_formula(build: Build) -> None:
    backbone = load_backbone("test_resnet", pretrained=False, norm_layer=GroupNorm)

    model = build(backbone)

    formulas = {m.formula for m in model.modules() if isinstance(m, WSConv2d)}
    assert formulas == {FORMULAS["jhu"]}
    assert not [m for m in model.backbone.body.modules() if isinstance(m, WSConv2d)]


def test_mean_and_std_are_those_of_the_weights(build: Build) -> None:
    backbone = load_backbone("test_resnet_gn_ws")
    backbone.mean, backbone.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

    transform = build(backbone).transform

    assert transform.image_mean == [0.1, 0.2, 0.3]
    assert transform.image_std == [0.4, 0.5, 0.6]


@pytest.mark.parametrize("in_chans", [1, 4])
def test_images_of_other_channels_train(build: Build, scene: Draw, in_chans: int) -> None:
    model = build(in_chans=in_chans)
    image, target = scene(0)

    assert step(model, (image.mean(0).expand(in_chans, -1, -1), target)).isfinite()
    assert len(model.transform.image_mean) == len(model.transform.image_std) == in_chans


def test_half_precision_trains(build: Build, scene: Draw) -> None:
    model = build()

    with torch.autocast("cpu", torch.bfloat16):
        loss = step(model, scene(0))

    assert loss.isfinite()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_half_precision_does_not_reach_what_boxes_are_decoded_from(
    build: Build, scene: Draw
) -> None:
    model = build().eval()
    predictors = [getattr(model, "head", None)]
    if hasattr(model, "rpn"):
        predictors = [model.rpn.head, model.roi_heads.box_predictor]
    seen: list[torch.dtype] = []
    for predictor in predictors:
        predictor.register_forward_hook(  # type: ignore[union-attr]
            lambda _module, _inputs, output: seen.extend(
                each.dtype for each in torch.utils._pytree.tree_leaves(output)
            )
        )

    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        model([scene(0)[0]])

    assert seen and set(seen) == {torch.float32}


def test_copies_and_pickles_train_on_their_own_and_check_their_input(
    build: Build, scene: Draw
) -> None:
    model = build()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(twin.state_dict()) == list(model.state_dict())
        assert twin.backbone.source.body is twin.backbone.body is not model.backbone.body
        step(twin, scene(0))
        with pytest.raises(ValueError, match=r"ranges from 0 to 255"):
            twin([torch.eye(128).expand(3, -1, -1) * 255], [])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_folding_keeps_every_bit_of_the_predictions(build: Build, scene: Draw) -> None:
    model = build().eval()
    before = model([scene(0)[0]])

    fold(model)

    assert not [m for m in model.modules() if isinstance(m, WSConv2d)]
    after = model([scene(0)[0]])
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])


def _keys(model: nn.Module) -> set[str]:
    """Of parameters, since torchvision's own have BatchNorm with buffers."""
    return {name for name, _ in model.named_parameters()}


@pytest.fixture
def on_meta() -> Any:
    with torch.device("meta"):
        yield


def test_mask_rcnn_has_the_norms_of_the_published_configuration(on_meta: None) -> None:
    model = mask_rcnn("resnet50_gn_ws", num_classes=81, pretrained=False)

    def norms(path: str) -> int:
        return lint(model.get_submodule(path)).norms.get("GroupNorm", 0)

    assert norms("backbone.body") == 53
    assert norms("backbone.fpn") == 8
    assert norms("rpn") == 0
    assert norms("roi_heads.box_head") == 4
    assert norms("roi_heads.mask_head") == 4
    assert lint(model).norms == {"GroupNorm": 69}
    assert {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)} == {32}


def test_mask_rcnn_has_the_keys_that_converted_checkpoints_have(on_meta: None) -> None:
    model = mask_rcnn("resnet50_gn_ws", num_classes=81, pretrained=False)

    ours = _keys(model)
    theirs = _keys(detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None))
    # torchvision's second version alone has two convolutions in its proposal network.
    assert theirs - ours == {"rpn.head.conv.1.0.weight", "rpn.head.conv.1.0.bias"}
    assert ours - theirs == set()
    assert model.roi_heads.box_predictor.cls_score.weight.shape == (81, 1024)
    assert model.roi_heads.mask_predictor.mask_fcn_logits.weight.shape == (81, 256, 1, 1)


def test_faster_rcnn_is_mask_rcnn_without_masks(on_meta: None) -> None:
    one = faster_rcnn("resnet50_gn_ws", num_classes=81, pretrained=False)
    other = mask_rcnn("resnet50_gn_ws", num_classes=81, pretrained=False)

    assert _keys(one) == {name for name in _keys(other) if "mask" not in name}


def test_retinanet_has_the_keys_of_torchvisions_second_version(on_meta: None) -> None:
    ours = retinanet("resnet50_gn_ws", num_classes=91, pretrained=False)
    theirs = detection.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None)

    added = {name for name in _keys(ours) - _keys(theirs) if not name.startswith("backbone.fpn")}
    assert added == set()
    assert ours.head.classification_head.cls_logits.weight.shape == (91 * 9, 256, 3, 3)
    assert lint(ours).norms == {"GroupNorm": 53 + 6 + 8}


def test_fcos_has_the_head_of_torchvisions(on_meta: None) -> None:
    ours = fcos("resnet50_gn_ws", num_classes=91, pretrained=False)
    theirs = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)

    assert _keys(ours.head) == _keys(theirs.head)
    assert lint(ours).norms == {"GroupNorm": 53 + 6 + 8}


@pytest.mark.parametrize("constructor", [retinanet, fcos])
def test_every_class_starts_at_one_percent(constructor: Build) -> None:
    model = constructor("test_resnet_gn_ws", num_classes=3, pyramid_channels=32)

    bias = model.head.classification_head.cls_logits.bias
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))


def test_torchvisions_classes_are_what_comes_back(build: Build) -> None:
    assert type(build()) in (
        detection.FasterRCNN,
        detection.MaskRCNN,
        detection.RetinaNet,
        detection.FCOS,
    )


@pytest.mark.slow
def test_the_loss_on_four_images_falls_below_half_within_60_steps(
    build: Build, scene: Draw
) -> None:
    model = build("resnet18_gn_ws", pyramid_channels=64)
    scenes = [scene(index) for index in range(4)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)

    def loss_of_all() -> float:
        torch.manual_seed(1)  # boxes are drawn at random
        with torch.no_grad():
            losses = model([image for image, _ in scenes], [target for _, target in scenes])
        return float(sum(losses.values()))

    first = loss_of_all()
    for index in range(60):
        optimizer.zero_grad()
        step(model, scenes[index % 4])
        optimizer.step()

    assert loss_of_all() < first / 2
