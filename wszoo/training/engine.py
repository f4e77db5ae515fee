"""The training loop, the same for every task."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wszoo.layers import refuse_folded

Batch = Any  # whatever ``compute_loss`` understands


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    compute_loss: Callable[[nn.Module, Batch], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    rate_at: Callable[[int], float],
    on_step: Callable[[int, float], None],
    step: int = 0,
    accumulation_steps: int = 1,
) -> int:
    """Take one optimizer step per ``accumulation_steps`` batches until they run out.

    Args:
        model: In training mode.
        batches: Already on the model's device.
        compute_loss: Forward pass and scalar loss (a mean over the batch) of one batch.
        optimizer: The learning rates of its groups are the peak ones.
        rate_at: Share of the peak learning rate at a step.
        on_step: Called after each step with the steps taken so far and the mean loss of it.
        step: Steps taken before, by the run that this one continues.
        accumulation_steps: Gradients are averaged over this many batches per step; a shorter
            group at the end is dropped.

    Returns:
        Steps taken in all.

    Raises:
        ValueError: The model is folded.
        FloatingPointError: The loss is not finite; nothing was stepped with it.
    """
    refuse_folded(model, "trained")
    losses: list[float] = []
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])  # as torch's schedulers do
    optimizer.zero_grad()
    for batch in batches:
        loss = compute_loss(model, batch)
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of step {step + 1} is {losses[-1]}; lower the learning rate"
            )
        (loss / accumulation_steps).backward()
        if len(losses) < accumulation_steps:
            continue
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_at(step)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        on_step(step, sum(losses) / len(losses))
        losses.clear()
    return step
