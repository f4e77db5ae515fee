"""A backbone, a decoder and a classifier of pixels, and what there is to say about them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wszoo.backbone import Backbone, formula_of, load_backbone
from wszoo.layers import WSConv2d
from wszoo.lint import lint
from wszoo.memory import Memory, save_memory
from wszoo.segmentation.blocks import resize

MIN_SIZE = 64  # pixels; two by two at stride 32
_OVERSHOOT = 0.1  # what bicubic resizing adds to values in 0..1


class Segmenter(nn.Module):
    """Scores for every class at every pixel of photos.

    Every photo is treated by itself: its scores do not depend on the batch around it, in training
    either. The first batch in training is held against the range 0..1, which costs one
    synchronization with the device; later ones are not.

    Args:
        backbone: Gives the feature maps, and the mean and deviation its weights were trained with.
        decoder: Takes the list of feature maps, gives ``(N, channels, h, w)``. Its kernels are
            standardized by the backbone's formula from now on.
        channels: What the decoder gives.
        num_classes: Scores per pixel. As in torchvision, all classes count and no other: a
            background is one of them only where it has a label of its own.
        dropout: Share of the decoder's values that are zeroed in training.

    Shape:
        ``(N, in_chans, H, W)`` in 0..1, of at least 64 x 64 pixels, to ``(N, num_classes, H, W)``.

    Raises:
        ValueError: ``num_classes`` or ``dropout`` is out of range, or there is BatchNorm in the
            decoder. In ``forward``: the images have another shape, type or range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        decoder: nn.Module,
        *,
        channels: int,
        num_classes: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2, got {num_classes}: every label counts; "
                f"an object and what is around it are two classes"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be within 0..1, without 1, got {dropout}")
        self.num_classes = num_classes
        self.backbone = backbone
        self.decoder = decoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(channels, num_classes, 1)
        # All classes alike at the start: the first loss is the logarithm of their number.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self._range_checked = False
        for module in decoder.modules():
            if isinstance(module, WSConv2d):
                module.formula = formula_of(backbone.body)
        _refuse_batch_norm(decoder)

    def forward(self, images: Tensor) -> Tensor:
        _check_shape(images, self.backbone.in_chans)
        if self.training and not self._range_checked:
            _check_range(images)
            self._range_checked = True
        features = self.backbone((images - self.mean) / self.std)
        logits = self.head(self.dropout(self.decoder(features)))
        return resize(logits, images.shape[-2:])


def _check_shape(images: Tensor, in_chans: int) -> None:
    if images.ndim != 4 or images.shape[1] != in_chans:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, the backbone takes (N, {in_chans}, H, W)"
        )
    height, width = images.shape[-2:]
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"images of {height} x {width} pixels are too small: "
            f"{MIN_SIZE} a side are needed; enlarge them or take larger crops"
        )
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; give floats in 0..1, such as x / 255")


def _check_range(images: Tensor) -> None:
    low, high = (bound.item() for bound in torch.aminmax(images.detach()))
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return
    if low != low or high != high:
        raise ValueError("images hold NaN; look for a division by zero in the transforms")
    fix = (
        "divide by 255"
        if low >= -_OVERSHOOT and high > 10
        else "leave Normalize out, the model subtracts the backbone's own mean"
    )
    raise ValueError(f"images lie in {low:.3g}..{high:.3g}, but must lie in 0..1: {fix}")


def _refuse_batch_norm(decoder: nn.Module) -> None:
    """The backbone answers for itself: ``load_backbone`` refuses it unless it was allowed."""
    batch_norms = [
        path
        for path, module in decoder.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if batch_norms:
        raise ValueError(
            f"the decoder has {len(batch_norms)} BatchNorm layers ({batch_norms[0]}, …), which "
            f"fail at batch size 1; wszoo.to_group_norm replaces them"
        )


def to_backbone(
    backbone: str | Backbone,
    *,
    pretrained: bool,
    trainable_stages: int | None,
    in_chans: int,
    memory: Memory | None = None,
    output_stride: int = 32,
    out_indices: tuple[int, ...] = (1, 2, 3, 4),
) -> Backbone:
    """The backbone itself, or the one of that name.

    The level of memory of either can be changed at any time; None leaves that of a given one.

    Raises:
        ValueError: A backbone is given together with settings that only making it can heed.
    """
    if isinstance(backbone, str):
        return load_backbone(
            backbone,
            pretrained=pretrained,
            trainable_stages=trainable_stages,
            in_chans=in_chans,
            output_stride=output_stride,
            out_indices=out_indices,
            memory="fast" if memory is None else memory,
        )
    is_asked = {
        "pretrained=False": not pretrained,
        f"trainable_stages={trainable_stages}": trainable_stages is not None,
        f"in_chans={in_chans}": in_chans != 3,
    }
    asked = [setting for setting, given in is_asked.items() if given]
    if asked:
        raise ValueError(f"the backbone is made already: give {', '.join(asked)} to load_backbone")
    return backbone if memory is None else save_memory(backbone, memory)


def describe_segmenter(model: Segmenter, *, size: int = 512) -> dict[str, Any]:
    """Parameters, arithmetic and norms of a segmenter. Nothing is computed, only shapes.

    Args:
        size: Side of the square photo whose multiply-accumulates are counted, in pixels.

    Returns:
        ``backbone``, ``decoder``, ``classes``, ``params``, ``trainable``, ``MACs`` and ``norms``
        (class name to count).
    """
    skeleton = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, model.backbone.in_chans, size, size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        skeleton(image)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "backbone": model.backbone.name,
        "decoder": type(model.decoder).__name__,
        "classes": model.num_classes,
        "params": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        "trainable": f"{trainable / 1e6:.2f} M",
        "MACs": f"{counter.get_total_flops() / 2e9:.2f} G at {size} x {size}",
        "norms": lint(model).norms,
    }
