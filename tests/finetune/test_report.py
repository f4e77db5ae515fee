from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from tests.photo_sets import write_classes, write_coco, write_masks
from wszoo.datasets import LabelledImages
from wszoo.datasets.detection import DetectionImages
from wszoo.datasets.segmentation import SegmentationImages
from wszoo.finetune.data import DataSource, Images, read_splits
from wszoo.finetune.report import (
    add_to_report,
    draw_classified,
    draw_detected,
    draw_segmented,
    ranked,
    table,
)
from wszoo.finetune.results import Classified, detect_photos, segment_photos
from wszoo.finetune.settings import TaskName


def held_out(task: TaskName, data: Path) -> Images:
    return read_splits(DataSource(task=task, path=data)).held_out


def is_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.format == "PNG" and min(picture.size) > 200


class FindsRed(nn.Module):
    """Answers as detectors and segmenters do: what is red is of class 1."""

    def __init__(self, masks: bool = False) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.masks = masks

    def forward(self, images: Any) -> Any:
        if not isinstance(images, list):
            red = (images[:, 0] > 0.6).float()
            return torch.stack([1 - red, red], dim=1)
        return [self._find(image[0] > 0.6) for image in images]

    def _find(self, red: torch.Tensor) -> dict[str, torch.Tensor]:
        rows, columns = red.nonzero().unbind(1)
        if not len(rows):
            empty = torch.zeros(0)
            return {"boxes": empty.view(0, 4), "scores": empty, "labels": empty.long()}
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        found = {
            "boxes": torch.tensor([[int(side) for side in box]]).float(),
            "scores": torch.tensor([0.75]),
            "labels": torch.ones(1, dtype=torch.long),
        }
        return found | ({"masks": red[None, None].float()} if self.masks else {})


def test_best_median_and_worst_photos_are_chosen() -> None:
    scores = {number: float(number) for number in range(10)}

    assert ranked(scores, 2) == {
        9: "best",
        8: "best",
        5: "median",
        4: "median",
        1: "worst",
        0: "worst",
    }


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_of_few_photos_none_is_shown_twice(count: int) -> None:
    chosen = ranked(dict.fromkeys(range(count), 0.5), 6)

    assert 1 <= len(chosen) <= count
    assert 0 in chosen


def test_a_classifier_is_drawn_and_told_by_class(tmp_path: Path) -> None:
    images = held_out("classify", write_classes(tmp_path / "data"))  # blue 0, 1, 2; red 3, 4, 5
    assert isinstance(images, LabelledImages)
    red = torch.tensor([0.1, 0.2, 0.9, 0.8, 0.7, 0.6])
    confusion = torch.tensor([[2, 1], [0, 3]])
    found = Classified(
        images=images, probabilities=torch.stack((1 - red, red), 1), confusion=confusion
    )

    text = draw_classified(found, tmp_path, "a net")

    assert "| blue | 3 | 66.7 | 100.0 |" in text
    assert "| red | 3 | 100.0 | 75.0 |" in text
    assert is_picture(tmp_path / "examples.png") and is_picture(tmp_path / "confusion.png")
    assert found.metrics == {"top1": pytest.approx(100 * 5 / 6), "top5": 100}
    assert found.scores()[2] == pytest.approx(0.1)


@pytest.mark.parametrize("masks", [False, True])
def test_a_detector_is_drawn_and_told_by_class(masks: bool, tmp_path: Path) -> None:
    images = held_out("detect", write_coco(tmp_path / "data"))  # red, blue, red
    assert isinstance(images, DetectionImages)
    model = FindsRed(masks)

    found = detect_photos(model, images)
    text = draw_detected(found, model, found.min_score(), tmp_path, "a net")

    assert "| red | 2 | 100.0 | 100.0 | 0.75 |" in text
    assert "| blue | 1 | 0.0 | 0.0 | n/a |" in text
    assert found.scores(0.5) == {0: 1.0, 1: 0.0, 2: 1.0}
    assert found.metrics["box_ap"] == pytest.approx(50)
    assert is_picture(tmp_path / "examples.png") and is_picture(tmp_path / "precision_recall.png")


def test_a_segmenter_is_drawn_and_told_by_class(tmp_path: Path) -> None:
    images = held_out("segment", write_masks(tmp_path / "data"))
    assert isinstance(images, SegmentationImages)

    found = segment_photos(FindsRed(), images, 1000)
    text = draw_segmented(found, FindsRed(), 1000, tmp_path, "a net")

    assert "| red |" in text
    assert text.count(" 100.0 | 100.0 |") == 2
    assert found.metrics["miou"] == 100
    assert is_picture(tmp_path / "examples.png") and is_picture(tmp_path / "confusion.png")


def test_a_section_stands_between_curves_and_plan(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text("# Run\n\n## Curves\n\nc\n\n## Plan\n\np\n")

    add_to_report(report, "Photos", "seen")

    assert report.read_text() == "# Run\n\n## Curves\n\nc\n\n## Photos\n\nseen\n\n## Plan\n\np\n"
    other = tmp_path / "other.md"
    other.write_text("nothing")
    with pytest.raises(ValueError, match="other.md is not the report of a run"):
        add_to_report(other, "Photos", "seen")


def test_names_cannot_break_a_table() -> None:
    assert table(("class", "n"), [("a|b\nc", "1")]).splitlines()[-1] == "| a\\|b c | 1 |"
