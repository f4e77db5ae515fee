"""What is asked of the systems of the document: do they agree, what do they learn, what fails."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from train.studies.idx import PIXELS, Images
from train.studies.seed_systems import (
    Attempt,
    Net,
    attempt_kernel,
    make_system,
    plain_net,
    pytorch_kernel,
    tensorflow_kernel,
)
from wszoo import WSConv2d, standardize_weight

BATCH, TEST_BATCH, MOMENTUM = 64, 1000, 0.5
FORMS = {"pytorch": "jhu", "tensorflow": "tf"}  # of the document, and the zoo's name for each
SHAPES = ((5, 1, 5, 5), (5, 5, 5, 5), (64, 32, 3, 3), (64, 256, 1, 1))
AGREEING_STEPS, AGREEING_RATE = 100, 0.004
PUSHES = (1, 10, 100, 1000)  # forward passes in evaluation, all in all
_CONVS = ("conv1", "conv2")


class Scale(NamedTuple):
    """Mean and deviation of the training pixels, as shares of 255."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, pixels: Tensor) -> "Scale":
        values = pixels.double() / 255
        return cls(values.mean().item(), values.std().item())

    def __call__(self, pixels: Tensor) -> Tensor:
        """Images ``(N, 1, 28, 28)`` for a net."""
        return (pixels.float().unsqueeze(1) / 255 - self.mean) / self.deviation


class Fitted(NamedTuple):
    """What training left behind.

    Attributes:
        losses: Of each step.
        cpu_seconds: Probes included.
    """

    losses: list[float]
    cpu_seconds: float


def fit(
    net: nn.Module,
    photos: Images,
    scale: Scale,
    *,
    rate: float,
    seed: int,
    before_step: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Fitted:
    """Take each photo once, in whole batches, in an order that ``seed`` gives."""
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM)
    order = torch.randperm(len(photos.labels), generator=torch.Generator().manual_seed(seed))
    dtype = next(net.parameters()).dtype
    losses, began = [], time.process_time()
    net.train()
    for step, start in enumerate(range(0, len(order) - BATCH + 1, BATCH)):
        chosen = order[start : start + BATCH]
        images, labels = scale(photos.pixels[chosen]).to(dtype), photos.labels[chosen]
        if before_step:
            before_step(step, images, labels)
        optimizer.zero_grad()
        loss = F.nll_loss(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Fitted(losses, time.process_time() - began)


@torch.no_grad()
def top1(net: nn.Module, photos: Images, scale: Scale) -> float:
    """Percent of ``photos`` told right, in evaluation mode, 1000 at a time."""
    net.eval()
    right = 0
    for start in range(0, len(photos.labels), TEST_BATCH):
        batch = slice(start, start + TEST_BATCH)
        found = net(scale(photos.pixels[batch])).argmax(dim=1)
        right += int((found == photos.labels[batch]).sum())
    return 100 * right / len(photos.labels)


def _apart(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _kernel_of(form: str, weight: Tensor) -> Tensor:
    """What a form of the document makes of a kernel that lies as PyTorch's do."""
    if form == "pytorch":
        return pytorch_kernel(weight)
    return tensorflow_kernel(weight.permute(2, 3, 1, 0)).permute(3, 2, 0, 1)


def agreement(form: str, formula: str, dtype: str, photos: Images, scale: Scale) -> dict[str, Any]:
    """How far a form of the document is from a formula of the zoo.

    Returns:
        Largest differences over largest values, the largest over all shapes or parameters: of
        kernels, of their gradients, of the parameters of the net after 100 steps of both.
    """
    made = torch.Generator().manual_seed(0)
    kernels, gradients = [], []
    for shape in SHAPES:
        random, upstream = (torch.randn(shape, generator=made) for _ in range(2))
        weight = random.to(getattr(torch, dtype)).requires_grad_()
        theirs, ours = _kernel_of(form, weight), standardize_weight(weight, formula)
        both = [torch.autograd.grad(k, weight, upstream.to(k))[0] for k in (theirs, ours)]
        kernels.append(_apart(theirs, ours))
        gradients.append(_apart(*both))
    some = Images(*(part[: AGREEING_STEPS * BATCH] for part in photos))
    nets = [make_system(form, 0), Net(partial(WSConv2d, formula=formula), nn.Identity)]
    nets[1].load_state_dict(as_pytorch(nets[0]))
    for net in nets:
        fit(net.to(getattr(torch, dtype)), some, scale, rate=AGREEING_RATE, seed=0)
    states = [as_pytorch(net) for net in nets]
    trained = max(_apart(states[0][name], value) for name, value in states[1].items())
    return {"kernels": max(kernels), "gradients": max(gradients), "trained": trained}


def as_pytorch(net: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``net``, with the kernels of TensorFlow's layout as PyTorch's lie."""
    return {
        name.replace(".kernel", ".weight"): (
            value.permute(3, 2, 0, 1).contiguous() if name.endswith(".kernel") else value.clone()
        )
        for name, value in net.state_dict().items()
    }


def spread(kernel: Tensor) -> dict[str, list[float]]:
    """Mean and deviation of each filter, and deviation over each input channel."""
    kernel = kernel.detach().double()
    return {
        "means": kernel.mean(dim=(1, 2, 3)).tolist(),
        "filters": kernel.std(dim=(1, 2, 3), correction=0).tolist(),
        "inputs": kernel.std(dim=(0, 2, 3), correction=0).tolist(),
    }


def own_kernels(attempt: Attempt) -> tuple[Tensor, Tensor]:
    """The kernels of ``attempt`` as its next pass in training would have them; nothing moves."""
    with torch.no_grad():
        return attempt_kernel(attempt.conv1.weight), attempt_kernel(attempt.conv2.weight)


def gradients(attempt: Attempt, images: Tensor, labels: Tensor, rate: float) -> dict[str, Any]:
    """The gradient that the attempt steps along beside the true one, at the kernels it uses.

    Returns:
        For each convolution, ``cosine`` of the two; ``kept``, the cosine of what a step of each (no
        momentum) has moved the kernel by once it is normalized again; ``length``, the ratio of
        the lengths of these moves.
    """
    kernels = [kernel.double().requires_grad_() for kernel in own_kernels(attempt)]
    net = plain_net(attempt, (kernels[0].detach(), kernels[1].detach()))
    normalized = [attempt_kernel(kernel) for kernel in kernels]
    weights = {f"{conv}.weight": each for conv, each in zip(_CONVS, normalized, strict=True)}
    loss = F.nll_loss(functional_call(net, weights, (images.double(),)), labels)
    found = torch.autograd.grad(loss, [*normalized, *kernels])
    result: dict[str, Any] = {"cosine": [], "kept": [], "length": []}
    for kernel, free, true in zip(kernels, found[:2], found[2:], strict=True):
        start = attempt_kernel(kernel.detach())
        moves = [attempt_kernel(kernel.detach() - rate * each) - start for each in (free, true)]
        result["cosine"].append(_cosine(free, true))
        result["kept"].append(_cosine(*moves))
        result["length"].append((moves[0].norm() / moves[1].norm()).item())
    return result


def _cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def pushed(attempt: Attempt, photos: Images, scale: Scale) -> list[dict[str, float]]:
    """What evaluating ``attempt`` does to its kernels, and these to its accuracy.

    Each forward pass in evaluation mode writes the kernels anew, whatever its images are, so one
    black image does for a pass. The accuracy is then that of the kernels as they lie, held still.
    """
    start = own_kernels(attempt)
    found = [{"passes": 0, "moved": 0.0, "top1": top1(plain_net(attempt, start), photos, scale)}]
    image = torch.zeros(1, 1, PIXELS, PIXELS)
    attempt.eval()
    for passes in range(1, PUSHES[-1] + 1):
        with torch.no_grad():
            attempt(image)
        if passes not in PUSHES:
            continue
        now = (attempt.conv1.weight.detach(), attempt.conv2.weight.detach())
        moved = max(
            ((new - old).norm() / old.norm()).item() for new, old in zip(now, start, strict=True)
        )
        net = plain_net(attempt, now)
        found.append({"passes": passes, "moved": moved, "top1": top1(net, photos, scale)})
    return found
