from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from wszoo.datasets import LabelledImages
from wszoo.evaluate import (
    class_names,
    evaluate,
    predict,
    preprocessing,
    published_top1,
    targets_for,
)
from wszoo.weights import Weights


class Brightness(nn.Module):
    """Rates class k by how near the mean of the photo is to k / 10."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.arange(10) / 10)
        self.pretrained_cfg = {
            "input_size": (3, 8, 8),
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        }

    def forward(self, images: Tensor) -> Tensor:
        return -100 * (images.mean(dim=(1, 2, 3))[:, None] - self.levels).abs()


def greys(levels: list[int], tmp_path: Path) -> LabelledImages:
    paths = []
    for index, level in enumerate(levels):
        paths.append(tmp_path / f"{index}.png")
        Image.new("RGB", (12, 9), (round(25.5 * level),) * 3).save(paths[-1])
    classes = tuple("abcdefghij")
    return LabelledImages(
        names=tuple(map(str, paths)), sources=tuple(paths), targets=tuple(levels), classes=classes
    )


def record(**changes: object) -> Weights:
    facts: dict[str, object] = {"model": "m", "tag": "t", "sha256": "0", "license": "mit"}
    return Weights(**{**facts, **changes})  # type: ignore[arg-type]


def test_accuracy_counts_the_photos_that_are_rated_right(tmp_path: Path) -> None:
    images = greys([0, 3, 3, 9, 5], tmp_path)

    result = evaluate(Brightness(), images, [0, 3, 4, 0, 5], batch_size=2)

    assert result.count == 5
    assert result.top1 == pytest.approx(60)
    assert result.top5 == pytest.approx(80)  # class 4 is among the five nearest to 3, 0 is not to 9
    assert result.confusion[4, 3] == 1
    assert result.confusion.sum() == 5
    assert result.standard_error == pytest.approx(100 * (0.6 * 0.4 / 5) ** 0.5)


def test_predictions_come_best_first_and_their_shares_add_up(tmp_path: Path) -> None:
    images = greys([7], tmp_path)

    ((first, *rest),) = predict(Brightness(), [images.image(0)], top=10)

    assert first[0] == 7
    assert [share for _, share in rest] == sorted((share for _, share in rest), reverse=True)
    assert first[1] + sum(share for _, share in rest) == pytest.approx(1, abs=1e-5)


def test_photos_are_asked_for_one_after_the_other() -> None:
    model = Brightness()
    seen = []
    model.register_forward_hook(lambda *_: seen.append("ranked"))

    def photos() -> Iterator[Image.Image]:
        for _ in range(2):
            seen.append("decoded")
            yield Image.new("RGB", (12, 9))

    predict(model, photos())

    assert seen == ["decoded", "ranked"] * 2


def test_classes_are_named_by_the_record_or_by_the_configuration() -> None:
    model = timm.create_model("test_resnet_gn_ws", num_classes=2)
    cfg: dict[str, Any] = {}
    model.pretrained_cfg = cfg  # type: ignore[assignment]

    assert class_names(model, None) is None
    assert class_names(model, record(num_classes=2)) == ["0", "1"]
    cfg["label_names"] = ["n01", "n02"]
    assert class_names(model, None) == ["n01", "n02"]
    cfg["label_descriptions"] = {"n01": "tench"}
    assert class_names(model, None) == ["tench", "n02"]
    cfg["label_names"] = ["one of many"]
    assert class_names(model, None) is None


def test_class_folders_are_matched_by_name_where_the_weights_know_their_classes(
    tmp_path: Path,
) -> None:
    weights = record(labels="tin200.tsv", num_classes=200)
    identifiers = weights.label_ids()
    images = LabelledImages(
        names=("x", "y"),
        sources=(b"", b""),
        targets=(1, 0),
        classes=(identifiers[3], identifiers[150]),
    )

    assert targets_for(images, weights, 200) == [150, 3]


def test_an_unknown_class_folder_is_named() -> None:
    images = LabelledImages(names=("x",), sources=(b"",), targets=(0,), classes=("dress",))

    with pytest.raises(ValueError, match="1 of 1 class folders are not classes of m.t.*'dress'"):
        targets_for(images, record(labels="tin200.tsv", num_classes=200), 200)


def test_another_number_of_classes_is_refused() -> None:
    images = LabelledImages(names=("x",), sources=(b"",), targets=(0,), classes=("dress",))

    with pytest.raises(ValueError, match="1 class folders, the model has 10"):
        targets_for(images, None, 10)


def of_classes(*classes: str) -> LabelledImages:
    return LabelledImages(names=("x",), sources=(b"",), targets=(0,), classes=classes)


def test_the_stated_accuracy_is_shown_for_the_classes_it_was_stated_for() -> None:
    weights = record(num_classes=2, metrics={"ImageNet val (published)": {"top1": 76.28}})

    assert published_top1(weights, of_classes("n01", "n02")) == ("ImageNet val (published)", 76.28)
    assert published_top1(weights, of_classes("n01")) is None
    assert published_top1(record(num_classes=2), of_classes("n01", "n02")) is None
    assert published_top1(None, of_classes("n01", "n02")) is None


def test_the_stated_accuracy_is_of_no_use_for_other_classes() -> None:
    weights = record(labels="tin200.tsv", num_classes=200, metrics={"val": {"top1": 50.0}})
    known = weights.label_ids()

    assert published_top1(weights, of_classes(*known)) == ("val", 50.0)
    assert published_top1(weights, of_classes("dress", *known[1:])) is None


def test_photos_are_resized_to_256_and_cropped_to_224_as_published() -> None:
    model = timm.create_model("resnet10_gn_ws", pretrained=False)
    ramp = np.linspace(0, 255, 500 * 400).reshape(400, 500).astype(np.uint8)
    photo = Image.fromarray(np.stack([ramp, ramp.T.reshape(400, 500), 255 - ramp], axis=2))

    prepared = preprocessing(model)(photo)

    by_hand = photo.resize((320, 256), Image.Resampling.BILINEAR).crop((48, 16, 272, 240))
    pixels = torch.from_numpy(np.array(by_hand)).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    right = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(prepared, right, rtol=0, atol=1e-5)


def test_a_timm_model_brings_its_own_preprocessing(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet_gn_ws", num_classes=10)

    result = evaluate(model, greys([1, 2], tmp_path), [1, 2])

    assert result.confusion.shape == (10, 10)
