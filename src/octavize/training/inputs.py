"""Training images to measure something on, as the network sees them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from octavize.data.augment import to_input
from octavize.data.images import Images
from octavize.training.recipe import Recipe

CHUNK = 256
"""Images per batch."""


def as_seen(images: Tensor, of: Images, recipe: Recipe) -> Tensor:
    """What a network sees of uint8 images (N, C, H, W) of a data set: resized, normalized, float32."""
    return to_input(images, of.mean, of.std, recipe.size, recipe.normalize)


class TrainingInputs:
    """Training images as the network sees them, without augmentation, the classes mixed.

    The same images in the same order each time it is read. Yields (inputs (N, C, H, W) float32, labels).
    """

    def __init__(self, images: Images, recipe: Recipe, count: int) -> None:
        self.images, self.recipe = images, recipe
        # Splits are sorted by class: the first images would all be of one.
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(0))
        self.order = order[:count]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in self.order.split(CHUNK):
            images, labels = self.images.train.__getitems__(chunk)
            yield as_seen(images, self.images, self.recipe), labels
