"""Images to find coins in: crops of the photograph of coins that comes with scikit-image.

Its upper half, 12 coins, is for training, its lower half, 12 others, for testing. No hand marked them: a coin
is what scikit-image's own examples find, edges that are filled and smoothed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from scipy import ndimage
from skimage import data, filters, measure, morphology
from torch import Tensor

MIDDLE = 151
"""The row between the halves."""
CROP, BATCH = 96, 8
STEPS = int(os.environ.get("GALLERY_STEPS", "150"))
"""Of training; the figures in docs/ have 150."""
Half = tuple[Tensor, Tensor]


def halves() -> tuple[Half, Half]:
    """For training and for testing: the gray image (H, W), 0 … 1, and each pixel's coin, 0 for the ground."""
    gray = data.coins()
    found = ndimage.binary_fill_holes(filters.sobel(gray) > 0.07)
    labels = measure.label(morphology.opening(found, morphology.disk(5)))
    image, numbers = torch.from_numpy(gray / 255).float(), torch.from_numpy(labels)
    return (image[:MIDDLE], numbers[:MIDDLE]), (image[MIDDLE:], numbers[MIDDLE:])


def crops(half: Half) -> Iterator[Half]:
    """Batches of squares (N, 3, 96, 96) and their coins (N, 96, 96): flipped, lighter or darker."""
    both = torch.stack([half[0], half[1].float()])
    for _ in range(STEPS):
        taken = []
        for _ in range(BATCH):
            top, left = (int(torch.randint(n - CROP + 1, ())) for n in half[0].shape)
            crop = both[:, top : top + CROP, left : left + CROP]
            dims = [dim for dim in (1, 2) if torch.rand(()) < 0.5]
            taken.append(crop.flip(dims))
        images, numbers = torch.stack(taken).unbind(1)
        light = 0.7 + 0.6 * torch.rand(BATCH, 1, 1)
        yield as_input(images * light), numbers.long()


def as_input(gray: Tensor) -> Tensor:
    """Three equal colors around 0: (N, H, W) becomes (N, 3, H, W)."""
    return ((gray - 0.4) / 0.2)[:, None].expand(-1, 3, -1, -1)


def boxes_of(numbers: Tensor, least: int = 200) -> Tensor:
    """Corners (coins, 4) as left, top, right, bottom; not of slivers at the border."""
    found = []
    for coin in numbers.unique()[1:] if (numbers == 0).any() else numbers.unique():
        rows, columns = (numbers == coin).nonzero(as_tuple=True)
        if len(rows) >= least:
            found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(found, dtype=torch.float32).reshape(-1, 4)
