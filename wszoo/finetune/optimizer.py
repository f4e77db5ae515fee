"""The optimizer of fine-tuning."""

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from wszoo.finetune.settings import FineTuning


def make_adamw(model: nn.Module, settings: FineTuning) -> torch.optim.Optimizer:
    """AdamW over what is trained; norms and biases are not decayed."""
    return create_optimizer_v2(
        model,
        opt="adamw",
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        filter_bias_and_bn=True,
    )
