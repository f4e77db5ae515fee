from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import wszoo  # noqa: F401  registers the variants
from tests.file_server import serve
from wszoo.datasets import LabelledImages, read_labelled_images
from wszoo.datasets.shard_writing import write_shards
from wszoo.finetune.classify import classification, to_recipe
from wszoo.training.batches import plan_batches
from wszoo.training.classify import Classification
from wszoo.training.distributed import Ranks
from wszoo.training.engine import Learner
from wszoo.training.recipe import make_optimizer
from wszoo.training.runlog import RunLog

Make = Callable[..., Any]


@pytest.fixture
def photos(detection_set: Make) -> Callable[[int], LabelledImages]:
    """Drawn photos of two classes; those with a red and a blue rectangle are left out."""

    def build(count: int) -> LabelledImages:
        images = detection_set(count)
        kept = [number for number in range(count) if number % 3 < 2]
        return LabelledImages(
            names=tuple(images.names[number] for number in kept),
            sources=tuple(images.sources[number] for number in kept),
            targets=tuple(number % 3 for number in kept),
            classes=("red", "blue"),
        )

    return build


@pytest.fixture
def make(photos: Make, settings: Make, log: RunLog) -> Make:
    """The task over eight photos, four held out."""

    def build(
        rank: int = 0,
        size: int = 1,
        *,
        micro: int | None = None,
        workers: int = 0,
        train: Any = None,
        held_out: Any = None,
        mean: tuple[float, ...] = (0.5,) * 3,
        **changes: Any,
    ) -> Classification:
        chosen = settings(task="classify", head="linear", **({"scale": (0.5, 1)} | changes))
        return classification(
            photos(12) if train is None else train,
            photos(6) if held_out is None else held_out,
            chosen,
            plan_batches(chosen.batch_size, size, micro),
            Ranks(rank, size),
            mean=mean,
            std=(0.25,) * len(mean),
            workers=workers,
            log=log,
        )

    return build


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_ranks_passes_and_workers_see_the_same_global_batches(make: Make, seen_by: Make) -> None:
    alone = seen_by([make()])

    assert [len(step) for step in alone] == [4, 4]
    assert seen_by([make(rank, 2) for rank in range(2)]) == alone
    assert seen_by([make(rank, 2, micro=1) for rank in range(2)]) == alone
    helped = make(workers=2)
    assert seen_by([helped]) == alone
    assert seen_by([helped], epoch=1) == seen_by([make()], epoch=1) != alone
    helped.close()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_batches_of_one_to_four_photos_work_and_are_gone_on_with(
    batch_size: int, make: Make, seen_by: Make
) -> None:
    whole = seen_by([make(batch_size=batch_size)], epoch=1)

    assert [len(step) for step in whole] == [batch_size] * (8 // batch_size)
    assert seen_by([make(batch_size=batch_size)], epoch=1, first_step=1) == whole[1:]


def test_the_recipe_says_what_the_settings_say(settings: Make) -> None:
    chosen = settings(
        epochs=7,
        image_size=96,
        lr=3e-4,
        weight_decay=0.07,
        warmup_steps=5,
        scale=(0.4, 0.9),
        label_smoothing=0.2,
        clip_grad=2.0,
        ema=0.99,
        precision="bf16",
        patience=3,
        seed=9,
    )

    recipe = to_recipe(chosen)

    assert recipe.phases == ((7, 96),) and recipe.test_size == 96
    assert (recipe.optimizer, recipe.crop_scale) == ("adamw", (0.4, 0.9))
    same = "batch_size lr weight_decay label_smoothing clip_grad ema precision patience seed"
    for name in same.split():
        assert getattr(recipe, name) == getattr(chosen, name), name
    rates = [recipe.rate_at(step, 40) for step in range(40)]
    assert rates == pytest.approx([chosen.rate_at(step, 40) for step in range(40)])
    assert max(rates) == 1


def test_a_classifier_learns_red_from_blue(make: Make, settings: Make) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_gn_ws", num_classes=2)
    chosen = settings(lr=3e-3, batch_size=2)
    task = make(batch_size=2, lr=3e-3)
    learner = Learner(model, make_optimizer(model, to_recipe(chosen)))

    for epoch in range(2):
        for micro_batches in task.batches(epoch, 0):
            assert learner.step(micro_batches, task.loss, rate=1.0).taken

    figures = task.evaluate(learner, lambda: None)
    assert set(figures) == {"held_out_top1", "held_out_top5", "held_out_loss"}
    assert figures["held_out_top1"] == 100


@pytest.mark.parametrize("channels", [1, 4])
def test_nets_that_take_no_rgb_are_refused(channels: int, make: Make) -> None:
    with pytest.raises(
        ValueError, match=rf"photos are read as RGB, the net takes {channels} channels; make it"
    ):
        make(mean=(0.5,) * channels)


def test_sets_of_other_classes_are_refused(make: Make, photos: Make) -> None:
    strange = replace(photos(6), classes=("red", "teal"))

    with pytest.raises(ValueError, match="the classes red, blue, those to judge by red, teal; "):
        make(held_out=strange)


def test_sets_without_photos_are_refused(make: Make, photos: Make) -> None:
    nothing = photos(6).without(photos(6).names)

    with pytest.raises(ValueError, match="there is no photo to judge by; hold some out"):
        make(held_out=nothing)
    with pytest.raises(ValueError, match="0 images do not fill one batch of 4"):
        make(train=nothing)


def test_a_broken_photo_is_quarantined_and_another_takes_its_place(
    make: Make, photos: Make
) -> None:
    images = photos(12)
    broken = replace(images, sources=(b"", *images.sources[1:]))
    task = make(train=broken, batch_size=8)

    [batch] = next(task.batches(0, 0))

    assert sorted(batch.targets.tolist()) == [0] * 3 + [1] * 5, "the next photo is a blue one"
    quarantine = task.source._unreadable.path
    assert quarantine.read_text().startswith("name\treason\nphotos/0.png\tcannot decode")


def test_shards_are_learned_from_like_files_from_any_step_on(
    make: Make, photos: Make, seen_by: Make, tmp_path: Path
) -> None:
    files = photos(12)
    write_shards(files, tmp_path / "shards", bytes_per_shard=40_960)
    shards = read_labelled_images(tmp_path / "shards")

    task = make(train=shards, held_out=shards, batch_size=2)

    whole = seen_by([task], epoch=1)
    assert seen_by([make(train=shards, batch_size=2)], epoch=1, first_step=2) == whole[2:]
    assert task.names(1, 0)[0].startswith(f"{tmp_path}/shards/shard-00000")
    assert {image.tobytes() for image in map(shards.image, range(8))} == {
        image.tobytes() for image in map(files.image, range(8))
    }
    fewer = shards.without([shards.names[3]])
    assert shards.names[3] not in {
        name for step in range(3) for name in make(train=fewer, batch_size=2).names(0, step)
    }


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_gives_no_more_ends_the_run_in_its_own_words(
    workers: int, make: Make, photos: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_shards(photos(12), tmp_path / "shards", bytes_per_shard=40_960)
    with serve(tmp_path / "shards") as url:
        shards = read_labelled_images(url)
        task = make(train=shards, held_out=shards, workers=workers)
        for shard in (tmp_path / "shards").glob("*.tar"):
            shard.unlink()

        with pytest.raises(ConnectionError, match=rf"^cannot fetch {url}/shard-00.*status 404"):
            next(task.batches(0, 0))
        with pytest.raises(ConnectionError, match=rf"^cannot fetch {url}/shard-00.*status 404"):
            next(task.source.held_out([range(4)], 64, 1.0))
        task.close()

    assert not task.source._unreadable.path.exists()
