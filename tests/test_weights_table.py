"""The records themselves."""

import re

import pytest
import timm
import torch
from safetensors.torch import load_file

from wszoo.convert import SOURCES
from wszoo.layers import FORMULAS
from wszoo.weights import locate
from wszoo.weights_record import PUBLISHED, Weights
from wszoo.weights_table import WEIGHTS


@pytest.mark.parametrize("record", WEIGHTS, ids=lambda record: record.name)
def test_every_record_is_complete(record: Weights) -> None:
    assert record.model in timm.list_models(module="ws_resnet")
    assert record.formula in FORMULAS
    assert record.license
    if record.sha256 is not None:
        assert re.fullmatch("[0-9a-f]{64}", record.sha256)
    assert len(record.label_names()) == len(record.label_ids()) == record.num_classes
    cfg = timm.get_pretrained_cfg(record.name)
    assert cfg is not None and cfg.num_classes == record.num_classes


FOREIGN = [record for record in WEIGHTS if record.origin]


def test_weights_of_this_zoo_are_pinned_and_others_once_they_are_confirmed() -> None:
    for record in WEIGHTS:
        confirmed = record.origin is None or record.origin.checked_against_original
        assert (record.sha256 is not None) == confirmed, record.name


@pytest.mark.parametrize("record", FOREIGN, ids=lambda record: record.name)
def test_a_foreign_record_agrees_with_its_source_and_its_file_names(record: Weights) -> None:
    assert record.origin is not None and not record.packaged
    for file in record.origin.files:
        assert SOURCES[file.source].formula == record.formula
        assert SOURCES[file.source].license == record.license == "none stated"
        assert file.url.startswith("https://")
        in_name = re.search("-([0-9a-f]{8})[.]pth$", file.file_name)
        assert file.sha256_prefix == (in_name[1] if in_name else None)
    card = SOURCES[record.origin.source].card
    assert (record.mean, record.std) == (card.mean, card.std)
    assert record.input_size == (3, card.size, card.size)
    assert record.crop_pct == card.size / card.resize
    assert record.interpolation == card.interpolation


def test_published_accuracies_are_those_of_the_authors_readme() -> None:
    top1 = {w.model: w.metrics[PUBLISHED]["top1"] for w in FOREIGN if PUBLISHED in w.metrics}

    assert top1 == {
        "resnet50_gn_ws": 76.28,
        "resnet101_gn_ws": 77.9,
        "resnext50_32x4d_gn_ws": 77.29,
        "resnext101_32x4d_gn_ws": 78.2,
    }
    assert all("bcn" in w.model for w in FOREIGN if PUBLISHED not in w.metrics)


def test_timm_lists_foreign_weights_and_takes_them_by_default() -> None:
    listed = timm.list_models(pretrained=True, module="ws_resnet")

    reachable = [record for record in WEIGHTS if record.packaged or record.origin]
    assert {record.name for record in reachable} == set(listed)
    cfg = timm.get_pretrained_cfg("resnet50_gn_ws")
    assert cfg is not None and cfg.tag == "jhu_in1k"


def test_no_two_records_share_a_name() -> None:
    assert len({record.name for record in WEIGHTS}) == len(WEIGHTS)


@pytest.mark.parametrize(
    "record", [record for record in WEIGHTS if record.packaged], ids=lambda record: record.name
)
def test_every_packaged_file_is_the_published_one_and_loads(record: Weights) -> None:
    path = locate(record)

    model = timm.create_model(record.name, pretrained=True)

    stored = load_file(path)
    assert stored.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[key].to(tensor.dtype)), key
    other = next(name for name in FORMULAS if name != record.formula)
    with pytest.raises(ValueError, match=f"formula '{record.formula}', not '{other}'"):
        timm.create_model(record.name, pretrained=True, formula=other)
