from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from wszoo import bench
from wszoo.bench import PEERS, imports, inference, kernels, loader
from wszoo.bench.held import held_by_weights_and_images
from wszoo.bench.nets import make_net, make_ours
from wszoo.bench.result import Row
from wszoo.bench.setting import GOALS_FOR, Cell, Setting
from wszoo.bench.timing import WALL
from wszoo.layers import WSConv2d
from wszoo.weights import ASSETS

TINY = "test_resnet_gn_ws"
CPU = torch.device("cpu")
TWO_LAYOUTS = [(p, layout) for p in ("fp32", "bf16") for layout in ("contiguous", "channels_last")]


@pytest.fixture
def setting() -> Setting:
    return Setting(
        variant=TINY, against=("timm", "bn"), device=CPU, clock=WALL, host_clock=WALL, rounds=1
    )


def run(cells: list[Cell]) -> list[Row]:
    return [row for cell in cells for row in cell()]


def test_goals_hold_for_resnet_50_on_a_cpu_alone(setting: Setting) -> None:
    on_gpu = replace(setting, variant=GOALS_FOR, device=torch.device("cuda"))

    assert replace(setting, variant=GOALS_FOR).goal(0.6) == 0.6
    assert setting.goal(0.6) is None
    assert on_gpu.goal(0.6) is None


def test_rounds_are_those_asked_for_or_few_where_it_is_to_be_quick(setting: Setting) -> None:
    unasked = replace(setting, rounds=None)

    assert setting.rounds_of(9) == 1
    assert unasked.rounds_of(9) == 9
    assert replace(unasked, quick=True).rounds_of(9) == 3


def test_the_operator_is_timed_in_both_layouts_and_what_it_saves_is_weighed(
    setting: Setting,
) -> None:
    rows = run(kernels.cells(replace(setting, against=("timm", "paper", "bn"))))

    timed = [row for row in rows if row.unit == "ms"]
    assert [(row.what, row.peer, row.layout) for row in timed] == [
        (f"formula {name}", PEERS[peer].label, layout)
        for layout in ("contiguous", "channels_last")
        for peer in ("timm", "paper")
        for name in ("jhu", "bcn", "bit")
    ]
    assert all(row.ours > 0 and row.theirs > 0 and row.ratio > 0 for row in timed)
    for row in rows[len(timed) :]:
        assert row.unit == "MiB" and row.ours > 0
        if row.peer == "all parameters":  # what is held is the standardized kernels, no more
            assert row.ratio < (0.8 if row.precision == "fp32" else 0.55)


def test_with_batch_norm_alone_the_operator_has_no_peer(setting: Setting) -> None:
    rows = run(kernels.cells(replace(setting, against=("bn",))))

    assert {(row.unit, row.peer) for row in rows} == {("MiB", "all parameters")}


def test_the_operators_are_timed_on_every_kernel_forward_and_backward() -> None:
    weights = [torch.randn(8, 4, 3, 3, requires_grad=True) for _ in range(2)]
    grads = [torch.randn(8, 4, 3, 3) for _ in range(2)]
    found: list[Tensor] = []

    def operator(weight: Tensor) -> Tensor:
        result = 3 * weight
        result.register_hook(found.append)
        return result

    kernels.forward_backward(operator, weights, grads)

    assert {id(grad) for grad in found} == {id(grad) for grad in grads}


def test_what_is_held_is_told_apart_by_weights_and_images() -> None:
    net = torch.nn.Sequential(WSConv2d(3, 8, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    net.append(torch.nn.Flatten())

    by_weights, by_image = held_by_weights_and_images(net, "contiguous", "fp32", CPU, 16)

    kernel, statistics = 4 * 3 * 8, 3 * 4 * 8  # mean, length and divisor of each filter
    assert kernel <= by_weights <= kernel + statistics + 64
    assert 4 * 8 * 16 * 16 <= by_image <= 4 * 8 * 16 * 16 + 256  # of ReLU, which is its output


def test_fused_norms_are_told_beside_each_peer(setting: Setting) -> None:
    timings = [("64 x 56 x 56+relu, batch 2, beside batch_norm", 1.0, 4.0)]

    (row,) = kernels.fused_rows(timings, 9)
    on_gpu = kernels.cells(replace(setting, device=torch.device("cuda")))

    assert row.name == "fused norm, 64 x 56 x 56+relu, batch 2"
    assert (row.peer, row.ratio, row.rounds) == ("batch_norm", 0.25, 9)
    assert len(on_gpu) == len(kernels.cells(setting)) + 1


def test_inference_is_timed_in_every_kind_and_summed_up(setting: Setting) -> None:
    cells = inference.cells(replace(setting, quick=True))
    rows = run(cells)
    means = inference.conclude(setting, rows)

    assert [(row.precision, row.layout) for row in rows[::4]] == TWO_LAYOUTS
    assert {row.what for row in rows} == {"folded", "kept kernels"}
    assert {row.batch for row in rows} == {1}
    of_first = [row.ratio for row in rows if (row.what, row.peer) == ("folded", "StdConv2d")]
    assert means[0].ratio == pytest.approx(sum(of_first) / 4)
    assert len(means) == 4 and all(row.quartiles is None for row in means)
    assert len(inference.cells(setting)) == 2 * len(cells)


def test_the_kernels_of_the_net_that_was_timed_are_kept_and_it_is_not_folded() -> None:
    net = make_ours(TINY)
    images = torch.randn(1, 3, 64, 64)
    first = inference.forward(net, images, "bf16")
    convs = [module for module in net.modules() if isinstance(module, WSConv2d)]

    assert convs and all(conv._kept is not None for conv in convs)
    assert torch.equal(first, inference.forward(net, images, "bf16"))


def test_goals_of_inference_are_those_of_batch_one(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wszoo.bench.setting.GOALS_FOR", TINY)
    cells = inference.cells(setting)
    rows = run([cells[0], cells[1], cells[4]])  # fp32 in both layouts at batch 1, and at batch 8
    means = inference.conclude(setting, rows)

    goals = {(row.batch, row.peer, row.precision, row.layout): row.goal for row in rows}
    assert {key for key, goal in goals.items() if goal} == {(1, "BatchNorm", "fp32", "contiguous")}
    assert {row.peer: row.goal for row in means} == {"StdConv2d": 0.60, "BatchNorm": None}


def test_the_goals_of_the_operator() -> None:
    assert kernels.TIME_GOALS["jhu"] == {"contiguous": 0.60, "channels_last": 0.70}
    for name in ("bcn", "bit"):
        assert kernels.TIME_GOALS[name] == {"contiguous": 0.45, "channels_last": 0.35}
    assert kernels.SAVED_GOALS == {"fp32": 1.0, "bf16": 0.55}


def test_a_fresh_interpreter_finds_this_very_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    here = Path(bench.__file__).parents[1] / "__init__.py"
    check = f"importlib.util as u; assert u.find_spec('wszoo').origin == {str(here)!r}"

    imports.interpreter(check)()


@pytest.mark.slow
def test_the_import_is_timed_against_timms(setting: Setting) -> None:
    (row,) = run(imports.cells(setting))

    assert (row.name, row.peer, row.goal) == ("import wszoo", "import timm", 1.05)
    assert row.ours > 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for place in range(3):
            photo = Image.new("RGB", (300, 260), (40 * place, 90, 30))
            photo.save(tmp_path / "photos" / label / f"{place}.jpg")
    return tmp_path / "photos"


def test_both_loaders_read_the_same_photos_into_the_same_shape(photos: Path) -> None:
    chosen = [0, 2, 5]
    found = loader.read_photos(photos)

    batches = [
        [*each]
        for each in (
            loader.ours(found, chosen),
            loader.theirs(photos, [found.names[i] for i in chosen]),
        )
    ]

    (ours,), (theirs,) = batches
    assert ours[0].shape == theirs[0].shape == (3, 3, 224, 224)
    assert ours[0].dtype == theirs[0].dtype == torch.uint8
    assert ours[1].tolist() == theirs[1].tolist() == [0, 0, 1]
    # Photos of one colour each, so that crops are of that colour, too.
    torch.testing.assert_close(ours[0].float(), theirs[0].float(), rtol=0, atol=1)


def test_photos_per_second_are_told_and_the_ratio_is_that_of_times(
    setting: Setting, photos: Path
) -> None:
    (row,) = run(loader.cells(replace(setting, data=photos)))

    assert (row.unit, row.peer) == ("images/s", "torchvision")
    assert row.ratio == pytest.approx(row.theirs / row.ours)


def test_the_packaged_photos_are_read_where_none_are_given(setting: Setting) -> None:
    with loader._folder(None) as folder:
        assert len(loader.read_photos(folder)) > 300
    assert not folder.exists()


def test_splits_and_archives_are_refused_before_anything_runs(
    setting: Setting, photos: Path
) -> None:
    for split in ("train", "val"):
        (photos.parent / "splits" / split).mkdir(parents=True)
    photos.rename(photos.parent / "splits" / "train" / "x")

    with pytest.raises(ValueError, match=r"splits must hold class folders and nothing else"):
        loader.cells(replace(setting, data=photos.parent / "splits"))
    with pytest.raises(ValueError, match=r"clothing-val.tar.xz must hold class folders and"):
        loader.cells(replace(setting, data=ASSETS / "clothing" / "clothing-val.tar.xz"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        loader.cells(replace(setting, data=photos / "gone"))


def test_a_loader_is_read_to_its_end(photos: Path) -> None:
    found = loader.read_photos(photos)

    assert loader.exhaust(loader.theirs(photos, found.names)) == 6
    assert loader.exhaust(loader.ours(found, [0, 4, 5])) == 3


def test_gradients_reach_every_kernel_of_the_net_that_is_weighed() -> None:
    net = make_net("ours", TINY)

    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
