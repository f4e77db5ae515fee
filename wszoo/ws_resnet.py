"""The variants: timm's ResNet with weight-standardized convolutions and batch-free norms.

timm files a model under the last name of its module, so ``timm.list_models(module="ws_resnet")``
lists exactly this zoo.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from wszoo.layers import (
    BatchChannelNorm,
    GroupNorm,
    WSConv2d,
    WSFormula,
    formula_key,
    refuse_folded,
    to_formula,
)
from wszoo.layers.blocks import FUSING
from wszoo.loading import adapt_state_dict, guard_timm, resolve_source
from wszoo.weights import WEIGHTS

guard_timm()
_ATTENTION = "se"  # what timm calls the attention of a block; no norm follows its convolutions


class WSResNet(ResNet):
    """timm's ``ResNet`` with two substitutions: the norm, and ``WSConv2d`` for ``nn.Conv2d``.

    Its blocks are timm's, too, but for norm, residual and ReLU in one operator on CUDA, where
    ``wszoo.triton_kernels`` is turned on.

    State-dict keys stay those of timm and torchvision. With ``in_chans`` other than 3 the first
    convolution stays plain: no standardized kernel over other channels gives the features of the
    RGB one, whereas a plain kernel that holds its sum over the channels does.

    Args:
        block, layers, **kwargs: As for ``timm.models.resnet.ResNet``.
        formula: How kernels are standardized: a name in ``wszoo.FORMULAS`` or a ``WSFormula``.
        norm_layer: As for timm; ``GroupNorm`` by default.
    """

    formula: WSFormula
    pretrained_cfg: dict[str, Any]

    def __init__(
        self,
        block: Any,
        layers: tuple[int, ...],
        *,
        formula: str | WSFormula = "jhu",
        norm_layer: Any = GroupNorm,
        **kwargs: Any,
    ) -> None:
        super().__init__(FUSING.get(block, block), layers, norm_layer=norm_layer, **kwargs)
        self.formula = to_formula(formula)
        convs = [
            (path, module)
            for path, module in self.named_modules()
            if type(module) is nn.Conv2d and _ATTENTION not in path.split(".")
        ]
        self.first_conv = convs[0][0]
        for path, conv in convs[0 if self.in_chans == 3 else 1 :]:
            self.set_submodule(path, WSConv2d.from_conv(conv, self.formula))

    def train(self, mode: bool = True) -> "WSResNet":
        """As for ``nn.Module``; a folded net cannot be trained."""
        if mode:
            refuse_folded(self, "trained")
        return super().train(mode)


_R10: dict[str, Any] = dict(block=BasicBlock, layers=(1, 1, 1, 1))
_R14: dict[str, Any] = dict(block=Bottleneck, layers=(1, 1, 1, 1))
_R18: dict[str, Any] = dict(block=BasicBlock, layers=(2, 2, 2, 2))
_R26: dict[str, Any] = dict(block=Bottleneck, layers=(2, 2, 2, 2))
_R34: dict[str, Any] = dict(block=BasicBlock, layers=(3, 4, 6, 3))
_R50: dict[str, Any] = dict(block=Bottleneck, layers=(3, 4, 6, 3))
_R101: dict[str, Any] = dict(block=Bottleneck, layers=(3, 4, 23, 3))
_R152: dict[str, Any] = dict(block=Bottleneck, layers=(3, 8, 36, 3))
_D_STEM: dict[str, Any] = dict(stem_width=32, stem_type="deep", avg_down=True)
_BCN: dict[str, Any] = dict(norm_layer=BatchChannelNorm)
_32X4D: dict[str, Any] = dict(cardinality=32, base_width=4)


def _first_conv(variant: str) -> str:
    has_deep_stem = variant.split("_")[0].endswith("d")
    return "conv1.0" if has_deep_stem else "conv1"


def _cfg(variant: str) -> dict[str, Any]:
    """What timm should know of a net without weights."""
    return dict(
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        first_conv=_first_conv(variant),
        classifier="fc",
        paper_ids="arXiv:1903.10520",
    )


_VARIANTS = (
    "test_resnet_gn_ws",
    *(f"resnet{depth}_gn_ws" for depth in (10, 14, 18, 26, 34, 50, 101, 152)),
    *(f"resnet{depth}d_gn_ws" for depth in (18, 26, 34, 50, 101, 152)),
    *(f"resnext{kind}d_gn_ws" for kind in ("26_32x4", "50_32x4", "101_32x4", "101_32x8")),
    *("wide_resnet50_2_gn_ws", "wide_resnet101_2_gn_ws"),
    *("resnet50_bcn_ws", "resnet101_bcn_ws", "resnext50_32x4d_bcn_ws"),
)
# register_model looks for this name
default_cfgs = generate_default_cfgs(
    {w.name: w.pretrained_cfg(first_conv=_first_conv(w.model), classifier="fc") for w in WEIGHTS}
    | {f"{variant}.untrained": _cfg(variant) for variant in _VARIANTS}
)


def _build(variant: str, pretrained: bool, kwargs: dict[str, Any], **architecture: Any) -> WSResNet:
    """Build a variant through timm, with weights that were found and checked here."""
    if not pretrained and kwargs.get("pretrained_cfg") is None:
        kwargs.setdefault("num_classes", 1000)  # the classes of a tag are nothing to random weights
    overlay = kwargs.pop("pretrained_cfg_overlay", None)
    cache_dir = kwargs.pop("cache_dir", None)
    cfg, formula = resolve_source(
        variant,
        pretrained=pretrained,
        formula=kwargs.pop("formula", None),
        pretrained_cfg=kwargs.pop("pretrained_cfg", None),
        overlay=overlay,
        cache_dir=cache_dir,
    )
    model = build_model_with_cfg(
        WSResNet,
        variant,
        pretrained,
        pretrained_cfg=cfg.to_dict(),
        pretrained_filter_fn=adapt_state_dict,
        cache_dir=cache_dir,
        formula=formula,
        **(architecture | kwargs),
    )
    # timm saves it with the weights. Undeclared: TorchScript would take the attribute for its own.
    model.__dict__["_model_args"] = {"formula": formula_key(formula)}
    return model


@register_model
def resnet10_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-10: one basic block per stage."""
    return _build("resnet10_gn_ws", pretrained, kwargs, **_R10)


@register_model
def resnet14_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-14: one bottleneck per stage."""
    return _build("resnet14_gn_ws", pretrained, kwargs, **_R14)


@register_model
def resnet18_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-18."""
    return _build("resnet18_gn_ws", pretrained, kwargs, **_R18)


@register_model
def resnet26_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-26: two bottlenecks per stage."""
    return _build("resnet26_gn_ws", pretrained, kwargs, **_R26)


@register_model
def resnet34_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-34."""
    return _build("resnet34_gn_ws", pretrained, kwargs, **_R34)


@register_model
def resnet50_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-50 with the stride on the 3x3 convolution."""
    return _build("resnet50_gn_ws", pretrained, kwargs, **_R50)


@register_model
def resnet101_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-101 with the stride on the 3x3 convolution."""
    return _build("resnet101_gn_ws", pretrained, kwargs, **_R101)


@register_model
def resnet152_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-152 with the stride on the 3x3 convolution."""
    return _build("resnet152_gn_ws", pretrained, kwargs, **_R152)


@register_model
def resnet18d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-18-D: three 3x3 convolutions as stem, pooled shortcuts."""
    return _build("resnet18d_gn_ws", pretrained, kwargs, **_R18, **_D_STEM)


@register_model
def resnet26d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-26-D: three 3x3 convolutions as stem, pooled shortcuts."""
    return _build("resnet26d_gn_ws", pretrained, kwargs, **_R26, **_D_STEM)


@register_model
def resnet34d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-34-D: three 3x3 convolutions as stem, pooled shortcuts."""
    return _build("resnet34d_gn_ws", pretrained, kwargs, **_R34, **_D_STEM)


@register_model
def resnet50d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-50-D: three 3x3 convolutions as stem, pooled shortcuts."""
    return _build("resnet50d_gn_ws", pretrained, kwargs, **_R50, **_D_STEM)


@register_model
def resnet101d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-101-D: three 3x3 convolutions as stem, pooled shortcuts."""
    return _build("resnet101d_gn_ws", pretrained, kwargs, **_R101, **_D_STEM)


@register_model
def resnet152d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-152-D: three 3x3 convolutions as stem, pooled shortcuts."""
    return _build("resnet152d_gn_ws", pretrained, kwargs, **_R152, **_D_STEM)


@register_model
def resnext26_32x4d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNeXt-26, 32 groups of width 4."""
    return _build("resnext26_32x4d_gn_ws", pretrained, kwargs, **_R26, **_32X4D)


@register_model
def resnext50_32x4d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNeXt-50, 32 groups of width 4."""
    return _build("resnext50_32x4d_gn_ws", pretrained, kwargs, **_R50, **_32X4D)


@register_model
def resnext101_32x4d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNeXt-101, 32 groups of width 4."""
    return _build("resnext101_32x4d_gn_ws", pretrained, kwargs, **_R101, **_32X4D)


@register_model
def resnext101_32x8d_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNeXt-101, 32 groups of width 8."""
    architecture = dict(**_R101, cardinality=32, base_width=8)
    return _build("resnext101_32x8d_gn_ws", pretrained, kwargs, **architecture)


@register_model
def wide_resnet50_2_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """Wide ResNet-50-2: bottlenecks twice as wide inside."""
    return _build("wide_resnet50_2_gn_ws", pretrained, kwargs, **_R50, base_width=128)


@register_model
def wide_resnet101_2_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """Wide ResNet-101-2: bottlenecks twice as wide inside."""
    return _build("wide_resnet101_2_gn_ws", pretrained, kwargs, **_R101, base_width=128)


@register_model
def resnet50_bcn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-50 with Batch-Channel Normalization."""
    return _build("resnet50_bcn_ws", pretrained, kwargs, **_R50, **_BCN)


@register_model
def resnet101_bcn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNet-101 with Batch-Channel Normalization."""
    return _build("resnet101_bcn_ws", pretrained, kwargs, **_R101, **_BCN)


@register_model
def resnext50_32x4d_bcn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """ResNeXt-50 32x4d with Batch-Channel Normalization."""
    architecture = _R50 | _32X4D | _BCN
    return _build("resnext50_32x4d_bcn_ws", pretrained, kwargs, **architecture)


@register_model
def test_resnet_gn_ws(pretrained: bool = False, **kwargs: Any) -> WSResNet:
    """A ResNet small enough for every test: basic blocks of 16 to 128 channels."""
    architecture = _R10 | dict(channels=(16, 32, 64, 128))
    return _build("test_resnet_gn_ws", pretrained, kwargs, **architecture)
