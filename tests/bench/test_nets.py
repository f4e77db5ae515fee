import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.std_conv import StdConv2d
from torch import nn

from wszoo.bench import PEERS, make_twin, paper_standardize, timm_standardize
from wszoo.bench.nets import (
    LAYOUTS,
    PaperConv2d,
    in_layout,
    loss_of,
    make_net,
    make_ours,
    random_images,
    trainer,
)
from wszoo.layers import BatchChannelNorm, WSConv2d, standardize_weight
from wszoo.ws_resnet import WSResNet

TINY = "test_resnet_gn_ws"
CPU = torch.device("cpu")


def create(variant: str, formula: str = "jhu") -> WSResNet:
    model = timm.create_model(variant, formula=formula)
    assert isinstance(model, WSResNet)
    return model.eval()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_timms_operator_is_the_one_in_its_layer(layout: torch.memory_format) -> None:
    conv = StdConv2d(4, 8, 3, padding=1).to(memory_format=layout)
    x = torch.randn(2, 4, 7, 7)

    by_hand = F.conv2d(x, timm_standardize(conv.weight), padding=1)

    torch.testing.assert_close(by_hand, conv(x), rtol=0, atol=0)
    torch.testing.assert_close(
        timm_standardize(conv.weight), standardize_weight(conv.weight, "timm")
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_papers_operator_is_our_default_formula(layout: torch.memory_format) -> None:
    conv = PaperConv2d(4, 8, 3, padding=1).double().to(memory_format=layout)
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)

    by_hand = F.conv2d(x, standardize_weight(conv.weight, "jhu"), conv.bias, padding=1)

    torch.testing.assert_close(conv(x), by_hand, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        paper_standardize(conv.weight), standardize_weight(conv.weight, "jhu")
    )


@pytest.mark.parametrize(
    ("variant", "peer", "formula"),
    [
        (TINY, "timm", "timm"),
        (TINY, "paper", "jhu"),
        ("resnet18d_gn_ws", "timm", "timm"),
        ("resnext26_32x4d_gn_ws", "paper", "jhu"),
    ],
)
def test_the_twin_is_the_same_net_from_their_layers(variant: str, peer: str, formula: str) -> None:
    model = create(variant, formula)
    twin = make_twin(model, variant, peer)
    x = torch.randn(1, 3, 64, 64)

    with torch.inference_mode():
        expected, got = model(x), twin(x)

    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert not any(isinstance(layer, WSConv2d) for layer in twin.modules())
    for path, layer in model.named_modules():
        if isinstance(layer, WSConv2d):
            other = twin.get_submodule(path)
            assert type(other) is PEERS[peer].conv
            assert other.weight is layer.weight
            assert (other.stride, other.padding) == (layer.stride, layer.padding)


def test_timms_twin_has_no_layer_of_ours() -> None:
    twin = make_twin(create(TINY), TINY)

    layers = {type(m).__module__.split(".")[0] for m in twin.modules() if not any(m.children())}

    assert layers == {"timm", "torch"}


def test_the_twin_with_batch_norm_standardizes_nothing() -> None:
    twin = make_twin(create(TINY), TINY, "bn")

    convs = {type(m) for m in twin.modules() if isinstance(m, nn.Conv2d)}
    norms = [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]

    assert convs == {nn.Conv2d}
    assert norms and not any(isinstance(m, nn.GroupNorm) for m in twin.modules())


def test_batch_channel_norm_variants_have_a_twin_with_group_norm() -> None:
    model = create("resnet50_bcn_ws")
    twin = make_twin(model, "resnet50_bcn_ws")

    assert not any(isinstance(layer, BatchChannelNorm) for layer in twin.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in twin.modules())


def test_a_net_of_another_zoo_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'resnet50' is no variant of this zoo; `wszoo list` shows them"
    ):
        make_ours("resnet50")


@pytest.mark.parametrize("kind", ["ours", *PEERS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_trains_every_weight_in_its_layout(kind: str, layout: str) -> None:
    net = in_layout(make_net(kind, TINY), CPU, layout)
    images = random_images(2, layout, CPU, 64)
    before = net.get_parameter("conv1.weight").detach().clone()

    trainer(net, "bf16")(images)

    assert images.is_contiguous(memory_format=LAYOUTS[layout])
    assert not torch.equal(before, net.get_parameter("conv1.weight"))
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.dim() < 4 or parameter.is_contiguous(memory_format=LAYOUTS[layout])


def test_precision_is_that_of_the_activations() -> None:
    net, images = make_net("ours", TINY), random_images(2, "contiguous", CPU, 64)
    seen = []
    net.get_submodule("layer1").register_forward_hook(lambda *call: seen.append(call[2].dtype))

    for precision in ("fp32", "bf16"):
        assert loss_of(net, images, precision).dtype == torch.float32

    assert seen == [torch.float32, torch.bfloat16]
