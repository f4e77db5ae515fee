"""mmdetection's detectors onto ours, held against torchvision's own."""

import pytest
import torch
import torchvision

from tests.convert.published import State, filled, mmdet_detector, of_torchvision
from wszoo.convert import convert_state, recognise, restore_state


def torchvision_detector(name: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of torchvision's detector with norms, less BatchNorm's statistics."""
    kwargs = dict(weights=None, weights_backbone=None, num_classes=num_classes)
    with torch.device("meta"):
        state = torchvision.models.get_model(name, **kwargs).state_dict()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    second_conv = "rpn.head.conv.1."  # v2 has two convolutions in its RPN, published nets one
    return {
        key: tuple(tensor.shape)
        for key, tensor in state.items()
        if not key.endswith(statistics) and not key.startswith(second_conv)
    }


@pytest.mark.parametrize("has_masks", [True, False])
def test_a_detector_has_the_tensors_of_torchvisions(has_masks: bool) -> None:
    official = mmdet_detector("resnet50", has_masks=has_masks)
    assert recognise(official) == "mmdet"

    converted = convert_state(official)

    name = "maskrcnn_resnet50_fpn_v2" if has_masks else "fasterrcnn_resnet50_fpn_v2"
    shapes = {key: tuple(tensor.shape) for key, tensor in converted.state_dict.items()}
    assert shapes == torchvision_detector(name, 81)
    assert converted.architecture == ("mask_rcnn" if has_masks else "faster_rcnn")
    assert converted.backbone == "resnet50_gn_ws"
    assert converted.source.formula == "jhu"
    assert list(converted.mapped) == list(official)
    assert converted.missing == () and not converted.dropped


@pytest.mark.parametrize("name", ["resnet101", "resnext50_32x4d", "resnext101_32x4d"])
def test_every_published_backbone_is_told(name: str) -> None:
    assert convert_state(mmdet_detector(name)).backbone == f"{name}_gn_ws"


def test_a_detector_comes_back_byte_for_byte_in_order() -> None:
    official = filled(mmdet_detector("resnet50", num_classes=3))

    ours = convert_state(official).state_dict
    restored = restore_state(dict(sorted(ours.items())), "mmdet")

    assert list(restored) == list(official)
    assert all(torch.equal(restored[key], tensor) for key, tensor in official.items())


def test_the_background_class_moves_from_last_to_first() -> None:
    state = mmdet_detector("resnet50", num_classes=2)
    box, mask = "roi_head.bbox_head.", "roi_head.mask_head."
    state[f"{box}fc_cls.bias"] = torch.tensor([10.0, 20.0, 99.0])  # first, second, background
    state[f"{box}fc_reg.bias"] = torch.arange(1.0, 9.0)
    state[f"{mask}conv_logits.bias"] = torch.tensor([1.0, 2.0])

    converted = convert_state(state)

    ours = converted.state_dict
    assert ours["roi_heads.box_predictor.cls_score.bias"].tolist() == [99, 10, 20]
    boxes = ours["roi_heads.box_predictor.bbox_pred.bias"]
    assert boxes.view(3, 4).tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert ours["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == [0, 1, 2]
    assert converted.changed[f"{box}fc_cls.weight"] == "background row moved from last to first"
    assert converted.changed[f"{mask}conv_logits.bias"].startswith("zeros added for masks of the")
    assert len(converted.changed) == 6


def reads(state: State, key: str, *shape: int) -> None:
    state[key] = torch.empty(shape, device="meta")


def test_a_head_of_another_kind_is_left_out_as_a_whole_with_the_reason() -> None:
    state = mmdet_detector("resnet50", has_masks=False)
    for key in [key for key in state if "shared_convs" in key]:
        del state[key]
    reads(state, "roi_head.bbox_head.shared_fcs.1.weight", 1024, 1024)
    reads(state, "roi_head.bbox_head.shared_fcs.1.bias", 1024)

    converted = convert_state(state)

    box = "roi_head.bbox_head.shared_fcs"
    assert list(converted.dropped) == [f"{box}.{n}.{k}" for n in (0, 1) for k in ("weight", "bias")]
    assert converted.dropped[f"{box}.0.weight"].startswith("our box head is another: roi_head.bbox")
    assert converted.dropped[f"{box}.1.bias"] == "our detectors have no such part"
    assert len(converted.missing) == 14
    assert "roi_heads.box_head.0.0.weight" in converted.missing
    assert "roi_heads.box_predictor.cls_score.weight" in converted.state_dict
    assert state.keys() == converted.mapped.keys() | converted.dropped.keys()


def test_a_neck_without_norms_and_boxes_for_no_class_are_left_out() -> None:
    state = mmdet_detector("resnet50")
    for key in [key for key in state if key.startswith("neck.") and ".gn." in key]:
        del state[key]
    reads(state, "roi_head.bbox_head.fc_reg.weight", 4, 1024)
    reads(state, "roi_head.bbox_head.fc_reg.bias", 4)

    converted = convert_state(state)

    reasons = set(converted.dropped.values())
    assert any(
        "our FPN is another: neck.lateral_convs.0.gn.weight is missing" in r for r in reasons
    )
    assert any("fc_reg.weight has shape (4, 1024), not (320, 1024)" in r for r in reasons)
    assert not any(key.startswith("backbone.fpn.") for key in converted.state_dict)
    assert converted.architecture == "mask_rcnn"


def test_a_backbone_that_is_not_whole_is_refused() -> None:
    state = mmdet_detector("resnet50")
    del state["backbone.layer3.4.gn2.bias"]
    with pytest.raises(ValueError, match=r"closest is resnet50: layer3\.4\.gn2\.bias is missing"):
        convert_state(state)


def test_detectors_with_batch_norm_are_refused() -> None:
    state = of_torchvision("resnet50", torch.nn.BatchNorm2d)
    detector = {f"backbone.{key}": tensor for key, tensor in state.items()}
    with pytest.raises(ValueError, match=r"with BatchNorm \(backbone\.bn1\.running_mean, 106 such"):
        convert_state(mmdet_detector("resnet50") | detector)


def test_detectors_of_version_1_and_of_one_stage_are_refused() -> None:
    state = mmdet_detector("resnet50")
    older = {key.removeprefix("roi_head."): tensor for key, tensor in state.items()}
    with pytest.raises(
        ValueError, match=r"mmdetection 1\.x measure boxes otherwise; convert a file"
    ):
        convert_state(older)
    one_stage = {key: tensor for key, tensor in state.items() if key.startswith("backbone.")}
    reads(one_stage, "bbox_head.retina_cls.weight", 720, 256, 3, 3)
    with pytest.raises(ValueError, match="only detectors with an RPN, Faster and Mask R-CNN"):
        convert_state(one_stage)


def test_what_has_no_place_in_the_source_cannot_be_restored() -> None:
    ours = convert_state(mmdet_detector("resnet50")).state_dict
    reads(ours, "roi_heads.keypoint_head.weight", 1)
    with pytest.raises(
        ValueError, match=r"1 tensors have no place in 'mmdet': roi_heads\.keypoint"
    ):
        restore_state(ours, "mmdet")
