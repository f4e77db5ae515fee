import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from wszoo import bench
from wszoo.bench import Row, compare, interleave, timm_standardize, timm_twin, to_row
from wszoo.layers import BatchChannelNorm, WSConv2d, standardize_weight
from wszoo.ws_resnet import WSResNet

TINY = "test_resnet_gn_ws"


def create(variant: str, formula: str = "jhu") -> WSResNet:
    model = timm.create_model(variant, formula=formula)
    assert isinstance(model, WSResNet)
    return model.eval()


@pytest.fixture(scope="module")
def against_timm() -> bench.Comparison:
    return compare(TINY, rounds=1, import_pairs=0)


def test_against_timm_it_times_the_operator_in_both_layouts_and_inference(
    against_timm: bench.Comparison,
) -> None:
    goals = {row.name: row.goal for row in against_timm.rows}

    assert goals == {
        "WS forward+backward over all conv weights, contiguous": 0.75,
        "WS forward+backward over all conv weights, channels_last": 0.75,
        "folded inference, batch 1, 224 px": 0.75,
        "unfolded inference, batch 1, 224 px": None,
    }
    assert all(row.ours_ms > 0 and row.theirs_ms > 0 and row.ratio > 0 for row in against_timm.rows)


def test_against_batch_norm_it_times_inference_without_a_goal() -> None:
    result = compare(f"{TINY}.any_tag", against="bn", rounds=2)

    assert result.model == TINY
    assert [row.goal for row in result.rows] == [None, None]
    assert "BatchNorm" in result.peer


def test_a_comparison_survives_json(against_timm: bench.Comparison) -> None:
    data = json.loads(json.dumps(against_timm.to_json()))

    assert data["rounds"] == 1
    assert tuple(data["rows"][0]) == ("name", "ours_ms", "theirs_ms", "ratio", "goal", "met")
    assert [row["met"] for row in data["rows"]] == [row.met for row in against_timm.rows]
    for row in data["rows"]:
        row.pop("met")
    assert tuple(Row(**row) for row in data["rows"]) == against_timm.rows


def test_a_comparison_prints_one_line_per_row_and_says_which_goals_are_met() -> None:
    rows = (
        Row(name="good", ours_ms=1.0, theirs_ms=2.0, ratio=0.5, goal=0.75),
        Row(name="bad one", ours_ms=3.0, theirs_ms=3.0, ratio=1.0, goal=0.75),
        Row(name="free", ours_ms=9.0, theirs_ms=3.0, ratio=3.0),
    )
    result = bench.Comparison(model="ours", peer="theirs", rounds=3, threads=2, rows=rows)

    lines = [line.split() for line in str(result).splitlines()]

    assert lines[0] == ["ours", "against", "theirs,", "3", "rounds,", "2", "threads"]
    assert lines[2] == ["good", "1.0", "2.0", "0.50", "0.75", "met"]
    assert lines[3] == ["bad", "one", "3.0", "3.0", "1.00", "0.75", "missed"]
    assert lines[4] == ["free", "9.0", "3.0", "3.00", "-", "-"]


def test_the_ratio_is_the_median_of_paired_ratios_and_not_the_ratio_of_medians() -> None:
    row = to_row("pairs", ours=[1.0, 10.0, 2.0], theirs=[2.0, 40.0, 2.0], goal=0.5)

    assert row.ratio == 0.5
    assert (row.ours_ms, row.theirs_ms) == (2000.0, 2000.0)
    assert row.met


def test_contenders_run_in_turn_and_the_order_is_reversed_every_other_round() -> None:
    order: list[str] = []

    def contender(name: str) -> Callable[[], object]:
        return lambda: order.append(name)

    seconds = interleave([contender("a"), contender("b"), contender("c")], rounds=3)

    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert [len(taken) for taken in seconds] == [3, 3, 3]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_their_operator_is_the_one_in_timms_layer(layout: torch.memory_format) -> None:
    conv = StdConv2d(4, 8, 3, padding=1).to(memory_format=layout)
    x = torch.randn(2, 4, 7, 7)

    by_hand = F.conv2d(x, timm_standardize(conv.weight), padding=1)

    torch.testing.assert_close(by_hand, conv(x), rtol=0, atol=0)
    torch.testing.assert_close(
        timm_standardize(conv.weight), standardize_weight(conv.weight, "timm")
    )


def test_the_operators_are_timed_on_every_kernel_forward_and_backward() -> None:
    weights = [torch.randn(8, 4, 3, 3, requires_grad=True) for _ in range(2)]
    grads = [torch.randn(8, 4, 3, 3) for _ in range(2)]
    found: list[Tensor] = []

    def operator(weight: Tensor) -> Tensor:
        result = 3 * weight
        result.register_hook(found.append)
        return result

    bench._forward_backward(operator, weights, grads)

    assert {id(grad) for grad in found} == {id(grad) for grad in grads}


@pytest.mark.parametrize("variant", [TINY, "resnet18d_gn_ws", "resnext26_32x4d_gn_ws"])
def test_the_twin_is_the_same_net_from_timms_layers(variant: str) -> None:
    model = create(variant, formula="timm")
    twin = timm_twin(model, variant)
    x = torch.randn(1, 3, 64, 64)

    with torch.inference_mode():
        expected, got = model(x), twin(x)

    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert not any(isinstance(layer, WSConv2d) for layer in twin.modules())
    layers = {type(m).__module__.split(".")[0] for m in twin.modules() if not any(m.children())}
    assert layers == {"timm", "torch"}
    for path, layer in model.named_modules():
        if isinstance(layer, WSConv2d):
            other = twin.get_submodule(path)
            assert isinstance(other, StdConv2d)
            assert other.weight is layer.weight
            assert (other.stride, other.padding) == (layer.stride, layer.padding)


def test_batch_channel_norm_variants_have_a_twin_with_group_norm() -> None:
    model = create("resnet50_bcn_ws")
    twin = timm_twin(model, "resnet50_bcn_ws")

    assert not any(isinstance(layer, BatchChannelNorm) for layer in twin.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in twin.modules())


def test_the_model_that_was_timed_is_not_folded_by_it() -> None:
    model = create(TINY)

    bench._inference(model, timm_twin(model, TINY), rounds=1, goal=None)

    assert any(isinstance(layer, WSConv2d) for layer in model.modules())


def test_the_number_of_threads_is_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2

    result = compare(TINY, against="bn", rounds=1, threads=other)
    with pytest.raises(RuntimeError, match="on purpose"), bench._threads(other):
        raise RuntimeError("on purpose")

    assert result.threads == other
    assert torch.get_num_threads() == before


def test_a_fresh_interpreter_finds_this_very_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    here = Path(bench.__file__).parent / "__init__.py"
    check = f"importlib.util as u; assert u.find_spec('wszoo').origin == {str(here)!r}"

    bench._interpreter(check)()


@pytest.mark.slow
def test_the_import_is_timed_against_timms() -> None:
    row = bench._imports(1)

    assert (row.name, row.goal) == ("import wszoo", 1.05)
    assert row.ours_ms > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (TINY, {"against": "mmcv"}, r"no peer 'mmcv' to compare with; the peers: timm, bn"),
        (TINY, {"rounds": 0}, r"rounds must be at least 1, got 0"),
        (TINY, {"import_pairs": -1}, r"import_pairs must be at least 0, got -1"),
        ("resnet50", {}, r"'resnet50' is no variant of this zoo; `wszoo list` shows them"),
    ],
)
def test_wrong_arguments_are_named(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(name, **options)  # type: ignore[arg-type]
