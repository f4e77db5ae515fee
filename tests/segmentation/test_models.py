"""The four constructors: batch size 1, batch invariance, sizes, and the papers' numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wszoo.backbone import load_backbone
from wszoo.layers import WSConv2d
from wszoo.lint import lint
from wszoo.segmentation import (
    Segmenter,
    deeplab_v3_plus,
    segmentation_loss,
    semantic_fpn,
    unet,
    upernet,
)

NET = "test_resnet_gn_ws"
NARROW: dict[Callable[..., Segmenter], dict[str, Any]] = {
    semantic_fpn: dict(fpn_channels=32, channels=16),
    deeplab_v3_plus: dict(aspp_channels=32, low_level_channels=8, channels=32),
    upernet: dict(pool_channels=32, channels=32),
    unet: dict(channels=(64, 32, 16, 8, 4)),
}
every_constructor = pytest.mark.parametrize(
    "constructor", NARROW, ids=lambda constructor: constructor.__name__
)


def narrow(constructor: Callable[..., Segmenter], **kwargs: Any) -> Segmenter:
    settings = dict(num_classes=3, pretrained=False) | NARROW[constructor]
    return constructor(NET, **(settings | kwargs))


@every_constructor
def test_decoders_use_the_formula_of_the_backbone(constructor: Callable[..., Segmenter]) -> None:
    backbone = load_backbone(
        NET,
        pretrained=False,
        formula="bit",
        output_stride=16 if constructor is deeplab_v3_plus else 32,
        out_indices=(0, 1, 2, 3, 4) if constructor is unet else (1, 2, 3, 4),
    )

    model = constructor(backbone, num_classes=3, **NARROW[constructor])

    assert {*lint(model).standardized} == {"bit"}


def shapes(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Photos of a bright square and a dark bar on grain, and their labels."""
    images = 0.4 + 0.2 * torch.rand(count, 3, size, size)
    target = torch.zeros(count, size, size, dtype=torch.long)
    for index in range(count):
        top, left = (size // 8 * (1 + index + shift) % (size // 2) for shift in (0, 2))
        square = slice(top, top + size // 3), slice(left, left + size // 3)
        bar = slice(size - size // 4, size - size // 8), slice(None)
        for label, place, colour in ((1, square, (0.9, 0.7, 0.1)), (2, bar, (0.1, 0.1, 0.3))):
            target[index][place] = label
            images[index].permute(1, 2, 0)[place] = torch.tensor(colour)
    return images, target


@every_constructor
def test_one_photo_trains_every_parameter(constructor: Callable[..., Segmenter]) -> None:
    model = narrow(constructor).train()
    images, target = shapes(1, 64)

    loss = segmentation_loss(model(images), target, dice_weight=1.0)
    loss.backward()

    assert loss.isfinite()
    strange = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    assert strange == []
    assert lint(model).ok
    assert set(lint(model).norms) == {"GroupNorm"}


@every_constructor
def test_scores_of_a_photo_do_not_depend_on_its_batch(
    constructor: Callable[..., Segmenter],
) -> None:
    model = narrow(constructor, dropout=0.0).double().train()
    with torch.no_grad():  # the classifier's start would hide differences
        model.head.weight.normal_()
    images = torch.rand(3, 3, 65, 97, dtype=torch.float64)

    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image) for image in images.split(1)])

    assert together.abs().max() > 1
    assert (together - alone).abs().max() / together.abs().max() < 1e-10


@every_constructor
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (128, 96)], ids=str)
def test_scores_have_the_size_of_the_photo(
    constructor: Callable[..., Segmenter], size: tuple[int, int]
) -> None:
    model = narrow(constructor).eval()

    with torch.no_grad():
        assert model(torch.rand(2, 3, *size)).shape == (2, 3, *size)


@every_constructor
@pytest.mark.parametrize("size", [64, 75])
def test_the_score_of_a_pixel_rests_most_on_what_is_around_it(
    constructor: Callable[..., Segmenter], size: int
) -> None:
    """A shift, a flip or swapped sides anywhere in a decoder would look elsewhere."""
    model = narrow(constructor).double().eval()
    with torch.no_grad():
        model.head.weight.normal_()
    images = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)

    model(images)[0, 0, 8:12, 54:58].sum().backward()

    assert images.grad is not None
    quadrants = F.avg_pool2d(images.grad[0].abs().sum(dim=0, keepdim=True), size // 2)
    assert quadrants.shape == (1, 2, 2)
    assert quadrants.argmax() == 1, "of upper left, upper right, lower left, lower right"


@every_constructor
def test_every_convolution_is_standardized_but_the_classifier(
    constructor: Callable[..., Segmenter],
) -> None:
    model = narrow(constructor)

    plain = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not isinstance(module, WSConv2d)
    ]

    assert plain == ["head"]
    assert model.head.bias is not None
    assert not [name for name, _ in model.decoder.named_parameters() if name.endswith("conv.bias")]


def kernels(model: Segmenter) -> list[tuple[int, ...]]:
    convs = [module for module in model.decoder.modules() if isinstance(module, nn.Conv2d)]
    return [(c.in_channels, c.out_channels, c.kernel_size[0], c.dilation[0]) for c in convs]


def on_meta(constructor: Callable[..., Segmenter], **kwargs: Any) -> Segmenter:
    """Of full width, with the channels 256 to 2048 of a ResNet-50, but without values."""
    with torch.device("meta"):
        return constructor("resnet50_gn_ws", num_classes=19, pretrained=False, **kwargs)


def test_semantic_fpn_has_the_widths_of_its_paper() -> None:
    lateral = [(width, 256, 1, 1) for width in (256, 512, 1024, 2048)]
    output = [(256, 256, 3, 1)] * 4
    first, later = (256, 128, 3, 1), (128, 128, 3, 1)
    steps = [first, first, first, later, first, later, later]

    built = kernels(on_meta(semantic_fpn))

    assert sorted(built[:8]) == sorted(lateral + output)
    assert built[8:] == steps, "one, one, two and three steps from strides 4, 8, 16 and 32"


@pytest.mark.parametrize(("output_stride", "rates"), [(16, (6, 12, 18)), (8, (12, 24, 36))])
def test_deeplab_v3_plus_has_the_widths_and_rates_of_its_paper(
    output_stride: int, rates: tuple[int, ...]
) -> None:
    model = on_meta(deeplab_v3_plus, output_stride=output_stride)

    assert kernels(model) == [
        (2048, 256, 1, 1),
        *((2048, 256, 3, rate) for rate in rates),
        (2048, 256, 1, 1),
        (5 * 256, 256, 1, 1),
        (256, 48, 1, 1),
        (256 + 48, 256, 3, 1),
        (256, 256, 3, 1),
    ]
    assert model.backbone.strides[-1] == output_stride
    assert model.dropout.p == 0.1


def test_upernet_has_the_widths_of_its_authors_code() -> None:
    assert kernels(on_meta(upernet)) == [
        *[(2048, 512, 1, 1)] * 4,
        (2048 + 4 * 512, 512, 3, 1),
        *((width, 512, 1, 1) for width in (256, 512, 1024)),
        *[(512, 512, 3, 1)] * 3,
        (4 * 512, 512, 3, 1),
    ]


def test_unet_takes_a_map_of_the_backbone_at_every_step_but_the_last() -> None:
    assert kernels(on_meta(unet)) == [
        (2048 + 1024, 256, 3, 1), (256, 256, 3, 1),
        (256 + 512, 128, 3, 1), (128, 128, 3, 1),
        (128 + 256, 64, 3, 1), (64, 64, 3, 1),
        (64 + 64, 32, 3, 1), (32, 32, 3, 1),
        (32, 16, 3, 1), (16, 16, 3, 1),
    ]  # fmt: skip


def test_separable_convolutions_are_standardized_in_both_halves() -> None:
    model = narrow(deeplab_v3_plus, separable=True)
    images, target = shapes(1, 64)

    segmentation_loss(model(images), target).backward()

    depthwise = [m for m in model.decoder.modules() if isinstance(m, WSConv2d) and m.groups > 1]
    assert len(depthwise) == 5
    assert all(m.weight.shape[1:] == (1, 3, 3) and m.weight.grad is not None for m in depthwise)
    assert [m.dilation[0] for m in depthwise] == [6, 12, 18, 1, 1]


def test_a_finer_output_stride_gives_scores_too() -> None:
    model = narrow(deeplab_v3_plus, output_stride=8).eval()

    with torch.no_grad():
        assert model.backbone(torch.rand(1, 3, 64, 64))[-1].shape[-1] == 8
        assert model(torch.rand(1, 3, 65, 97)).shape == (1, 3, 65, 97)


@pytest.mark.parametrize("output_stride", [32, 4, 12])
def test_another_output_stride_is_refused(output_stride: int) -> None:
    with pytest.raises(ValueError, match=f"output_stride must be 8 or 16, got {output_stride}"):
        narrow(deeplab_v3_plus, output_stride=output_stride)


def test_deeplab_refuses_a_backbone_of_another_stride_or_without_fine_map() -> None:
    plain = load_backbone(NET, pretrained=False)
    coarse = load_backbone(NET, pretrained=False, output_stride=16, out_indices=(2, 4))

    with pytest.raises(ValueError, match=r"\(4, 8, 16, 32\), but .* a last one of 16 are needed"):
        deeplab_v3_plus(plain, num_classes=3)
    with pytest.raises(ValueError, match=r"strides \(8, 16\), but one of 4"):
        deeplab_v3_plus(coarse, num_classes=3)


@pytest.mark.parametrize("constructor", [semantic_fpn, upernet, unet])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_backbones_fit_the_pyramids(
    constructor: Callable[..., Segmenter], output_stride: int
) -> None:
    indices = (0, 1, 2, 3, 4) if constructor is unet else (1, 2, 3, 4)
    backbone = load_backbone(
        NET, pretrained=False, output_stride=output_stride, out_indices=indices
    )
    model = constructor(backbone, num_classes=3, **NARROW[constructor]).eval()

    with torch.no_grad():
        assert model(torch.rand(1, 3, 65, 97)).shape == (1, 3, 65, 97)


def test_a_unet_without_the_map_at_stride_2_doubles_once_more() -> None:
    backbone = load_backbone(NET, pretrained=False)
    model = unet(backbone, num_classes=3).eval()

    assert kernels(model)[6:] == [(64, 32, 3, 1), (32, 32, 3, 1), (32, 16, 3, 1), (16, 16, 3, 1)]
    with torch.no_grad():
        assert model(torch.rand(1, 3, 65, 97)).shape == (1, 3, 65, 97)


def test_a_unet_needs_one_width_per_step() -> None:
    with pytest.raises(ValueError, match="channels has 3 widths, .* takes 5 steps up"):
        narrow(unet, channels=(64, 32, 16))


def test_a_grid_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pool_sizes must name sides .* got \(1, 0\)"):
        narrow(upernet, pool_sizes=(1, 0))


@pytest.mark.slow
@every_constructor
def test_four_photos_are_learned_one_at_a_time(constructor: Callable[..., Segmenter]) -> None:
    model = constructor("resnet18_gn_ws", num_classes=3, pretrained=False).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    images, target = shapes(4, 64)

    def total() -> float:
        with torch.no_grad():
            return segmentation_loss(model.eval()(images), target).item()

    first = total()
    for step in range(60):
        index = [step % 4]
        optimizer.zero_grad()
        segmentation_loss(model.train()(images[index]), target[index]).backward()
        optimizer.step()

    assert total() < first / 2
