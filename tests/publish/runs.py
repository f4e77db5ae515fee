"""Card folders of finished runs, as ``wszoo card RUN`` leaves them."""

import json
from dataclasses import replace
from pathlib import Path

import timm

from wszoo.cards.run import write_run_card
from wszoo.cards.words import Words
from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build
from wszoo.finetune.outputs import save_output
from wszoo.finetune.settings import TaskName
from wszoo.training.checkpoint import save_checkpoint

HEADS: dict[TaskName, str] = {"classify": "linear", "detect": "fcos", "segment": "semantic_fpn"}
SAID = Words(name="Red, blue", license="MIT", data_license="CC0-1.0", data_name="Red & blue")
RUN_REPOSITORY = "tester/red-blue"


def finetuned(home: Path, task: TaskName, *, words: Words = SAID) -> Path:
    """Of a net that began with random weights."""
    settings = settings_for(
        task, model="test_resnet_gn_ws", head=HEADS[task], image_size=64, pretrained=False
    )
    settings = replace(settings, max_size=96)
    kept = {"classes": ("red", "blue"), "class_ids": ("red", "blue"), "epoch": 1}
    net = build(settings, 2)
    save_output(home / "run", net, settings, metrics={"held_out_top1": 50.0}, **kept)  # type: ignore[arg-type]
    return write_run_card(home / "run", words=words).folder


def pretrained(home: Path) -> Path:
    """Of a run of ``train.pretrain``."""
    run = home / "run"
    model = timm.create_model("test_resnet_gn_ws", num_classes=3)
    save_checkpoint(run, 4, {"learner": {"model": model.state_dict(), "ema": None}})
    recipe = {"phases": [[1, 32]], "batch_size": 8, "test_size": 32, "test_crop": 1.0, "seed": 0}
    recipe |= {"held_out_per_class": 2, "start_tag": None}
    facts = {"model": "test_resnet_gn_ws", "recipe": "smoke", "settings": recipe}
    facts |= {"data": {"classes": 3, "photos": 120, "digest": "ab"}, "hardware": "1 CPU thread"}
    (run / "run.json").write_text(json.dumps({**facts, "code": "0123abc"}))
    row = {"epoch": 1, "step": 2, "pixels": 32, "loss": 1.0, "seconds": 9.0}
    row |= {"held_out_top1": 40.0, "held_out_top5": 100.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return write_run_card(run, words=SAID).folder
