"""A data set for the experiments: three splits of uint8 tensors, and which image goes into which.

A split answers a whole batch of indices at once, which is what a `DataLoader` asks for when the data set
has `__getitems__`; the batch arrives ready, so collating is the identity:

    DataLoader(images.train, batch_size=128, shuffle=True, collate_fn=as_batch)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from octavize.data.decode import decode_all
from octavize.data.folder import LAZY_SAMPLE

STATS_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Split:
    """One split in memory.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, indices into `Images.classes`.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """A batch in one gather: images (B, C, H, W) uint8 and labels (B,) int64."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.images[index], self.labels[index]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.images.shape[1], self.images.shape[2], self.images.shape[3]


@dataclass(frozen=True, eq=False)
class LazySplit:
    """One split too large for memory: like `Split`, but each batch is decoded when asked for.

    Attributes:
        paths: N image files.
        labels: (N,) int64, indices into `Images.classes`.
        size: side of a decoded image, pixels.
    """

    paths: list[Path]
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """A batch decoded by a pool of threads: images (B, 3, size, size) uint8 and labels (B,) int64.

        Raises:
            InputError: an image is broken; the message names its path.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        pixels = decode_all([self.paths[i] for i in index.tolist()], self.size)
        return torch.from_numpy(pixels), self.labels[index]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return 3, self.size, self.size


AnySplit: TypeAlias = Split | LazySplit


@dataclass(frozen=True, eq=False)
class Images:
    """A data set.

    Attributes:
        name: as given to `load_data`.
        classes: names, in the order of the labels.
        train, val, test: the splits; `val` is what decisions are made on, `test` is for the final figure.
        mean, std: per channel, of the train images scaled to 0..1.
    """

    name: str
    classes: list[str]
    train: AnySplit
    val: AnySplit
    test: AnySplit
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """1 for gray, 3 for color."""
        return self.train.shape[0]

    @property
    def size(self) -> int:
        """Side of an image, pixels."""
        return self.train.shape[1]


def as_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The `collate_fn` for these splits: `__getitems__` has already made the batch."""
    return batch


def channel_stats(split: AnySplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, images scaled to 0..1 (a sample of a `LazySplit`)."""
    step = 1 if isinstance(split, Split) else max(1, len(split) // LAZY_SAMPLE)
    index = torch.arange(0, len(split), step)
    channels = split.shape[0]
    total, squares = torch.zeros(channels).double(), torch.zeros(channels).double()
    for chunk in index.split(STATS_CHUNK):
        values = split.__getitems__(chunk)[0].double()
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = len(index) * split.shape[1] * split.shape[2]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    # A channel without any contrast must not make the normalization divide by zero.
    std = torch.where(std > 0, std, torch.full_like(std, 255.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def assemble(name: str, classes: list[str], train: AnySplit, val: AnySplit, test: AnySplit) -> Images:
    """The data set of these splits, with the mean and deviation of the train images."""
    mean, std = channel_stats(train)
    return Images(name, classes, train, val, test, mean, std)
