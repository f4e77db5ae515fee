import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from train.studies.figures import (
    PLOTTED,
    Plot,
    Series,
    _apart,
    _colours,
    differences,
    write_figures,
)
from train.studies.learn import Plan, top1, train, with_statistics_of
from train.studies.nets import KINDS, make_net
from train.studies.photos import Photos, augmented_chunks, normalized, read_subset
from train.studies.probes import along_gradient, channels, kernel_length
from train.studies.results import Interval, declare, declared, interval, provenance
from wszoo.layers import BatchChannelNorm, GroupNorm, WSConv2d


def photos(count: int = 32, pixels: int = 8) -> Photos:
    """Two classes, told apart by how bright they are."""
    targets = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 3, pixels, pixels))
    return Photos(pixels=(noise + 150 * targets[:, None, None, None]).byte(), targets=targets)


def plan(**settings: float) -> Plan:
    facts = {"batch": 8, "base_rate": 0.4, "samples": 128, "seed": 0, "chunk": 32} | settings
    return Plan(**facts)  # type: ignore[arg-type]


def test_the_kinds_differ_in_norm_and_standardization_alone() -> None:
    nets = {kind: make_net(kind, 20, seed=1) for kind in KINDS}

    kernels = {kind: [p for p in net.parameters() if p.ndim == 4] for kind, net in nets.items()}
    for kind, own in kernels.items():
        assert len(own) == 19
        assert all(torch.equal(a, b) for a, b in zip(own, kernels["bn"], strict=True))
        assert 0.26e6 < sum(p.numel() for p in nets[kind].parameters()) < 0.28e6
        is_ws = {isinstance(m, WSConv2d) for m in nets[kind].modules() if isinstance(m, nn.Conv2d)}
        assert is_ws == {kind.endswith("_ws")}
    groups = {m.num_groups for m in nets["gn_ws"].modules() if isinstance(m, GroupNorm)}
    assert groups == {8}
    bcn = [m for m in nets["bcn_ws"].modules() if isinstance(m, BatchChannelNorm)]
    assert len(bcn) == 19 and type(bcn[0].bn).__name__ == "EstimatedBatchNorm"


def test_every_photo_is_seen_once_before_any_is_seen_again() -> None:
    shown = photos(24)
    shown.pixels[:] = torch.arange(24)[:, None, None, None]
    shown.targets[:] = torch.arange(24)

    seen = torch.cat([targets for _, targets in augmented_chunks(shown, 48, seed=3, chunk=16)])

    assert sorted(seen[:24].tolist()) == sorted(seen[24:].tolist()) == [*range(24)]
    assert seen[:24].tolist() != seen[24:].tolist()


def test_the_seed_alone_decides_what_is_seen() -> None:
    shown = photos()

    first, again, other = (
        [images for images, _ in augmented_chunks(shown, 64, seed, chunk=32)] for seed in (0, 0, 1)
    )

    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_photos_are_shifted_by_up_to_four_pixels_and_half_of_them_mirrored() -> None:
    ramp = torch.arange(32 * 32).view(32, 32) % 251
    shown = Photos(pixels=ramp.byte().expand(1, 3, 32, 32), targets=torch.zeros(1).long())
    whole = torch.nn.functional.pad(normalized(shown.pixels)[0], (4, 4, 4, 4))
    allowed = {}
    for top in range(9):
        for left in range(9):
            crop = whole[:, top : top + 32, left : left + 32]
            allowed[crop.numpy().tobytes()] = (top, left, False)
            allowed[crop.flip(2).contiguous().numpy().tobytes()] = (top, left, True)

    (images, _), *_ = augmented_chunks(shown, 400, seed=0, chunk=400)

    assert images.is_contiguous(memory_format=torch.channels_last)
    found = [allowed[image.contiguous().numpy().tobytes()] for image in images]
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == {*range(9)}
    assert 150 < sum(mirrored for _, _, mirrored in found) < 250


def test_samples_that_are_no_whole_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="33 samples are not whole chunks; take a multiple of 32"):
        next(augmented_chunks(photos(), 33, seed=0, chunk=32))


def save_photos(folder: Path, names: list[str], start: int) -> None:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        pixels = np.full((32, 32, 3), start + index, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for index, name in enumerate("abc"):
        save_photos(tmp_path / "data" / "train" / name, ["p3", "p1", "p2", "p4"], 40 * index)
        save_photos(tmp_path / "data" / "val" / name, ["v"], 40 * index + 30)
    return tmp_path / "data"


def test_a_subset_is_split_by_name_and_tests_never_train(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    subset, kept, plain = (
        read_subset(data, cache=where, every=2, train=2, held_out=1)
        for where in (cache, cache, None)
    )

    def values(part: Photos) -> list[int]:
        return part.pixels[:, 0, 0, 0].tolist()

    assert subset.classes == ("a", "c")
    assert values(subset.train) == [1, 2, 81, 82]  # p1 and p2
    assert values(subset.held_out) == [0, 80]  # p3
    assert values(subset.test) == [3, 30, 83, 110]  # p4, and val
    assert subset.test.targets.tolist() == [0, 0, 1, 1]
    assert subset.facts == kept.facts == plain.facts
    assert len([*cache.iterdir()]) == 1


def test_a_class_with_too_few_photos_is_named(data: Path) -> None:
    with pytest.raises(ValueError, match="class a has 4 photos; 5 are needed"):
        read_subset(data, every=2, train=4, held_out=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns(kind: str) -> None:
    net, shown = make_net(kind, 2, seed=0), photos()

    outcome = train(net, shown, plan())

    assert len(outcome.losses) == 4 and outcome.diverged_at is None and outcome.cpu_seconds > 0
    assert outcome.losses[-1] < outcome.losses[0]
    assert top1(net, shown, batch=32, training=True) > 80


def test_the_rate_warms_up_falls_to_zero_and_goes_with_the_batch() -> None:
    small, large = plan(batch=8, samples=1000), plan(batch=32, samples=1000)

    assert small.peak_rate == pytest.approx(0.05) and large.peak_rate == pytest.approx(0.2)
    assert small.rate(25) == pytest.approx(small.peak_rate / 2)
    assert small.rate(50) == pytest.approx(small.peak_rate)
    assert small.rate(525) == pytest.approx(small.peak_rate / 2)
    assert small.rate(1000) == pytest.approx(0)


def test_accumulation_takes_the_step_of_the_whole_batch() -> None:
    nets = []
    for passes in (1, 8):
        net = make_net("gn_ws", 2, seed=0).double()
        train(net, photos(), plan(samples=32, accumulate=passes))
        nets.append(torch.cat([p.detach().flatten() for p in net.parameters()]))

    assert nets[0].dtype == torch.float64
    torch.testing.assert_close(nets[0], nets[1], rtol=1e-9, atol=1e-11)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    net = make_net("gn", 2, seed=0)
    nn.init.constant_(net[-1].weight, float("nan"))  # type: ignore[arg-type]

    outcome = train(net, photos(), plan())

    assert outcome.diverged_at == 32 and len(outcome.losses) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 5}, "batch 5 does not divide a chunk of 32 images"),
        ({"accumulate": 3}, "3 passes do not divide a batch of 8"),
    ],
)
def test_a_plan_that_does_not_come_out_even_is_refused(
    settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(make_net("gn", 2, seed=0), photos(), plan(**settings))


def test_asking_leaves_the_net_as_it_is_and_training_mode_asks_by_the_batch() -> None:
    net, shown = make_net("bn", 2, seed=0).train(), photos()
    before = {name: value.clone() for name, value in net.state_dict().items()}

    untrained, by_batch = top1(net, shown, batch=32), top1(net, shown, batch=32, training=True)
    exact = with_statistics_of(net, shown)

    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert top1(exact, shown, batch=7) == pytest.approx(by_batch)
    assert 0 <= untrained <= 100


def test_a_step_along_the_gradient_of_a_parabola_finds_its_curvature() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten()).double()
    nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    images = torch.ones(4, 1, 1, 1, dtype=torch.float64)

    # Near zero, the cross-entropy of two logits (w, -w) has the curvature 1/2 along w.
    found = along_gradient(net, images, torch.tensor([0, 0, 0, 1]), (1e-4, 2e-4))

    assert found.loss == pytest.approx(np.log(2))
    assert found.smoothness == pytest.approx((0.5, 0.5), rel=1e-3)
    assert found.losses[1] < found.losses[0] < found.loss
    assert kernel_length(net) == 0


def test_channels_are_watched_where_a_relu_follows() -> None:
    net, shown = make_net("gn", 2, seed=0), photos()
    stem = net.get_submodule("1")
    assert isinstance(stem, GroupNorm)
    nn.init.constant_(stem.weight, 0.0)
    nn.init.constant_(stem.bias[:4], -1.0)
    nn.init.constant_(stem.bias[4:], 2.0)

    found = channels(net, normalized(shown.pixels))

    assert len(found.active) == 16 + 3 * (16 + 32 + 64)
    assert found.active[:16].tolist() == [0.0] * 4 + [1.0] * 12
    assert found.mean[:16].tolist() == [-1.0] * 4 + [2.0] * 12
    assert found.deviation[:16].tolist() == [0.0] * 16
    assert not stem._forward_hooks


def test_an_interval_is_students_and_one_value_has_none() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.half == pytest.approx(4.303 / 3**0.5) and found.seeds == 3
    assert interval([40.0]) == Interval(40.0, None, 1)
    assert str(interval([1.0, 2.0, 3.0])) == "2.0 ± 2.5"
    assert str(interval([40.0])) == "40.0"


def test_a_folder_is_of_one_study(tmp_path: Path) -> None:
    facts = {"plan": {"samples": 10, "seeds": (0, 1)}, "photos": {}}
    declare(tmp_path, facts)
    declare(tmp_path, facts)

    assert declared(tmp_path) == {"plan": {"samples": 10, "seeds": [0, 1]}, "photos": {}}
    with pytest.raises(ValueError, match=r"holds results of another study \(plan\); name a new"):
        declare(tmp_path, {**facts, "plan": {"samples": 20}})


def test_what_made_a_row_names_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x.py", "--data", "/home/me/tiny", "--seeds", "0"])

    facts = provenance("train.some_study")

    assert facts["command"] == "python -m train.some_study --data tiny --seeds 0"
    assert facts["torch"] == torch.__version__
    assert re.fullmatch("[0-9a-f]{12}", facts["sources"])


def test_every_number_that_differs_is_named() -> None:
    plotted = {"error": {"series": [{"name": "BN", "y": [1.0, 2.0]}], "title": "a"}}
    found = {"error": {"series": [{"name": "BN", "y": [1.0, 2.5]}], "title": "a", "more": 1}}

    assert differences(plotted, json.loads(json.dumps(plotted))) == []
    assert differences(plotted, found) == [
        "error.series[0].y[1] is 2.0, and the results give 2.5",
        "error.more is None, and the results give 1",
    ]
    assert differences([1.0], [1.0 + 1e-12]) == []
    assert len(differences([1.0], [1.0, 2.0])) == 1


def test_a_plot_is_drawn_and_what_it_shows_kept(tmp_path: Path) -> None:
    lines = [
        Series(name="BN", x=[1, 2], y=[3.0, 4.0], half=[0.5, None]),
        Series(name="BN, by its batch", x=[1, 2], y=[3.0, 4.01], dashed=True),
        Series(name="loss", x=[1, 2], y=[3.0, 4.02]),
    ]
    plot = Plot(
        title="T", x_label="x", y_label="y", series=lines, x_log2=True, y_log=True, note="n"
    )

    write_figures(tmp_path, {"one": plot})

    kept = json.loads((tmp_path / PLOTTED).read_text())
    assert kept["one"]["series"][0]["half"] == [0.5, None]
    assert differences(kept, {"one": plot.to_json()}) == []
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (1140, pytest.approx(715, abs=5))


def test_a_variation_has_the_colour_of_its_kind() -> None:
    colours = _colours(["BN", "BN, by its batch", "loss", "rate"])

    assert colours["BN"] == colours["BN, by its batch"]
    assert len({colours["BN"], colours["loss"], colours["rate"]}) == 3


def test_names_keep_their_distance_and_their_order() -> None:
    placed = _apart({"low": 10.0, "high": 11.0, "far": 90.0}, 13.5)

    assert placed["high"] - placed["low"] >= 13.4
    assert placed["far"] == 90.0
    assert placed["low"] + placed["high"] == pytest.approx(21.0)
