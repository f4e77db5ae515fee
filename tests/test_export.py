"""Exported files beside the nets they were made of."""

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import torch
from torch import nn

import wszoo
from wszoo import detection, segmentation
from wszoo.exporting import (
    Exported,
    Subject,
    export,
    make_plan,
    missing_packages,
    subject_of_classifier,
    subject_of_run,
)
from wszoo.exporting.formats import run_onnx, run_program
from wszoo.exporting.graphs import graph_of
from wszoo.finetune.settings import TaskName

SMALL = "test_resnet_gn_ws"
SIZE = (64, 96)
NARROW: dict[str, dict[str, Any]] = {
    "semantic_fpn": {"fpn_channels": 32, "channels": 32},
    "deeplab_v3_plus": {"aspp_channels": 32, "channels": 32, "low_level_channels": 32},
    "upernet": {"pool_channels": 32, "channels": 32},
    "unet": {"channels": (32,) * 5},
}
DETECTORS = ("fcos", "retinanet", "faster_rcnn", "mask_rcnn")


def classifier() -> Subject:
    name = wszoo.weights.find(SMALL).name
    return subject_of_classifier(timm.create_model(name, pretrained=True).eval(), name)


def subject_of(net: nn.Module, task: TaskName, head: str) -> Subject:
    mean = std = (0.5, 0.5, 0.5)
    name = f"{head} that has not learned"
    return Subject(net=net.eval(), name=name, task=task, head=head, size=SIZE, mean=mean, std=std)


def segmenter(head: str) -> Subject:
    make: Callable[..., nn.Module] = getattr(segmentation, head)
    return subject_of(make(SMALL, num_classes=3, **NARROW[head]), "segment", head)


def detector(head: str) -> Subject:
    make: Callable[..., Any] = getattr(detection, head)
    is_dense = head in ("fcos", "retinanet")
    threshold = {"score_thresh" if is_dense else "box_score_thresh": 0.3}
    sizes = dict(min_size=64, max_size=96, pyramid_channels=32)
    net = make(SMALL, num_classes=3, **sizes, **threshold)
    if is_dense:  # sure of everything
        nn.init.constant_(net.head.classification_head.cls_logits.bias, 0.0)
    return subject_of(net, "detect", head)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def as_onnx(folder: Path) -> Exported:
    return export(classifier(), make_plan(folder / "net.onnx", "classify", size=SIZE))


@pytest.fixture(scope="module")
def as_program(folder: Path) -> Exported:
    return export(classifier(), make_plan(folder / "net.pt2", "classify", size=SIZE), rounds=1)


def test_a_classifier_of_onnx_takes_any_batch_and_size_in_0_to_1(as_onnx: Exported) -> None:
    net: Any = timm.create_model(SMALL, pretrained=True).eval()
    mean, std = (torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    run = run_onnx(as_onnx.path.read_bytes())

    for shape in ((1, 3, 64, 64), (2, 3, 80, 65), (4, 3, 33, 130)):
        images = torch.rand(shape)
        with torch.no_grad():
            expected = net((images - mean) / std)

        (logits,) = run(images)

        assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_its_check_ran_on_three_batches_of_three_sizes(as_onnx: Exported) -> None:
    assert as_onnx.check is not None
    assert as_onnx.check.shapes == ((1, 3, 64, 96), (2, 3, 97, 102), (3, 3, 96, 160))
    assert 0 < as_onnx.check.error < 1e-5
    assert "differs from torch by" in str(as_onnx)
    assert "images (N, 3, H, W) in 0..1 to logits" in str(as_onnx)


def test_a_file_says_what_it_is(as_onnx: Exported) -> None:
    model = onnx.load(as_onnx.path)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    record = wszoo.weights.find(SMALL)

    assert facts == as_onnx.metadata
    assert json.loads(facts["classes"]) == record.label_names()
    assert (facts["model"], facts["sha256"]) == (record.name, record.sha256)
    assert (facts["formula"], facts["folded"]) == (record.formula, "true")
    assert json.loads(facts["mean"]) == list(record.mean)
    assert (json.loads(facts["input"]), facts["values"]) == ([1, 3, 64, 96], "0..1")
    assert (facts["first_class"], facts["task"]) == ("0", "classify")


def test_a_file_names_its_axes_and_holds_no_paths_of_the_machine(as_onnx: Exported) -> None:
    model = onnx.load(as_onnx.path)
    dims = model.graph.input[0].type.tensor_type.shape.dim

    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]
    assert str(Path(wszoo.__file__).parent).encode() not in as_onnx.path.read_bytes()
    assert b"site-packages" not in as_onnx.path.read_bytes()


def test_standardization_is_folded_into_the_kernels(as_onnx: Exported) -> None:
    model = onnx.load(as_onnx.path)
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}

    assert kernels <= {tensor.name for tensor in model.graph.initializer}


def test_a_program_of_torch_gives_the_same_and_says_what_it_is(
    as_program: Exported, as_onnx: Exported
) -> None:
    content = as_program.path.read_bytes()
    extra = {"wszoo.json": ""}
    torch.export.load(BytesIO(content), extra_files=extra)
    images = torch.rand(3, 3, 65, 82)

    (logits,), (others,) = run_program(content)(images), run_onnx(as_onnx.path.read_bytes())(images)

    torch.testing.assert_close(logits, others)
    assert json.loads(extra["wszoo.json"]) == as_program.metadata == as_onnx.metadata


def test_one_image_is_timed_before_and_after(as_program: Exported) -> None:
    latency = as_program.latency

    assert latency is not None
    assert min(latency.torch_ms, latency.folded_ms, latency.file_ms) > 0
    assert (latency.shape, latency.rounds) == ((1, 3, 64, 96), 1)
    assert f"file {latency.file_ms:.1f} ms for one image of 64 x 96" in str(as_program)


def test_the_net_stays_as_it_was(folder: Path) -> None:
    subject = classifier()
    before = {key: value.clone() for key, value in subject.net.state_dict().items()}

    graph_of(subject, make_plan(folder / "net.onnx", "classify"))

    torch.testing.assert_close(subject.net.state_dict(), before, rtol=0, atol=0)
    assert any(isinstance(module, wszoo.WSConv2d) for module in subject.net.modules())


def test_hooks_stay_out_of_the_copy_that_is_traced(folder: Path) -> None:
    subject = detector("fcos")

    graph = graph_of(subject, make_plan(folder / "net.onnx", "detect"))

    assert subject.net._forward_pre_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in graph.modules())


@pytest.mark.parametrize(
    ("file", "task", "options", "message"),
    [
        ("net.pth", "classify", {}, "net.pth must end in .onnx or .pt2"),
        ("net.onnx", "classify", {"size": (32, 64)}, "32 x 64 pixels are too small; 64 a side"),
        ("net.onnx", "segment", {"preprocessing": False}, "a net to segment normalises images"),
        ("net.pt2", "classify", {"opset": 18}, "net.pt2 has no opset"),
        ("net.onnx", "classify", {"opset": 12}, "opset 12 is too old; 18 is the first"),
        ("net.onnx", "detect", {"opset": 23}, "opset 23 is too new for detectors; 18 to 20"),
        ("net.pt2", "detect", {}, "torch.export cannot follow torchvision's detectors"),
        ("net.onnx", "detect", {"dynamic": True}, "exported for one image of one size"),
    ],
)
def test_what_does_not_work_is_refused_with_the_reason(
    file: str, task: TaskName, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(Path(file), task, **options)


def test_a_net_that_torch_cannot_export_is_refused_with_the_reason(folder: Path) -> None:
    class Asking(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    plan = make_plan(folder / "asking.pt2", "segment", size=SIZE)

    with pytest.raises(ValueError, match=r"torch cannot export this net to asking.pt2: Could not"):
        export(subject_of(Asking(), "segment", "unet"), plan)
    assert not plan.path.exists()


def test_a_net_without_a_classifier_is_refused() -> None:
    net = timm.create_model(SMALL, num_classes=0)

    with pytest.raises(ValueError, match="has no classifier; name weights that have one"):
        subject_of_classifier(net, SMALL)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no fine-tuned net"):
        subject_of_run(tmp_path)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages() == []

    monkeypatch.setitem(sys.modules, "onnxscript", None)

    assert missing_packages() == ["onnxscript"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_static_file_may_take_normalised_images(suffix: str, tmp_path: Path) -> None:
    options: dict[str, Any] = dict(size=(64, 64), dynamic=False, preprocessing=False)
    plan = make_plan(tmp_path / f"net{suffix}", "classify", **options)

    written = export(classifier(), plan)

    assert written.check is not None
    assert set(written.check.shapes) == {(1, 3, 64, 64)}
    assert "images (1, 3, 64, 64) normalised to logits" in str(written)


@pytest.mark.slow
def test_the_opset_is_that_which_was_asked_for(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "net.onnx", "classify", size=SIZE, dynamic=False, opset=18)

    written = export(classifier(), plan)

    assert [entry.version for entry in onnx.load(written.path).opset_import] == [18]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("head", NARROW)
def test_segmenters_take_any_batch_and_size(head: str, suffix: str, tmp_path: Path) -> None:
    written = export(segmenter(head), make_plan(tmp_path / f"net{suffix}", "segment"))

    assert written.check is not None
    assert written.check.shapes == ((1, 3, 64, 96), (2, 3, 97, 102), (3, 3, 96, 160))
    assert written.check.error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("head", DETECTORS)
def test_detectors_find_the_same_objects(head: str, tmp_path: Path) -> None:
    photo = torch.rand(3, 50, 60)

    written = export(detector(head), make_plan(tmp_path / "net.onnx", "detect"), photos=[photo])

    assert written.check is not None and written.check.objects is not None
    assert written.check.shapes == ((1, 3, 64, 96),) * 4
    assert written.check.objects > 20
    assert written.metadata["outputs"].startswith("boxes, scores, labels")
