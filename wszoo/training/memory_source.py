"""Photos for a classifier from arrays in memory, augmented by whole batches on the device."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from wszoo.datasets import StoredImages
from wszoo.training.augment import CROP_DRAWS, random_resized_crops, resize
from wszoo.training.classify import Loaded, Photos, Request, digest_of
from wszoo.training.randaugment import DRAWS_PER_OP, parse_randaugment, random_augment
from wszoo.training.recipe import Recipe
from wszoo.training.sampler import Purpose, epoch_order, epoch_uniforms, sample_uniforms


class MemorySource:
    """Photos decoded beforehand, augmented by whole batches on the device."""

    def __init__(
        self,
        stored: StoredImages,
        train: np.ndarray,
        held_out: tuple[StoredImages, np.ndarray],
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self._stored, self._train, self._recipe, self._device = stored, train, recipe, device
        self._held, self._held_indices = held_out
        self.num_classes = len(stored.classes)
        self.held_out_count = len(self._held_indices)
        self.digest = digest_of(stored.names, stored.targets.tolist())
        # Tiny ImageNet takes 1.2 GB of a GPU, and is then never waited for.
        self._pixels = stored.pixels.to(device)
        self._drawn: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._train)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The training photos in the order of ``epoch``."""
        return epoch_order(seed, epoch, len(self))

    def stretches(self) -> np.ndarray:
        """All photos are there."""
        return np.zeros(1, np.int64)

    def names(self, indices: np.ndarray) -> list[str]:
        """Paths of training photos."""
        return [self._stored.names[index] for index in self._train[indices]]

    def load(self, requests: Iterator[Request]) -> Iterator[Loaded]:
        """Augmented photos for each request in turn."""
        for request in requests:
            partners = None
            if request.mixing is not None:
                partners = self._augmented(request, request.mixing.partner)
            yield Loaded(request, self._augmented(request, request.indices), partners)

    def _augmented(self, request: Request, indices: np.ndarray) -> Photos:
        recipe, device = self._recipe, self._device
        photos = torch.from_numpy(self._train[indices])
        images = self._pixels[photos.to(device)].permute(0, 3, 1, 2).float()
        crops = torch.from_numpy(self._crops_of(request.epoch)[indices]).to(device)
        images = random_resized_crops(images, crops, request.size, scale=recipe.crop_scale)
        if recipe.auto_augment is not None:
            strength = parse_randaugment(recipe.auto_augment)
            count = strength["num_ops"] * DRAWS_PER_OP
            seed, purpose = recipe.seed, Purpose.RANDAUGMENT
            draws = sample_uniforms(seed, request.epoch, indices, count, purpose)
            images = random_augment(images, torch.from_numpy(draws), **strength)
        return Photos(images, self._stored.targets[photos].to(device))

    def _crops_of(self, epoch: int) -> np.ndarray:
        """Random numbers for the crops of every photo of an epoch."""
        if self._drawn is None or self._drawn[0] != epoch:
            seed = self._recipe.seed
            self._drawn = (epoch, epoch_uniforms(seed, epoch, len(self), CROP_DRAWS))
        return self._drawn[1]

    def held_out(self, chunks: Sequence[range], size: int, crop: float) -> Iterator[Photos]:
        """Photos to evaluate on, by chunks of their numbers."""
        for chunk in chunks:
            chosen = torch.from_numpy(self._held_indices[chunk.start : chunk.stop])
            images = self._held.pixels[chosen].to(self._device).permute(0, 3, 1, 2).float()
            targets = self._held.targets[chosen].to(self._device)
            images = resize(images, round(size / crop))
            edge = (images.shape[-1] - size) // 2
            yield Photos(images[..., edge : edge + size, edge : edge + size], targets)

    def close(self) -> None:
        """Nothing is left to end."""
