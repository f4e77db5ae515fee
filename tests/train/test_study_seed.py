import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from train import study_seed as study
from train.studies import seed_probes
from train.studies.idx import TEST, TRAIN, Images, read_idx, read_images
from train.studies.results import declare
from train.studies.seed_page import OUT, RESULTS, best_rate, page, plots, top1s
from train.studies.seed_probes import (
    FORMS,
    Scale,
    agreement,
    fit,
    gradients,
    own_kernels,
    pushed,
    spread,
    top1,
)
from train.studies.seed_systems import (
    SYSTEMS,
    Attempt,
    attempt_kernel,
    make_system,
    plain_net,
    tensorflow_kernel,
)
from wszoo.training.rows import read_rows


def idx(shape: tuple[int, ...], values: bytes, *, kind: int = 8) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in shape)
    return bytes([0, 0, kind, len(shape)]) + sizes + values


def photos(count: int = 128) -> Images:
    labels = torch.arange(count) % 10
    pixels = torch.randint(0, 99, (count, 28, 28), generator=torch.Generator().manual_seed(0))
    for at, label in enumerate(labels):  # a bright row tells the label
        pixels[at, 2 * int(label) + 4] = 255
    return Images(pixels.byte(), labels)


def write_idx(folder: Path, part: str, images: Images, *, zipped: bool) -> None:
    folder.mkdir(exist_ok=True)
    for what, values in (("images-idx3", images.pixels), ("labels-idx1", images.labels.byte())):
        data = idx(tuple(values.shape), values.numpy().tobytes())
        name = f"{part}-{what}-ubyte"
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(
            gzip.compress(data) if zipped else data
        )


def attempt_and_batch() -> tuple[Attempt, torch.Tensor, torch.Tensor]:
    net = make_system("attempt", 0)
    assert isinstance(net, Attempt)
    some = photos(16)
    return net, Scale.of(some.pixels)(some.pixels), some.labels


@pytest.mark.parametrize("zipped", [True, False])
def test_files_are_read_gzipped_or_plain(tmp_path: Path, zipped: bool) -> None:
    for part, count in ((TRAIN, 20), (TEST, 10)):
        write_idx(tmp_path, part, photos(count), zipped=zipped)

    found = read_images(tmp_path, TRAIN)

    assert torch.equal(found.pixels, photos(20).pixels)
    assert torch.equal(found.labels, photos(20).labels)
    assert len(read_images(tmp_path, TEST).labels) == 10
    assert found.facts()["images"] == 20
    assert found.facts() != photos(10).facts()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with nothing, where an IDX file of bytes in 1 dimensions begins with"),
        (b"\x89PNG....", "begins with 89504e47, where"),
        (idx((1, 1), b"a"), "begins with 00000802, where"),
        (idx((2,), b"abcd", kind=13), "begins with 00000d01, where"),
        (idx((3,), b"ab"), r"has 2 bytes where its shape \[3\] takes 3"),
        (idx((3,), b"abcd"), r"has more bytes where its shape \[3\] takes 3"),
        (idx((0,), b""), r"declares the shape \[0\]; expected 1 sizes, of 1 to 1073741824 bytes"),
        (idx((2**31,), b""), r"declares the shape \[2147483648\]"),
        (bytes([0, 0, 8, 1, 0, 0]), r"declares the shape \[0\]"),
    ],
)
def test_a_file_that_is_no_idx_or_not_whole_is_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "file").write_bytes(data)

    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "file", 1)


@pytest.mark.parametrize("data", [b"no gzip", gzip.compress(idx((9,), b"123456789"))[:-12]])
def test_a_damaged_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file.gz").write_bytes(data)

    with pytest.raises(ValueError, match=r"file\.gz is damaged \(.+\); copy it again"):
        read_idx(tmp_path / "file.gz", 1)


def test_images_and_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no train-images-idx3-ubyte\.gz nor train-"):
        read_images(tmp_path, TRAIN)
    good = photos(10)
    cases = {
        "has images of 28 x 14 pixels; expected 28 x 28": Images(good.pixels[:, :, 14:], good[1]),
        "has 10 images, and train-labels-idx1-ubyte 9 labels": Images(good.pixels, good.labels[1:]),
        "has label 12; expected 0 to 9": Images(good.pixels, good.labels + 3),
    }
    for message, images in cases.items():
        write_idx(tmp_path, TRAIN, images, zipped=False)
        with pytest.raises(ValueError, match=message):
            read_images(tmp_path, TRAIN)


def test_the_forms_of_the_document_are_the_formulas_of_the_zoo() -> None:
    some = photos()
    scale = Scale.of(some.pixels)

    for form, formula in FORMS.items():
        exact = agreement(form, formula, "float64", some, scale)
        assert max(exact["kernels"], exact["gradients"]) < 1e-14
        assert exact["trained"] < 1e-12
        single = agreement(form, formula, "float32", some, scale)
        assert max(single["kernels"], single["gradients"]) < 1e-6
    for form, other in zip(FORMS, reversed(FORMS.values()), strict=True):
        assert agreement(form, other, "float64", some, scale)["kernels"] > 1e-3


def test_the_tensorflow_form_is_what_numpy_makes_of_its_lines() -> None:
    kernel = torch.randn(5, 5, 3, 4, dtype=torch.float64)
    lines = kernel.numpy() - np.mean(kernel.numpy(), axis=(0, 1, 2), keepdims=True)
    lines = lines / (np.std(lines, axis=(0, 1, 2), keepdims=True) + 1e-5)

    assert torch.allclose(tensorflow_kernel(kernel), torch.from_numpy(lines), rtol=1e-13)


def test_all_systems_of_a_seed_start_from_the_same_numbers() -> None:
    nets = {name: make_system(name, 3) for name in SYSTEMS}
    unit = nets.pop("unit").get_parameter("conv2.weight")
    assert torch.equal(unit, attempt_kernel(nets["through"].get_parameter("conv2.weight")))
    kernels = {
        name: {key: value for key, value in net.state_dict().items() if "conv2" in key}
        for name, net in nets.items()
    }
    hwio = kernels.pop("tensorflow")["conv2.kernel"].permute(3, 2, 0, 1)

    assert all(torch.equal(each["conv2.weight"], hwio) for each in kernels.values())
    fc = [net.state_dict()["fc.weight"] for net in nets.values()]
    assert all(torch.equal(each, fc[0]) for each in fc)


def test_the_attempt_writes_its_kernels_and_learns_as_if_they_were_free() -> None:
    net, images, labels = attempt_and_batch()
    used = own_kernels(net)
    F.nll_loss(net(images), labels).backward()

    assert torch.equal(net.conv1.weight, used[0]) and torch.equal(net.conv2.weight, used[1])
    assert net.conv1_bn.weight.grad is None and net.conv2_bn.bias.grad is None
    free = [kernel.detach().requires_grad_() for kernel in used]
    twin = plain_net(net, (used[0], used[1]))
    twin.conv1.weight, twin.conv2.weight = (torch.nn.Parameter(kernel) for kernel in free)
    F.nll_loss(twin(images), labels).backward()
    for name in ("conv1", "conv2"):
        expected = twin.get_parameter(f"{name}.weight").grad
        found = net.get_parameter(f"{name}.weight").grad
        assert expected is not None and found is not None
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_true_gradient_is_the_free_one_less_what_normalizing_takes_back() -> None:
    net, images, labels = attempt_and_batch()
    kernel = attempt_kernel(net.conv2.weight.detach().double())

    found = gradients(net, images, labels, rate=1e-6)

    # By hand: per input channel, the parts along the mean and along the kernel are lost.
    twin = plain_net(net, (own_kernels(net)[0].double(), kernel))
    loss = F.nll_loss(twin(images.double()), labels)
    free = torch.autograd.grad(loss, twin.get_parameter("conv2.weight"))[0]
    rows, along = (each.transpose(0, 1).flatten(1) for each in (free, kernel))
    rest = rows - rows.mean(1, True)
    rest = rest - along * (rest * along).mean(1, True) / along.square().mean(1, True)
    assert found["cosine"][1] == pytest.approx((rest.norm() / rows.norm()).item(), rel=1e-4)
    # A short step of either moves the normalized kernel alike.
    assert min(found["kept"]) > 1 - 1e-6
    # But for BatchNorm's epsilon, which is 0.4 % of the variance of these first kernels.
    assert found["length"] == pytest.approx([1, 1], rel=5e-3)


def test_the_attempt_normalizes_input_channels_and_ws_filters() -> None:
    net, _, _ = attempt_and_batch()
    attempt = spread(own_kernels(net)[1])
    right = spread(tensorflow_kernel(net.conv2.weight.permute(2, 3, 1, 0)).permute(3, 2, 0, 1))

    assert attempt["inputs"] == pytest.approx([1] * 5, abs=1e-2)
    assert max(attempt["filters"]) - min(attempt["filters"]) > 0.02
    assert right["filters"] == pytest.approx([1] * 5, abs=1e-3)
    assert right["means"] == pytest.approx([0] * 5, abs=1e-6)


def test_evaluation_moves_the_kernels_of_the_attempt_and_of_no_other_system() -> None:
    some = photos()
    scale = Scale.of(some.pixels)
    for name in SYSTEMS:
        net = make_system(name, 0)
        fit(net, some, scale, rate=0.001, seed=0)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        top1(net, some, scale)
        same = all(torch.equal(before[key], value) for key, value in net.state_dict().items())
        assert same == (name != "attempt")
        if isinstance(net, Attempt):
            kernels = own_kernels(net)
            found = pushed(net, some, scale)
            assert [each["passes"] for each in found] == [0, 1, 10, 100, 1000]
            assert found[0]["moved"] == 0 and found[-1]["moved"] > found[1]["moved"] > 0
            assert found[0]["top1"] == top1(plain_net(net, kernels), some, scale)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name, value in {
        "IMAGES": 128,
        "RATES": (0.001, 0.004, 0.064),
        "SEEDS": (0,),
        "CURVE": 1,
    }.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(study, "PROBE_EVERY", 2)
    monkeypatch.setattr(seed_probes, "PUSHES", (100,))
    for part in (TRAIN, TEST):
        write_idx(tmp_path / "data", part, photos(160), zipped=True)
    return tmp_path


def test_the_study_goes_on_where_it_was_and_writes_its_page(quick: Path) -> None:
    out = quick / "out"
    arguments = ["--data", str(quick / "data"), "--out", str(out)]
    first = CliRunner().invoke(study.main, arguments)
    assert first.exit_code == 0, first.output
    rows = (out / RESULTS).read_text().splitlines(keepends=True)
    assert len(rows) == 8 + 3 * len(SYSTEMS)
    (out / RESULTS).write_text("".join(rows[:-1]))

    again = CliRunner().invoke(study.main, arguments)

    assert again.exit_code == 0, again.output
    assert again.output.startswith("gn_ws, rate 0.064, seed 0: ")
    assert len(again.output.splitlines()) == 1
    assert (out / "README.md").read_text() == page(out)
    assert all((out / f"{name}.png").exists() for name in plots(out))


def test_other_photos_do_not_go_into_the_same_results(quick: Path) -> None:
    arguments = ["--data", str(quick / "data"), "--out", str(quick / "out")]
    declare(quick / "out", {"photos": {"train": photos(100).facts()}, "plan": study._plan()})

    result = CliRunner().invoke(study.main, arguments)

    assert result.exit_code == 3
    assert "holds results of another study (photos); name a new folder" in result.output


def test_data_is_needed_to_train() -> None:
    result = CliRunner().invoke(study.main, [])

    assert result.exit_code == 2
    assert "give --data, the folder of the IDX files, or --render alone" in result.output


def test_the_committed_results_say_what_the_page_says() -> None:
    rows, _ = read_rows(OUT / RESULTS)
    same = [
        row for row in rows if row["what"] == "agreement" and FORMS[row["form"]] == row["formula"]
    ]
    attempts = [row for row in rows if row.get("system") == "attempt" and row["rate"] == 0.004]

    assert len(same) == 4
    assert max(max(row["kernels"], row["gradients"]) for row in same) < 1e-6
    # The wrong part of the gradient is undone, so the true one makes no difference that is told.
    assert best_rate(rows, "attempt") == 0.004
    assert min(v for row in attempts for each in row["gradients"] for v in each["kept"]) > 0.9999
    for rate in study.RATES:
        found, true = top1s(rows, "attempt", rate), top1s(rows, "unit", rate)
        assert min(found) <= max(true) and min(true) <= max(found)
    # The length, the axis, the norm: each step of the ladder is told from the one before.
    ladder = [top1s(rows, n, best_rate(rows, n)) for n in ("unit", "through", "pytorch", "gn_ws")]
    assert all(max(low) < min(high) for low, high in pairwise(ladder))
    assert max(top1s(rows, "through", 0.004)) + 10 < min(top1s(rows, "pytorch", 0.004))
    assert max(top1s(rows, "attempt", 0.004)) < min(top1s(rows, "pytorch", 0.004))
    for row in attempts:
        held, _, ten, _, thousand = row["pushed"]
        assert abs(held["top1"] - ten["top1"]) < 1 and thousand["top1"] < 15
    assert set(top1s(rows, "pytorch", 0.064)) == {10.0}
    assert min(top1s(rows, "gn_ws", 0.064)) > max(top1s(rows, "plain", 0.064))
    best = [top1s(rows, name, best_rate(rows, name)) for name in ("gn_ws", "gn")]
    assert min(best[0]) < max(best[1]) and min(best[1]) < max(best[0])
    assert min(top1s(rows, "gn_ws", 0.001)) > max(top1s(rows, "gn", 0.001))
