"""Whether a batch is more than its images: one net with five norms, asked whole and one by one.

A norm that looks at one image at a time gives a batch of B the outputs, the loss and the gradient
of B batches of one. That is what lets small batches and accumulation stand for large ones.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.data import create_transform
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from wszoo.datasets import read_labelled_images
from wszoo.layers import BatchChannelNorm, GroupNorm, WSConv2d
from wszoo.visualize.page import FAINT, MUTED, area, new_page, resize, save, write, write_heading
from wszoo.weights import ASSETS

MEASURES = ("output", "loss", "gradient")
BOUND = 1e-9  # relative, in float64: what rounding leaves is far below, what a batch does far above
_FLOOR = 1e-17  # where an exact zero is drawn
_CALIBRATED_ON = 32  # photos that stand for those seen before
_COLOURS = {"output": "#0072b2", "loss": "#d55e00", "gradient": "#009e73"}
_MARKERS = {"output": "o", "loss": "s", "gradient": "D"}
_WIDTH, _HEIGHT, _MARGIN = 547.2, 260.0, 12.0  # points


class Batch(NamedTuple):
    """Photos ``(N, 3, H, W)`` in float64 and their classes ``(N,)``."""

    images: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class Row:
    """How far a batch of B is from B batches of one, for one norm.

    Attributes:
        norm: Which.
        output: Of the logits, max|a - b| / max|b|.
        loss: Of the mean cross-entropy, relative.
        gradient: Of all parameters together, as for the logits.
        expected: Whether the norm looks at one image at a time.
    """

    norm: str
    output: float
    loss: float
    gradient: float
    expected: bool

    @property
    def invariant(self) -> bool:
        """Whether nothing but rounding differs."""
        return max(self.output, self.loss, self.gradient) < BOUND


@dataclass(frozen=True, kw_only=True)
class Invariance:
    """What ``measure_invariance`` found.

    Attributes:
        model: The variant whose architecture all nets have.
        batch: Images of the batch.
        pixels: Side of an image.
        seed: Of the random weights and the choice of photos.
        rows: One per norm.
    """

    model: str
    batch: int
    pixels: int
    seed: int
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every norm that looks at one image at a time is invariant."""
        return all(row.invariant for row in self.rows if row.expected)

    def to_json(self) -> dict[str, Any]:
        """The fields, what is invariant and whether that is as expected, as JSON takes them."""
        rows = [{**asdict(row), "invariant": row.invariant} for row in self.rows]
        return {**asdict(self), "rows": rows, "dtype": "float64", "ok": self.ok}

    def __str__(self) -> str:
        head = f"{self.model}, random weights, train mode, float64, {self.pixels} pixels: "
        lines = [head + f"a batch of {self.batch} against {self.batch} of one, relative"]
        lines += ["{:<10}{:>10}{:>10}{:>10}".format("", *MEASURES)]
        for row in self.rows:
            values = (getattr(row, measure) for measure in MEASURES)
            verdict = "the same" if row.invariant else "depends on the batch"
            lines.append(
                f"{row.norm:<10}" + "".join(f"{v:>10.1e}" for v in values) + f"  {verdict}"
            )
        return "\n".join([*lines, "ok" if self.ok else "not ok"])


class _Norm(NamedTuple):
    """How a net is given one norm.

    Attributes:
        make: Of so many channels.
        standardized: Whether its convolutions are.
        per_image: Whether it looks at one image at a time.
    """

    make: Callable[[int], nn.Module]
    standardized: bool
    per_image: bool


NORMS = {
    "BN": _Norm(nn.BatchNorm2d, False, False),
    "frozen BN": _Norm(nn.BatchNorm2d, False, True),  # frozen once it has statistics
    "GN": _Norm(GroupNorm, False, True),
    "GN+WS": _Norm(GroupNorm, True, True),
    "BCN+WS": _Norm(lambda c: BatchChannelNorm(c, estimate=True), True, False),
}


def measure_invariance(
    model: str, *, batch: int = 8, pixels: int = 64, seed: int = 0
) -> Invariance:
    """Compare one batch with its images one by one, in train mode, for each norm.

    The nets have random weights, no zeros among their gains (which would hide the branches behind
    them), and running statistics of other photos. Photos are packaged ones, of clothing. BCN
    normalizes by running estimates, its form for micro-batches: batches of one move them between
    two images, a batch of B once.

    Args:
        model: A variant of this zoo; a tag is ignored.
        batch: Images of the batch.
        pixels: Side of an image; BatchNorm needs 2 x 2 left of one image, so more than 32.
        seed: Of the weights and the choice of photos.

    Raises:
        ValueError: ``model`` is not of this zoo, or a number is too small or too large.
    """
    variant = model.split(".")[0]
    if variant not in timm.list_models(module="ws_resnet"):
        raise ValueError(f"{model!r} is no variant of this zoo; `wszoo list` shows them")
    if pixels <= 32:
        raise ValueError(f"{pixels} pixels leave BatchNorm one value per image; take more than 32")
    if batch < 2:
        raise ValueError(f"a batch of {batch} is no more than its images; take at least 2")
    asked, before = _photos(batch, pixels, seed)
    rows = []
    for name, norm in NORMS.items():
        net = _with_statistics(_make(variant, norm, seed), before.images, frozen="frozen" in name)
        whole = _answers(net, [asked])
        single = _answers(net, [Batch(*each) for each in zip(*map(_ones, asked), strict=True)])
        found = map(_difference, whole, single)
        rows.append(
            Row(norm=name, **dict(zip(MEASURES, found, strict=True)), expected=norm.per_image)
        )
    return Invariance(model=variant, batch=batch, pixels=pixels, seed=seed, rows=tuple(rows))


def _ones(values: Tensor) -> Sequence[Tensor]:
    return values.split(1)


def _photos(batch: int, pixels: int, seed: int) -> tuple[Batch, Batch]:
    """The batch, and other photos."""
    images = read_labelled_images(ASSETS / "clothing", "val")
    most = len(images) - _CALIBRATED_ON
    if batch > most:
        raise ValueError(f"a batch of {batch} is more than the packaged photos; take up to {most}")
    random = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=random)[: batch + _CALIBRATED_ON].tolist()
    transform = create_transform(pixels, crop_pct=1.0, crop_mode="squash")
    pictures = torch.stack([transform(images.image(index)) for index in chosen]).double()
    targets = torch.tensor([images.targets[index] for index in chosen])
    return Batch(pictures[:batch], targets[:batch]), Batch(pictures[batch:], targets[batch:])


def _make(variant: str, norm: _Norm, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net: nn.Module = timm.create_model(variant, num_classes=10, zero_init_last=False)
    for path, module in [*net.named_modules()]:
        if isinstance(module, BatchChannelNorm):
            net.set_submodule(path, norm.make(module.bn.num_features))
        elif isinstance(module, GroupNorm):
            net.set_submodule(path, norm.make(module.num_channels))
        elif isinstance(module, WSConv2d) and not norm.standardized:
            net.set_submodule(path, _plain(module))
    return net.double()


def _plain(conv: WSConv2d) -> nn.Conv2d:
    """The same raw kernel, without standardization."""
    twin = nn.Conv2d.__new__(nn.Conv2d)
    twin.__dict__ = {key: value for key, value in conv.__dict__.items() if key != "formula"}
    return twin


def _with_statistics(net: nn.Module, images: Tensor, *, frozen: bool) -> nn.Module:
    """Give ``net`` the statistics of ``images`` where it keeps some, and freeze it if wanted."""
    kept = [(path, m) for path, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [module.register_forward_pre_hook(_take_statistics) for _, module in kept]
    with torch.no_grad():
        net.eval()(images)  # by the statistics just taken, layer after layer
    for hook in hooks:
        hook.remove()
    for path, module in kept if frozen else []:
        fixed = FrozenBatchNorm2d(module.num_features, module.eps).double()
        fixed.load_state_dict({k: v for k, v in module.state_dict().items() if "num" not in k})
        net.set_submodule(path, fixed)
    return net.train()


def _take_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    assert isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    assert module.running_var is not None
    module.running_mean.copy_(mean)
    module.running_var.copy_(var)


def _answers(net: nn.Module, batches: Sequence[Batch]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, mean loss and gradient over all batches, of a copy in train mode."""
    asked = copy.deepcopy(net).train()
    count = sum(len(batch.targets) for batch in batches)
    logits, total = [], torch.zeros((), dtype=torch.float64)
    for batch in batches:
        logits.append(asked(batch.images))
        loss = F.cross_entropy(logits[-1], batch.targets, reduction="sum") / count
        loss.backward()
        total += loss.detach()
    gradient = [p.grad.flatten() for p in asked.parameters() if p.grad is not None]
    return torch.cat(logits).detach(), total, torch.cat(gradient)


def _difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def draw_invariance(found: Invariance, path: Path) -> None:
    """Draw the differences on a scale of powers of ten, one line per norm, as a PNG file."""
    figure = new_page()
    resize(figure, _WIDTH, _HEIGHT)
    title = f"One batch of {found.batch} against {found.batch} batches of one"
    write_heading(figure, [title], _MARGIN)
    note = f"{found.model}, random weights, train mode, float64, {found.pixels} pixels"
    write(figure, _MARGIN, _HEIGHT - 34, note, fontsize=10.5, color=MUTED)
    axes = figure.add_axes(area(figure, 74, 44, _WIDTH - 74 - 92, _HEIGHT - 44 - 60))
    rows = [*reversed(found.rows)]
    for measure, shift in zip(MEASURES, (0.18, 0.0, -0.18), strict=True):
        values = [max(getattr(row, measure), _FLOOR) for row in rows]
        heights = [index + shift for index in range(len(rows))]
        mark, colour = _MARKERS[measure], _COLOURS[measure]
        axes.scatter(values, heights, s=34, marker=mark, c=colour, label=measure, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(_FLOOR / 3, 30)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_yticks(range(len(rows)), [row.norm for row in rows])
    axes.axvline(BOUND, color=MUTED, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)
    told = "relative difference; left of the dashed line it is rounding, at the edge it is zero"
    axes.set_xlabel(told, color=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.tick_params(colors=MUTED, labelsize=10.5, length=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=10.5)
    save(figure, path)
