"""What learns, and the one step by which it does: the same for every task."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from timm.utils import ModelEmaV3
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn

from wszoo.layers import refuse_folded, standardized_once
from wszoo.training.distributed import Ranks

Batch = Any  # whatever the loss understands
Loss = Callable[[nn.Module, Batch], Tensor]
Precision = Literal["fp32", "bf16", "fp16"]
ClipMode = Literal["norm", "value", "agc"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one optimizer step did, the same on every rank.

    Attributes:
        loss: Mean over all images of the step.
        grad_norm: Length of the gradient before clipping.
        taken: False where loss or gradient was not finite; the weights are then untouched.
        stop: Whether any rank was asked to stop.
    """

    loss: float
    grad_norm: float
    taken: bool
    stop: bool


class Learner:
    """A net, its optimizer, and what follows them: gradient scaler, moving average, step count.

    Args:
        model: The net; moved to the device of ``ranks``.
        optimizer: Its groups hold the peak learning rates.
        ranks: This process among those that train together.
        accumulation_steps: Micro-batches per optimizer step; gradients are means over them.
        precision: Of activations; weights and optimizer stay fp32.
        clip_grad: Bound on the gradient; None leaves it alone.
        clip_mode: Of its length, of each value, or by timm's adaptive rule.
        ema_decay: Of the moving average of the weights; None keeps no average.
        compiled: Run the net through ``torch.compile``.

    Raises:
        ValueError: The model is folded.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        ranks: Ranks | None = None,
        accumulation_steps: int = 1,
        precision: Precision = "fp32",
        clip_grad: float | None = None,
        clip_mode: ClipMode = "norm",
        ema_decay: float | None = None,
        compiled: bool = False,
    ) -> None:
        refuse_folded(model, "trained")
        self.model, self.optimizer, self.ranks = model, optimizer, ranks or Ranks()
        self.accumulation_steps = accumulation_steps
        self.dtype = DTYPES[precision]
        self.clip_grad, self.clip_mode = clip_grad, clip_mode
        self.ema = None
        if ema_decay is not None:
            self.ema = ModelEmaV3(model, decay=ema_decay, use_warmup=True)
        replica = self.ranks.replicate(model)
        self._forward: nn.Module = torch.compile(replica) if compiled else replica  # type: ignore[assignment]
        self._replica = replica
        # A single pass has nothing to share; a compiled one shares nothing.
        self._shares_kernels = accumulation_steps > 1 and not compiled
        self._scaler = torch.amp.GradScaler(
            self.ranks.device.type, enabled=self.dtype is torch.float16
        )
        self.step_count = 0
        self.skipped = 0  # steps in a row whose loss or gradient was not finite
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"] * group.get("lr_scale", 1.0))

    def autocast(self) -> torch.autocast:
        """Context in which the net computes at its precision."""
        device = self.ranks.device.type
        return torch.autocast(device, self.dtype, enabled=self.dtype is not torch.float32)

    def step(
        self,
        micro_batches: Iterable[Batch],
        loss: Loss,
        *,
        rate: float,
        seed: int = 0,
        stop: bool = False,
    ) -> Outcome:
        """Take one optimizer step on the mean gradient of all micro-batches of all ranks.

        Args:
            micro_batches: ``accumulation_steps`` of them, of equal size, on the device.
            loss: Forward pass and mean loss of a micro-batch.
            rate: Share of the peak learning rates.
            seed: Of the run. Dropout and the like draw from (seed, step, rank), so that a run
                which was resumed draws what one left alone would.
            stop: Whether this rank was asked to stop; all ranks learn of it.

        Raises:
            ValueError: There are not ``accumulation_steps`` micro-batches.
        """
        _seed_step(seed, self.step_count, self.ranks.rank)
        total = self._backward(micro_batches, loss)
        if self._scaler.is_enabled():
            self._scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        news = torch.stack([total, norm.to(total), total.new_tensor(float(stop))])
        mean_loss, grad_norm, stops = self._agree(news)
        finite = math.isfinite(mean_loss) and math.isfinite(grad_norm)
        if finite:
            self._update(rate, grad_norm)
        elif self._scaler.is_enabled():
            self._scaler.update()  # learns its scale from gradients that overflow
        self.skipped = 0 if finite else self.skipped + 1
        self.optimizer.zero_grad()
        self.step_count += 1
        return Outcome(loss=mean_loss, grad_norm=grad_norm, taken=finite, stop=stops > 0)

    def _backward(self, micro_batches: Iterable[Batch], loss: Loss) -> Tensor:
        """Leave the mean gradient in the parameters; return the mean loss of this rank."""
        values: list[Tensor] = []
        with standardized_once(self.model) if self._shares_kernels else nullcontext() as once:
            for count, batch in enumerate(micro_batches, 1):
                last = count == self.accumulation_steps
                # DDP adds up over the ranks only where a step follows.
                if last and once is not None and self.ranks.size > 1:
                    once.settle()
                waiting = nullcontext() if last or self.ranks.size == 1 else self._replica.no_sync()  # type: ignore[operator]
                with waiting:
                    with self.autocast():
                        value = loss(self._forward, batch) / self.accumulation_steps
                    self._scaler.scale(value).backward()
                values.append(value.detach())
            if len(values) != self.accumulation_steps:
                given = f"it was given {len(values)}"
                raise ValueError(f"a step takes {self.accumulation_steps} micro-batches, {given}")
        return torch.stack(values).sum()

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _agree(self, news: Tensor) -> tuple[float, float, float]:
        """Mean loss, gradient norm, and how many ranks are to stop, the same on every rank."""
        size = self.ranks.size
        loss, norm, stops = self.ranks.sum(news).tolist()
        return loss / size, norm / size, stops

    def _update(self, rate: float, grad_norm: float) -> None:
        if self.clip_grad is not None:
            self._clip(self.clip_grad, grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.ema is not None:
            self.ema.update(self.model, step=self.step_count)

    def _clip(self, bound: float, grad_norm: float) -> None:
        if self.clip_mode == "agc":
            adaptive_clip_grad(self._parameters, bound)
        elif self.clip_mode == "value":
            torch.nn.utils.clip_grad_value_(self._parameters, bound)
        elif grad_norm > bound:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            torch._foreach_mul_(gradients, bound / grad_norm)

    def best_model(self) -> nn.Module:
        """The net to evaluate and publish: the moving average, where there is one."""
        return self.model if self.ema is None else self.ema.module

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs of the learner: plain data."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step": self.step_count,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` stands.

        Raises:
            ValueError: It holds a moving average and this learner keeps none, or the reverse.
        """
        if (state["ema"] is None) != (self.ema is None):
            raise ValueError("the checkpoint and the recipe differ on the moving average (EMA)")
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.step_count, self.skipped = state["step"], state["skipped"]


def _seed_step(seed: int, step: int, rank: int) -> None:
    state = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)
