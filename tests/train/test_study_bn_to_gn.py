import json

import pytest
import torch
from torch import nn

from train.study_bn_to_gn import AFFINES, CHANGES, STUDIES, agreement, calibrate, page


def test_a_net_agrees_with_itself_and_not_with_another() -> None:
    torch.manual_seed(0)
    features, logits = torch.randn(50, 8), torch.randn(50, 20)
    other = torch.randn(50, 8), torch.randn(50, 20)

    same = agreement((features, logits), (3 * features + 1, logits))

    assert same == pytest.approx({"cosine": 1, "neighbour": 100, "top1": 100})
    chance = agreement((features, logits), other)
    assert abs(chance["cosine"]) < 0.3 and chance["neighbour"] < 20 and chance["top1"] < 30


def test_calibrated_statistics_are_those_of_the_photos() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3))
    images = 5 + 2 * torch.randn(128, 3, 8, 8)

    calibrate(net, images)

    assert not net.training
    torch.testing.assert_close(net[0].running_mean, images.mean((0, 2, 3)), rtol=1e-4, atol=0)
    torch.testing.assert_close(net[0].running_var, images.var((0, 2, 3)), rtol=1e-2, atol=0)


def test_the_committed_page_is_that_of_the_committed_figures() -> None:
    results = json.loads((STUDIES / "bn_to_gn.json").read_text())

    assert (STUDIES / "bn_to_gn.md").read_text() == page(results)
    for affine in AFFINES:
        rows = results["agreement"][affine]
        assert set(CHANGES) < set(rows)
        assert rows["none, stored in half precision"]["cosine"] > 0.99
        assert rows["`to_group_norm`"]["cosine"] < 0.5
        assert rows["`standardize_convs`"]["cosine"] < 0.5
