import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

from wszoo.finetune.defaults import settings_for
from wszoo.finetune.models import build, rebuild
from wszoo.finetune.outputs import (
    Facts,
    load_finetuned,
    output_folder,
    read_facts,
    require_output,
    save_output,
    write_facts,
)
from wszoo.finetune.settings import FineTuning, TaskName
from wszoo.training.declaration import code_version
from wszoo.weights_file import named_code, read_metadata, recipe_hash

HEADS: dict[TaskName, str] = {"classify": "linear", "detect": "fcos", "segment": "semantic_fpn"}
CLASSES = ("cat", "dog")


def saved(task: TaskName, run: Path, **changes: Any) -> tuple[nn.Module, FineTuning, Facts]:
    settings = settings_for(
        task, model="test_resnet_gn_ws", head=HEADS[task], image_size=64, max_size=96, **changes
    )
    model = build(settings, len(CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    facts = save_output(
        run,
        model,
        settings,
        classes=CLASSES,
        class_ids=(7, 14),
        epoch=3,
        metrics={"score": 12.5},
        min_score=0.25,
    )
    return model.eval(), settings, facts


def answers(model: nn.Module, task: TaskName) -> torch.Tensor:
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if task == "detect":
            model.score_thresh = 0.0  # type: ignore[assignment]
            found: dict[str, torch.Tensor] = model([image])[0]
            assert len(found["boxes"])
            return torch.cat((found["boxes"], found["scores"][:, None]), dim=1)
        scores: torch.Tensor = model(image[None])
        return scores


@pytest.mark.parametrize("task", HEADS)
def test_a_saved_net_is_loaded_with_the_same_answers(task: TaskName, tmp_path: Path) -> None:
    model, settings, facts = saved(task, tmp_path, trainable_stages=2)

    loaded, read = load_finetuned(str(tmp_path))

    assert read == facts == read_facts(tmp_path / "model")
    assert (read.classes, read.class_ids, read.epoch) == (CLASSES, (7, 14), 3)
    assert (read.settings, read.metrics, read.min_score) == (settings, {"score": 12.5}, 0.25)
    assert not loaded.training
    assert torch.equal(answers(loaded, task), answers(model, task))


def test_timm_loads_a_classifier_by_itself(tmp_path: Path) -> None:
    model, *_ = saved("classify", tmp_path)

    loaded = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()

    assert loaded.num_classes == 2
    cfg: Any = loaded.pretrained_cfg
    assert cfg["label_names"] == list(CLASSES)
    assert tuple(cfg["input_size"]) == (3, 64, 64)
    assert torch.equal(answers(loaded, "classify"), answers(model, "classify"))


def test_the_weights_file_says_what_it_is_and_what_made_it(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"code": "0123abc"}))
    saved("detect", tmp_path)

    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        metadata = file.metadata()

    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert metadata == {
        "format": "pt",
        "task": "detect",
        "head": "fcos",
        "model": "test_resnet_gn_ws",
        "formula": "jhu",
        "recipe_hash": recipe_hash(config["wszoo"]["settings"]),
        "code": "0123abc",
    }


def test_other_settings_have_another_hash(tmp_path: Path) -> None:
    hashes = set()
    for lr in (0.1, 0.2):
        saved("classify", tmp_path, lr=lr)
        hashes.add(read_metadata(tmp_path / "model" / "model.safetensors")["recipe_hash"])

    assert len(hashes) == 2


@pytest.mark.parametrize("declared", [{"code": "unknown"}, {"code": ""}])
def test_code_without_a_commit_is_called_by_its_version(
    declared: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(declared))
    saved("classify", tmp_path)

    code = read_metadata(tmp_path / "model" / "model.safetensors")["code"]

    known = named_code(code_version())  # of the checkout that the tests run in
    assert code == (f"wszoo {version('wszoo')}" if declared["code"] else known)


def test_frozen_stages_are_saved_as_they_were_loaded(tmp_path: Path) -> None:
    settings = settings_for("segment", model="test_resnet_gn_ws", trainable_stages=0)
    model = build(settings, 2)
    model(torch.rand(1, 3, 64, 64))  # keeps standardized kernels
    save_output(tmp_path, model, settings, classes=CLASSES, class_ids=(0, 1), epoch=1, metrics={})

    loaded, _ = load_finetuned(tmp_path)

    published = timm.create_model("test_resnet_gn_ws", pretrained=True).state_dict()
    kernel = loaded.state_dict()["backbone.body.conv1.weight"]
    assert torch.equal(kernel, published["conv1.weight"])


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    begun, other = tmp_path / "begun", tmp_path / "other"
    (begun / "step-00000001").mkdir(parents=True)
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"wszoo": {"formula": "jhu"}}))

    with pytest.raises(FileNotFoundError, match="no such run: .*gone"):
        require_output(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="begun holds no fine-tuned net; repeat its comm"):
        require_output(begun)
    with pytest.raises(FileNotFoundError, match="other holds no fine-tuned net; name that of"):
        require_output(other)
    assert output_folder(other) is None, "published weights of a classifier are no run"


def test_damaged_outputs_are_refused(tmp_path: Path) -> None:
    model, settings, facts = saved("segment", tmp_path)
    folder = tmp_path / "model"

    write_facts(folder, replace(facts, sha256="0" * 64), model)
    with pytest.raises(ValueError, match="its record says 000000000000"):
        load_finetuned(tmp_path)

    config = json.loads((folder / "config.json").read_text())
    del config["wszoo"]["net"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"cannot read .*config.json: it tells nothing.*'net'"):
        load_finetuned(tmp_path)

    fewer = rebuild(facts.net, settings, 2).state_dict()
    assert fewer.keys() == model.state_dict().keys()
