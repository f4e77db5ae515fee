import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wszoo.datasets.check import check_data
from wszoo.weights import ASSETS


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def photo(number: int) -> bytes:
    return encoded(np.full((8, 12, 3), number, dtype=np.uint8))


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Photos of two classes, one of them broken."""
    labels = encoded(np.array([[0, 1] * 6] * 8, dtype=np.uint8))
    files = {f"images/{name}.png": photo(number) for number, name in enumerate("abc")}
    files |= {f"masks/{name}.png": labels for name in "abc"}
    return write(tmp_path / "masks", {**files, "images/b.png": b""})


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Two photos with boxes, in COCO's format."""
    entry: dict[str, Any] = {
        "images": [
            {"id": key, "file_name": f"{key}.png", "width": 12, "height": 8} for key in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "clot"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 6, 4], "area": 24},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [1, 1, 3, 2], "area": 6},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [2, 2, 0, 0], "area": 0},
        ],
    }
    files = {f"train/{key}.png": photo(key) for key in (1, 2)}
    files["train/_annotations.coco.json"] = json.dumps(entry).encode()
    return write(tmp_path / "boxes", files)


def test_a_classification_set_is_told_in_counts() -> None:
    report = check_data("classify", ASSETS / "clothing", split="val")

    assert report.ok and report.findings == () and report.quarantine() == {}
    facts = json.loads(json.dumps(report.to_json()))
    assert facts["images"] == 200 and len(facts["classes"]) == 10
    assert facts["splits"][0]["split"] == "val"
    assert facts["splits"][0]["per_class"] == dict.fromkeys(facts["classes"], 20)
    first, last = str(report).splitlines()
    assert first.startswith("val: 200 images; 10 classes of 20 images; ")
    assert last == f"{ASSETS / 'clothing'}: 200 images of 10 classes to classify: ok"


def test_a_segmentation_set_is_told_in_pixels_and_its_errors_listed(masks: Path) -> None:
    report = check_data("segment", masks, classes=["sky", "road"])

    assert not report.ok
    assert report.quarantine() == {
        f"{masks}/images/b.png": "image-broken: images that cannot be decoded"
    }
    lines = str(report).splitlines()
    assert lines[0] == ("all: 3 images; 2 classes of 50.00% pixels; 12 x 8 pixels each")
    assert lines[1].startswith("error: 1 x images that cannot be decoded; mend or remove them")
    assert lines[2] == f"    {masks}/images/b.png: it is empty"
    assert lines[-1] == f"{masks}: 3 images of 2 classes to segment: 1 error"


def test_a_detection_set_is_told_in_objects(boxes: Path) -> None:
    report = check_data("detect", boxes)

    (split,) = report.survey.splits
    assert (split.split, split.images, split.objects) == ("train", 2, (2, 1))
    assert split.per_class == {"cell": 2, "clot": 1}
    assert split.sizes.tolist() == [[12, 8], [12, 8]]
    assert split.box_sizes == pytest.approx([0.5, 0.25])
    assert report.survey.classes == ("cell", "clot")
    assert not report.ok
    assert list(report.quarantine()) == [f"{boxes}/train/2.png"]
    assert report.to_json()["splits"][0]["objects"] == 3
    assert str(report).startswith("train: 2 images; 3 objects; 2 classes of 1 (clot) to 2 (cell)")


def test_warnings_and_notes_leave_a_set_ok(masks: Path) -> None:
    (masks / "images" / "b.png").write_bytes(photo(0))

    report = check_data("segment", masks, input_size=64)

    assert report.ok
    assert [finding.level for finding in report.findings] == ["note", "note"]
    assert str(report).endswith("to segment: ok, 2 notes")


@pytest.mark.parametrize(
    ("task", "arguments", "told"),
    [
        ("classify", {"classes": ["a", "b"]}, "class folders name their classes"),
        ("classify", {"ignore": [1]}, "ignore is for masks, not for the task 'classify'"),
        ("detect", {"ignore": [1]}, "ignore is for masks, not for the task 'detect'"),
        ("detect", {"input_size": 64}, "input_size is not for detect"),
    ],
)
def test_arguments_of_another_task_are_refused(
    task: Any, arguments: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        check_data(task, tmp_path, **arguments)
