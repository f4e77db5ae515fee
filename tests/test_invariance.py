import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from wszoo import invariance as module
from wszoo.invariance import BOUND, MEASURES, NORMS, Invariance, Row, measure_invariance
from wszoo.invariance_cli import invariance
from wszoo.layers import WSConv2d
from wszoo.terminal import MainGroup

SMALL = "test_resnet_gn_ws"


@pytest.fixture(scope="module")
def found() -> Invariance:
    return measure_invariance(SMALL, batch=3, pixels=48)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(MainGroup(commands=[invariance]), ["invariance", SMALL, *arguments])


def test_norms_of_one_image_give_the_batch_what_its_images_get(found: Invariance) -> None:
    rows = {row.norm: row for row in found.rows}

    assert [*rows] == ["BN", "frozen BN", "GN", "GN+WS", "BCN+WS"]
    assert found.ok
    for name in ("frozen BN", "GN", "GN+WS"):
        assert rows[name].invariant
    for name in ("BN", "BCN+WS"):
        for measure in MEASURES:
            assert getattr(rows[name], measure) > 1e-5, (name, measure)


def test_what_is_built_for_a_norm_has_that_norm_and_no_other() -> None:
    for name, norm in NORMS.items():
        net = module._make(SMALL, norm, seed=0)
        standardized = any(isinstance(m, WSConv2d) for m in net.modules())
        norms = {type(m).__name__ for m in net.modules() if "Norm" in type(m).__name__}

        assert standardized is ("WS" in name)
        assert (
            norms
            == {
                "BN": {"BatchNorm2d"},
                "frozen BN": {"BatchNorm2d"},
                "GN": {"GroupNorm"},
                "GN+WS": {"GroupNorm"},
                "BCN+WS": {"BatchChannelNorm", "EstimatedBatchNorm"},
            }[name]
        )


def test_statistics_are_those_of_the_photos_given_layer_after_layer() -> None:
    first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    images = 5 + 3 * torch.randn(64, 2, 4, 4, dtype=torch.float64)

    module._with_statistics(nn.Sequential(first, second).double(), images, frozen=False)

    assert first.running_mean is not None and second.running_mean is not None
    torch.testing.assert_close(first.running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(second.running_mean, torch.zeros(2).double(), atol=1e-9, rtol=0)


def test_the_same_seed_gives_the_same_figures(found: Invariance) -> None:
    assert measure_invariance(SMALL, batch=3, pixels=48) == found


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet18", {}, "'resnet18' is no variant of this zoo; `wszoo list` shows them"),
        (SMALL, {"pixels": 32}, "32 pixels leave BatchNorm one value per image; take more than 32"),
        (SMALL, {"batch": 1}, "a batch of 1 is no more than its images; take at least 2"),
        (SMALL, {"batch": 999}, "a batch of 999 is more than the packaged photos; take up to "),
    ],
)
def test_what_cannot_be_compared_is_refused(
    name: str, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        measure_invariance(name, **settings)


def test_the_command_prints_a_line_per_norm_and_draws(tmp_path: Path) -> None:
    result = run("--batch", "2", "--pixels", "40", "--figure", str(tmp_path / "new.png"))

    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].endswith("40 pixels: a batch of 2 against 2 of one, relative")
    assert [line.split("  ")[-1] for line in lines[2:-1]] == [
        "depends on the batch",
        *["the same"] * 3,
        "depends on the batch",
    ]
    assert lines[-1] == "ok"
    with Image.open(tmp_path / "new.png") as picture:
        assert picture.width > 1000


def test_the_command_reports_as_json() -> None:
    report = json.loads(run("--batch", "2", "--pixels", "40", "--json").stdout)

    assert report["ok"] and report["dtype"] == "float64"
    assert [row["norm"] for row in report["rows"]] == [*NORMS]
    assert all(row["invariant"] is row["expected"] for row in report["rows"])


def test_a_norm_that_should_not_depend_on_the_batch_and_does_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = {"GN": module._Norm(nn.BatchNorm2d, False, True)}
    monkeypatch.setattr(module, "NORMS", broken)

    result = run("--batch", "2", "--pixels", "40")

    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "not ok"


def test_a_figure_of_another_format_is_a_usage_error() -> None:
    result = run("--figure", "new.pdf")

    assert result.exit_code == 2
    assert "new.pdf must end in .png" in result.output


def test_only_what_is_above_rounding_counts() -> None:
    row = Row(norm="GN", output=BOUND / 2, loss=0.0, gradient=BOUND * 2, expected=True)

    assert not row.invariant
    assert not Invariance(model=SMALL, batch=2, pixels=64, seed=0, rows=(row,)).ok
