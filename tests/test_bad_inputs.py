"""Data, models and photos that are wrong: what commands say, in one line, and their exit code."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.photo_sets import write_classes, write_coco, write_masks
from wszoo.cli import main
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build
from wszoo.finetune.outputs import save_output
from wszoo.finetune.settings import TaskName

Spoil = Callable[[Path], Any]
WRITERS: dict[TaskName, Callable[..., Path]] = {
    "classify": write_classes,
    "detect": write_coco,
    "segment": write_masks,
}
PHOTO: dict[TaskName, str] = {
    "classify": "train/red/0.png",
    "detect": "train/0.png",
    "segment": "train/images/0.png",
}


def call(*words: "str | Path") -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(data: bytes) -> Spoil:
    """Other bytes in the place of the first photo, whatever the task."""

    def spoil(root: Path) -> None:
        for name in PHOTO.values():
            if (root / name).exists():
                (root / name).write_bytes(data)

    return spoil


def mask(pixels: np.ndarray) -> Spoil:
    return lambda root: (root / "train/masks/0.png").write_bytes(encoded(Image.fromarray(pixels)))


def masks(pixels: np.ndarray) -> Spoil:
    """The same mask for every photo."""
    data = encoded(Image.fromarray(pixels))
    return lambda root: [path.write_bytes(data) for path in root.glob("*/masks/*.png")]


def coco(change: Callable[[dict[str, Any]], Any], split: str = "train") -> Spoil:
    """A change to the annotations of a split."""

    def spoil(root: Path) -> None:
        path = root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def box(*edges: float) -> Spoil:
    return coco(lambda content: content["annotations"][0].update(bbox=[*edges]))


def as_corners(content: dict[str, Any]) -> None:
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]


def grey(value: int, size: tuple[int, int] = (80, 96)) -> np.ndarray:
    return np.full(size, value, dtype=np.uint8)


def emptied(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def become_a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("x")


def drop_split(root: Path) -> None:
    shutil.rmtree(root / "val")


TALL = encoded(Image.new("RGB", (80, 96)))
TRUNCATED = encoded(Image.effect_noise((96, 80), 90).convert("RGB"), "JPEG")[:2000]
BOMB = encoded(Image.new("1", (14_000, 14_000)))
# What is wrong, for which task, what does it, and what `wszoo finetune` says before it begins.
DATA: list[tuple[str, TaskName, Spoil, str]] = [
    *(("truncated", t, photo(TRUNCATED), "images? .*image file is truncated") for t in PHOTO),
    *(("zero bytes", t, photo(b""), "it is empty|an empty file") for t in PHOTO),
    *(("no image", t, photo(b"hello"), "no image of a known format") for t in PHOTO),
    *(("bomb", t, photo(BOMB), "decompression bomb") for t in PHOTO),
    ("mask truncated", "segment", lambda r: (r / "train/masks/0.png").write_bytes(b"\x89PNG"), "m"),
    ("mask value", "segment", mask(grey(128)), "values beyond the classes .*0.png: 128"),
    ("mask RGB", "segment", mask(np.zeros((80, 96, 3), np.uint8)), "mode RGB, not one label per"),
    ("mask size", "segment", mask(grey(0, (9, 9))), "has 9 x 9 pixels, its photo 96 x 80"),
    ("masks 0 and 255", "segment", masks(grey(255)), "of 0 and 255 only: 255 is always ignored"),
    ("mask gone", "segment", lambda r: (r / "train/masks/0.png").unlink(), "images without a mask"),
    ("photo gone", "segment", lambda r: (r / "train/images/0.png").unlink(), "without an image"),
    (
        "photo gone",
        "detect",
        lambda r: (r / "train/0.png").unlink(),
        "1 x missing image, as in .*0.png: no such photo",
    ),
    ("box empty", "detect", box(3, 3, 0, 9), "1 x box without area, as in .*annotation 1"),
    ("box NaN", "detect", box(3, 3, float("nan"), 9), "1 x box that is NaN or infinite"),
    ("box outside", "detect", box(200, 3, 9, 9), "1 x box wholly outside its image"),
    ("box inverted", "detect", box(30, 30, -9, 9), "1 x box whose right is left of its left"),
    ("boxes as corners", "detect", coco(as_corners), "boxes? .*x1, y1, x2, y2"),
    ("box of text", "detect", coco(lambda c: c["annotations"][0].update(bbox="3 3 9 9")), "four"),
    (
        *("label unknown", "detect"),
        *(coco(lambda c: c["annotations"][0].update(category_id=0)), "label that is no class"),
    ),
    (
        *("label negative", "detect"),
        *(coco(lambda c: c["annotations"][0].update(category_id=-1)), "label that is no class"),
    ),
    (
        *("image id twice", "detect"),
        *(coco(lambda c: c["images"][1].update(id=0)), "1 x image id given twice"),
    ),
    (
        *("json cut", "detect"),
        lambda r: (r / "annotations/instances_val.json").write_text('{"images": ['),
        "annotation file that cannot be read",
    ),
    ("nothing to find", "detect", coco(lambda c: c["annotations"].clear(), "val"), "show no objec"),
    ("photo of another size", "detect", photo(TALL), "image of another size than|80 x 96"),
    (
        "class empty",
        "classify",
        lambda r: (r / "train/void").mkdir(),
        "1 x classes without images, .*shows all$",
    ),
    ("no val", "classify", drop_split, "has no split val and no split test, but fine-tuning is"),
    ("no val", "segment", drop_split, "has no split val and no split test, but fine-tuning is"),
    *(("empty folder", t, emptied, "no |holds no") for t in PHOTO),
    *(("gone", t, shutil.rmtree, "no such (folder or archive|data): ") for t in PHOTO),
    *(
        (
            "file",
            t,
            become_a_file,
            "cannot read |no folder and no",
        )
        for t in PHOTO
    ),
]


@pytest.mark.parametrize(
    ("task", "spoil", "line"), [row[1:] for row in DATA], ids=[f"{row[1]} {row[0]}" for row in DATA]
)
def test_data_that_cannot_be_learned_from_ends_with_one_line(
    task: TaskName, spoil: Spoil, line: str, tmp_path: Path
) -> None:
    data = WRITERS[task](tmp_path / "data")
    spoil(data)

    result = call(
        *("finetune", task, "--data", data, "--model", "test_resnet_gn_ws"),
        *("--out", tmp_path / "run", "--device", "cpu", "--workers", "0", "--image-size", "64"),
    )

    told = [text for text in result.stderr.splitlines() if not text.startswith("wszoo: data: ")]
    assert result.exit_code == 3, result.output
    assert len(told) == 1 and told[0].startswith("wszoo: ")
    assert re.search(line, told[0]), told[0]
    assert not (tmp_path / "run").exists(), "nothing is left of a run that never began"


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", (80, 96), (9, 9, 9)), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("RGB", (96, 80), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def empty_annotations(content: dict[str, Any]) -> None:
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 7]


# What is odd, for which task, what makes it so, and the findings that `wszoo check-data` lists.
ODD: list[tuple[str, TaskName, Spoil, list[str]]] = [
    *(("CMYK", t, photo(encoded(Image.new("CMYK", (96, 80)), "JPEG")), []) for t in PHOTO),
    *(("16 bits", t, photo(encoded(Image.new("I;16", (96, 80)), "TIFF")), []) for t in PHOTO),
    *(("palette", t, photo(encoded(Image.new("P", (96, 80)))), []) for t in PHOTO),
    *(("grey", t, photo(encoded(Image.new("L", (96, 80)))), []) for t in PHOTO),
    ("turned by EXIF", "classify", photo(rotated()), []),
    ("turned by EXIF", "segment", photo(rotated()), []),
    ("animated", "classify", photo(animated()), ["image-animated"]),
    ("animated", "segment", photo(animated()), ["image-animated"]),
    ("one pixel", "classify", photo(encoded(Image.new("RGB", (1, 1)))), []),
    ("box partly outside", "detect", box(80, 60, 40, 40), ["box-clipped"]),
    ("box of one pixel", "detect", box(8, 8, 1, 1), ["box-tiny"]),
    (
        *("10 000 boxes", "detect"),
        coco(
            lambda c: c["annotations"].extend(
                {**c["annotations"][0], "id": 100 + number} for number in range(10_000)
            )
        ),
        ["objects-many"],
    ),
    ("a class absent", "detect", coco(empty_annotations), ["class-untrained", "image-background"]),
    ("mask of void", "segment", mask(grey(255)), ["mask-ignored"]),
    (
        *("ids that are strings", "detect"),
        lambda r: [
            coco(
                lambda c: [
                    *(i.update(id=f"x{i['id']}") for i in c["images"]),
                    *(a.update(image_id=f"x{a['image_id']}") for a in c["annotations"]),
                ],
                split,
            )(r)
            for split in ("train", "val")
        ],
        ["ids-strings"],
    ),
    (
        *("the same photo in train and val", "classify"),
        lambda r: shutil.copy(r / "train/red/0.png", r / "val/red/copy.png"),
        ["split-identical"],
    ),
]


@pytest.mark.parametrize(
    ("task", "spoil", "codes"), [row[1:] for row in ODD], ids=[f"{row[1]} {row[0]}" for row in ODD]
)
def test_data_that_is_only_odd_can_be_learned_from(
    task: TaskName, spoil: Spoil, codes: list[str], tmp_path: Path
) -> None:
    data = WRITERS[task](tmp_path / "data", splits={"train": 11, "val": 3})
    spoil(data)

    result = call("check-data", "--task", task, "--data", data, "--json")

    assert result.exit_code == 0, result.output
    found = {finding["code"] for finding in json.loads(result.stdout)["findings"]}
    always = {"ids-gaps"} if task == "detect" else set()
    assert set(codes) <= found <= {*codes, *always}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskName, Path]:
    """What runs of nets that have not learned leave."""
    torch.manual_seed(0)
    heads: dict[TaskName, str] = {"detect": "fcos", "segment": "semantic_fpn", "classify": "linear"}
    folders: dict[TaskName, Path] = {}
    for task, head in heads.items():
        more = {} if task == "classify" else {"max_size": 96}
        chosen = settings_for(
            task, model="test_resnet_gn_ws", head=head, pretrained=False, image_size=64, **more
        )
        folders[task] = tmp_path_factory.mktemp(task)
        names = ("ground", "red")
        save_output(
            folders[task],
            build(chosen, 2),
            chosen,
            classes=names,
            class_ids=names,
            epoch=1,
            metrics={},
        )
    return folders


def weights(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(run: Path) -> None:
        path = run / "model" / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def config(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(run: Path) -> None:
        path = run / "model" / "config.json"
        content = json.loads(path.read_text())
        change(content["wszoo"])
        path.write_text(json.dumps(content))

    return spoil


def rename_a_key(run: Path) -> None:
    path = run / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["other"] = tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


# What is wrong with the files of a net, what does it, and what `wszoo predict` says.
MODELS: list[tuple[str, Spoil, str]] = [
    ("truncated", weights(lambda data: data[:-100]), "model.safetensors"),
    ("bytes behind", weights(lambda data: data + b"x"), "model.safetensors"),
    ("empty", weights(lambda data: b""), "model.safetensors"),
    ("a length that cannot be", weights(lambda data: b"\xff" * 8 + data[8:]), "model.safetensors"),
    ("a flipped bit", weights(flipped), "sha256"),
    ("a pickle", weights(lambda data: b"\x80\x04cos\nsystem\n(S'false'\ntR."), "model.safetensors"),
    ("a renamed key", rename_a_key, "sha256"),
    ("gone", lambda run: (run / "model" / "model.safetensors").unlink(), "model.safetensors"),
    ("no such architecture", config(lambda c: c["net"].update(architecture="no_net")), "no_net"),
    ("no such head", config(lambda c: c["net"].update(head="yolo")), "no head 'yolo' to segment"),
    ("a part missing", config(lambda c: c.pop("classes")), "tells nothing of a fine-tuned net"),
    (
        "another class",
        config(lambda c: c.update(classes=["a", "b", "c"])),
        "do not fit its configuration: size mismatch",
    ),
    (
        "a json of something else",
        lambda run: (run / "model" / "config.json").write_text("[]"),
        "is no file|no model|holds no",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "line"), [row[1:] for row in MODELS], ids=[row[0] for row in MODELS]
)
def test_a_net_that_is_damaged_ends_with_one_line(
    spoil: Spoil, line: str, nets: dict[TaskName, Path], tmp_path: Path
) -> None:
    run, image = tmp_path / "run", tmp_path / "photo.png"
    shutil.copytree(nets["segment"], run)
    Image.new("RGB", (96, 80)).save(image)
    assert call("predict", run, image).exit_code == 0
    spoil(run)

    result = call("predict", run, image)

    assert result.exit_code in (2, 3), result.output
    if result.exit_code == 3:
        assert len(result.stderr.splitlines()) == 1, result.stderr
    assert re.search(line, result.stderr), result.stderr


PHOTOS: list[tuple[str, bytes | None, int, str]] = [
    ("truncated", TRUNCATED, 3, "photo.png: image file is truncated"),
    ("zero bytes", b"", 3, "photo.png: it is empty"),
    ("no image", b"hello", 3, "photo.png: it is no image of a known format"),
    ("bomb", BOMB, 3, "decompression bomb"),
    ("gone", None, 3, "no such image or folder: "),
    ("CMYK", encoded(Image.new("CMYK", (96, 80)), "JPEG"), 0, ""),
    ("16 bits", encoded(Image.new("I;16", (96, 80)), "TIFF"), 0, ""),
    ("animated", animated(), 0, ""),
    ("turned by EXIF", rotated(), 0, ""),
    ("one pixel", encoded(Image.new("RGB", (1, 1))), 0, ""),
]


@pytest.mark.parametrize(
    "task",
    ["classify", *(pytest.param(task, marks=pytest.mark.slow) for task in ("detect", "segment"))],
)
@pytest.mark.parametrize(
    ("data", "code", "line"), [row[1:] for row in PHOTOS], ids=[row[0] for row in PHOTOS]
)
def test_photos_to_predict_are_taken_or_named(
    data: bytes | None,
    code: int,
    line: str,
    task: TaskName,
    nets: dict[TaskName, Path],
    tmp_path: Path,
) -> None:
    if data is not None:
        (tmp_path / "photo.png").write_bytes(data)

    result = call("predict", nets[task], tmp_path / "photo.png", "--json")

    assert result.exit_code == code, result.output
    assert line in result.stderr and len(result.stderr.splitlines()) == (code == 3)


@pytest.mark.parametrize(
    ("task", "classes", "line"),
    [
        (
            "detect",
            ("red", "green"),
            r"category_id 14 \(green\): label that is no class of",
        ),
        ("segment", ("ground", "green"), "has the class 'green', but known are ground, red"),
    ],
)
def test_other_classes_than_those_of_the_net_are_told_by_name(
    task: TaskName, classes: tuple[str, str], line: str, nets: dict[TaskName, Path], tmp_path: Path
) -> None:
    data = WRITERS[task](tmp_path / "data", classes=classes)

    result = call("eval", nets[task], "--data", data)

    assert result.exit_code == 3, result.output
    assert len(result.stderr.splitlines()) == 1
    assert re.search(line, result.stderr), result.stderr
