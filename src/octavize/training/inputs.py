"""Training pictures to measure something on, as the network sees them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from octavize.data.augment import to_input
from octavize.data.images import Pictures
from octavize.training.recipe import Recipe

CHUNK = 256
"""Pictures per batch."""


class TrainingInputs:
    """Training pictures as the network sees them, without augmentation, the classes mixed.

    The same pictures in the same order each time it is read. Yields (inputs (N, C, H, W) float32, labels).
    """

    def __init__(self, pictures: Pictures, recipe: Recipe, count: int) -> None:
        self.pictures, self.recipe = pictures, recipe
        # Splits are sorted by class: the first pictures would all be of one.
        order = torch.randperm(len(pictures.train), generator=torch.Generator().manual_seed(0))
        self.order = order[:count]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in self.order.split(CHUNK):
            pictures, labels = self.pictures.train.__getitems__(chunk)
            mean, std = self.pictures.mean, self.pictures.std
            yield to_input(pictures, mean, std, self.recipe.size, self.recipe.normalise), labels
