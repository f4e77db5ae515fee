"""What a forward pass holds for the backward pass, by weights and by images."""

from functools import partial

import torch
from torch import nn

from wszoo.bench.nets import loss_of, random_images
from wszoo.memory import held_bytes


def held_by_weights_and_images(
    net: nn.Module, layout: str, precision: str, device: torch.device, size: int
) -> tuple[int, int]:
    """Bytes held once per pass, whatever the batch, and bytes held per image of ``size`` pixels.

    Found by passes of one image and of two.
    """
    losses = [
        partial(loss_of, net, random_images(batch, layout, device, size), precision)
        for batch in (1, 2)
    ]
    losses[1]()  # working memory that kernels set up once, for whatever comes, is not held
    one, two = map(held_bytes, losses)
    return 2 * one - two, two - one
