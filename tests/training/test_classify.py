import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import wszoo  # noqa: F401  registers the variants
from wszoo.datasets import read_labelled_images, store_images
from wszoo.training import classify, file_source
from wszoo.training.batches import plan_batches
from wszoo.training.classify import Classification, Photos, Source
from wszoo.training.distributed import Ranks
from wszoo.training.engine import Learner
from wszoo.training.file_source import FileSource
from wszoo.training.memory_source import MemorySource
from wszoo.training.recipe import Recipe
from wszoo.training.runlog import RunLog
from wszoo.training.sources import held_out_split, open_images

RECIPE = Recipe(
    phases=((1, 32), (1, 40)),
    batch_size=8,
    test_size=32,
    lr=0.1,
    weight_decay=0.0,
    optimizer="sgd",
    precision="fp32",
    held_out_per_class=4,
)
MEAN, STD = (0.5,) * 3, (0.25,) * 3
MIXING = replace(RECIPE, mixup=0.2, cutmix=1.0, auto_augment="rand-m9-mstd0.5-inc1", erasing=0.25)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for name in "abc":
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return root


def open_as(kind: str, data: Path, recipe: Recipe, tmp: Path, workers: int = 0) -> Source:
    images = read_labelled_images(data, "train")
    train, held = held_out_split(images.targets, 4)
    device = torch.device("cpu")
    if kind == "files":
        log = RunLog(tmp / "log", title="test")
        return FileSource(images, train, (images, held), recipe, device, workers=workers, log=log)
    stored = store_images(data, "train", 64, tmp / "cache")
    return MemorySource(stored, train, (stored, held), recipe, device)


def task(source: Source, recipe: Recipe, ranks: Ranks | None = None, micro: int = 8) -> Any:
    ranks = ranks or Ranks()
    plan = plan_batches(recipe.batch_size, ranks.size, micro)
    return Classification(source, recipe, plan, ranks, mean=MEAN, std=STD)


def seen(tasks: list[Any], epoch: int = 0) -> list[bytes]:
    """Every normalised photo with its target, sorted, whoever took it in whatever pass."""
    return sorted(
        image.numpy().tobytes() + target.numpy().tobytes()
        for one in tasks
        for step in one.batches(epoch, 0)
        for batch in step
        for image, target in zip(batch.images, batch.targets, strict=True)
    )


KINDS = ["memory", "files"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", [RECIPE, MIXING], ids=["plain", "mixing"])
def test_ranks_and_accumulation_see_the_same_photos(
    kind: str, recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    source = open_as(kind, data, recipe, tmp_path)
    alone = seen([task(source, recipe)])

    shared = seen([task(source, recipe, Ranks(rank, 4), micro=1) for rank in range(4)])

    assert shared == alone
    assert len(alone) == 24
    assert seen([task(source, recipe)], epoch=1) != alone


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_gone_on_with_gives_the_steps_that_were_left(
    kind: str, data: Path, tmp_path: Path
) -> None:
    one = task(open_as(kind, data, MIXING, tmp_path), MIXING)

    whole, rest = [*one.batches(0, 0)], [*one.batches(0, 2)]

    assert len(whole) == 3
    assert len(rest) == 1
    for ours, theirs in zip(whole[2][0], rest[0][0], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_worker_processes_change_nothing(data: Path, tmp_path: Path) -> None:
    without = seen([task(open_as("files", data, MIXING, tmp_path), MIXING)])
    with_two = task(open_as("files", data, MIXING, tmp_path, workers=2), MIXING)

    assert seen([with_two]) == without
    assert seen([with_two]) == without, "nor does a second epoch of the same workers"


@pytest.mark.parametrize("kind", KINDS)
def test_photos_are_normalised_and_grow_by_phase(kind: str, data: Path, tmp_path: Path) -> None:
    one = task(open_as(kind, data, RECIPE, tmp_path), RECIPE)

    images = torch.cat([batch.images for step in one.batches(1, 0) for batch in step])

    assert images.shape[1:] == (3, 40, 40)
    assert images.mean().abs() < 0.1
    assert -2.01 < images.min() < -1
    assert 1 < images.max() < 2.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_evaluate_to_the_figures_of_one(
    kind: str, size: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wszoo.training.classify.EVAL_BATCH", 5)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_gn_ws", num_classes=3)
    source = open_as(kind, data, RECIPE, tmp_path)
    pauses: list[int] = []

    class Part(Ranks):
        """One of several ranks, whose sums are added up below."""

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            sums.append(values.clone())
            return values

    def figures(rank: int, ranks: int) -> None:
        plan = plan_batches(RECIPE.batch_size, 1)
        place = Part(rank, ranks)
        one = Classification(source, RECIPE, plan, place, mean=(0.5,) * 3, std=(0.25,) * 3)
        learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1))
        one.evaluate(learner, lambda: pauses.append(rank))

    sums: list[torch.Tensor] = []
    figures(0, 1)
    alone = sums.pop()
    pauses.clear()
    for rank in range(size):
        figures(rank, size)

    added = torch.stack(sums).sum(0)
    assert torch.equal(added[:2], alone[:2])
    assert added[2].item() == pytest.approx(alone[2].item(), rel=1e-12)
    assert {pauses.count(rank) for rank in range(size)} == {math.ceil(3 / size)}
    assert model.training


def test_a_photo_that_cannot_be_read_counts_as_not_recognised(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data" / "train"
    for name in "abc":
        (copy / name).mkdir(parents=True)
        for photo in (data / "train" / name).iterdir():
            (copy / name / photo.name).write_bytes(photo.read_bytes())
    (copy / "a" / "11.png").write_bytes(b"")
    source = open_as("files", tmp_path / "data", RECIPE, tmp_path)

    targets = [photos.targets for photos in source.held_out([range(12)], 32, 1.0)]

    assert torch.cat(targets).tolist() == [0, 0, 0, -1, *[1] * 4, *[2] * 4]
    events = (tmp_path / "log" / "events.jsonl").read_text()
    assert "11.png: it is empty" in events


def test_too_many_that_cannot_be_read_end_the_run(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data" / "train"
    for name in "abc":
        (copy / name).mkdir(parents=True)
        for index, photo in enumerate((data / "train" / name).iterdir()):
            (copy / name / photo.name).write_bytes(b"" if index % 4 else photo.read_bytes())
    one = task(open_as("files", tmp_path / "data", RECIPE, tmp_path), RECIPE)

    with pytest.raises(
        ValueError, match=r"of 36 photos cannot be read; \S+quarantine.tsv names them, the last: "
    ):
        list(one.batches(0, 0))


@pytest.mark.parametrize("changes", [{}, {"bce": True}, {"distill": "test_resnet_gn_ws"}], ids=str)
def test_every_loss_is_finite_and_has_a_gradient(
    changes: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **more: made(name, num_classes=3)
    )
    monkeypatch.setattr(classify, "resolve_model_data_config", lambda _: {"mean": MEAN, "std": STD})
    recipe = replace(MIXING, **changes)
    one = task(open_as("memory", data, recipe, tmp_path), recipe)
    model = timm.create_model("test_resnet_gn_ws", num_classes=3).train()

    loss = one.loss(model, next(one.batches(0, 0))[0])
    loss.backward()

    assert math.isfinite(loss.item())
    gradient = model.get_parameter("fc.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_student_that_answers_as_its_teacher_has_only_the_labels_to_learn(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_gn_ws", num_classes=3).eval()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
    monkeypatch.setattr(classify, "resolve_model_data_config", lambda _: {"mean": MEAN, "std": STD})
    source = open_as("memory", data, RECIPE, tmp_path)
    taught = task(source, replace(RECIPE, distill="itself", distill_weight=0.25))
    photos = Photos(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))

    loss = taught.loss(model, photos)

    assert loss.item() == pytest.approx(0.75 * task(source, RECIPE).loss(model, photos).item())


def test_a_teacher_of_other_classes_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, distill="test_resnet_gn_ws")

    with pytest.raises(ValueError, match="teacher test_resnet_gn_ws has 200 classes, the data has"):
        task(open_as("memory", data, recipe, tmp_path), recipe)


def test_a_teacher_that_sees_photos_otherwise_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, distill="test_resnet_gn_ws")
    source = open_as("memory", data, recipe, tmp_path)
    source.num_classes = 200

    with pytest.raises(ValueError, match=r"takes photos with mean \(0.485, .* the student with"):
        task(source, recipe)


def test_a_broken_photo_is_replaced_by_one_that_is_trained_on(data: Path, tmp_path: Path) -> None:
    images = read_labelled_images(data, "train")
    train, _ = held_out_split(images.targets, 4)
    broken = replace(images, sources=(*images.sources[:7], b"", *images.sources[8:]))
    reader = file_source._Reader(broken, train, RECIPE)

    made = [reader[file_source._Key(0, photo, 32)] for photo in (7, 12)]

    assert made[0].problem is not None
    assert made[0].problem[0] == images.names[7]
    assert made[0].target == images.targets[12], "8 to 11 are kept to choose by"
    assert made[1].problem is None


def test_the_photos_chosen_by_are_never_trained_on() -> None:
    train, held = held_out_split([0, 1, 0, 1, 0, 1, 0], 2)

    assert held.tolist() == [4, 6, 3, 5]
    assert train.tolist() == [0, 1, 2]


def test_a_set_whose_files_changed_is_decoded_anew(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data" / "train"
    for name in "abc":
        (copy / name).mkdir(parents=True)
        for photo in (data / "train" / name).iterdir():
            (copy / name / photo.name).write_bytes(photo.read_bytes())
    archive = tmp_path / "sets"
    archive.mkdir()
    (archive / "train").symlink_to(copy)

    first = store_images(archive, "train", 64, tmp_path / "cache")
    (archive / "train").unlink()
    (archive / "train").symlink_to(data / "train")
    (copy / "a" / "00.png").unlink()
    second = store_images(archive, "train", 64, tmp_path / "cache")

    assert len(first) == len(second) == 36


def test_shards_folders_and_archives_are_told_apart(data: Path, tmp_path: Path) -> None:
    assert len(open_images(str(data), "train", tmp_path)) == 36
    with pytest.raises(FileNotFoundError, match="has no split 'val'"):
        open_images(str(data), "val", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_images(str(data / "none"), "train", tmp_path)
