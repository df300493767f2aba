"""The data sets of the experiments as arrays, and batches of them as Paddle's networks see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from octavize.data.choice import hold_out, limit
from octavize.data.decode import decode_all
from octavize.data.folder import LAZY_SAMPLE, Files, find_folder
from octavize.data.normalize import normalized
from octavize.data.textures import COUNTS, PHOTOGRAPHS, texture_patches
from octavize.errors import InputError, one_line
from octavize.training.recipe import Recipe

DATA_NAMES = ("textures", "cifar10", "cifar100", "folder")
CHUNK = 256
"""Images at once, in measuring statistics."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W) uint8 and labels (N,) int64."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Split:
        return Split(self.images[index], self.labels[index])

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        return self.images.shape[1:]


@dataclass(frozen=True, eq=False)
class LazySplit:
    """Images of a split too large for memory: a part of it is decoded when asked for."""

    paths: Sequence[Path]
    labels: npt.NDArray[np.int64]
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Split:
        chosen = np.arange(len(self))[index]
        return Split(decode_all([self.paths[i] for i in chosen], self.size), self.labels[index])

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        return (3, self.size, self.size)


AnySplit = Split | LazySplit


@dataclass(frozen=True, eq=False)
class Images:
    """A data set; `mean` and `std` are per channel, of the training images scaled to 0..1."""

    name: str
    classes: Sequence[str]
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


def load_images(recipe: Recipe, data_dir: str | Path | None = None) -> Images:
    """The recipe's data: the same images as in torch, and of textures the same splits.

    Raises:
        InputError: the data set is unknown to this backend, or its file is missing or damaged.
    """
    if recipe.data not in DATA_NAMES:
        raise InputError(
            f"data is {recipe.data!r}, which --backend paddle does not read: give {', '.join(DATA_NAMES)}"
        )
    if recipe.data == "folder":
        return _folder(recipe, data_dir)
    images = _textures(recipe) if recipe.data == "textures" else _cifar(recipe, data_dir)
    if recipe.size is not None and recipe.size < images.size:
        sizes = sorted(COUNTS) if recipe.data == "textures" else [images.size]
        fit = ", ".join([*map(str, sizes[:-1]), f"{sizes[-1]} or more"])
        raise InputError(
            f"size is {recipe.size} and the images of {recipe.data} have {' or '.join(map(str, sizes))} "
            f"pixels: Paddle makes none smaller without aliasing; give {fit}"
        )
    return images


def _textures(recipe: Recipe) -> Images:
    stored = 32 if recipe.size is None else recipe.size if recipe.size in COUNTS else 64
    splits = {name: Split(*arrays) for name, arrays in texture_patches(stored).items()}
    train = splits["train"]
    keep = limit(range(len(train)), train.labels.tolist(), recipe.limit_train, len(PHOTOGRAPHS))
    return _assembled("textures", PHOTOGRAPHS, train[keep], splits["val"], splits["test"])


def _folder(recipe: Recipe, data_dir: str | Path | None) -> Images:
    """Read at the size that the network sees."""
    found = find_folder(recipe.size, data_dir, recipe.val_fraction, recipe.limit_train)

    def split(files: Files, what: str) -> AnySplit:
        pixels, labels = files.decoded(found.size, what), np.array(files.labels, np.int64)
        return LazySplit(files.paths, labels, found.size) if pixels is None else Split(pixels, labels)

    splits = (split(found.train, "train"), split(found.val, "val"), split(found.test, "test"))
    return _assembled("folder", found.classes, *splits)


def _cifar(recipe: Recipe, data_dir: str | Path | None) -> Images:
    """Of the archive that Paddle reads, which it downloads where no folder is given."""
    whole, test = (_read_cifar(recipe.data, data_dir, mode) for mode in ("train", "test"))
    classes = [str(i) for i in range(10 if recipe.data == "cifar10" else 100)]
    labels = whole.labels.tolist()
    train, val = hold_out(labels, recipe.val_fraction, classes)
    train = limit(train, labels, recipe.limit_train, len(classes))
    return _assembled(recipe.data, classes, whole[train], whole[val], test)


def _read_cifar(name: str, data_dir: str | Path | None, mode: Any) -> Split:
    from paddle.vision import datasets

    file = None
    if data_dir is not None:
        file = Path(data_dir).expanduser() / f"{name.replace('cifar', 'cifar-')}-python.tar.gz"
        if not file.is_file():
            raise InputError(f"data_dir={data_dir} holds no {file.name}: put that archive of CIFAR there")
    kind = datasets.Cifar10 if name == "cifar10" else datasets.Cifar100
    try:
        found: Any = kind(data_file=None if file is None else str(file), mode=mode, backend="cv2")
        images = np.stack([np.asarray(image).reshape(3, 32, 32) for image, _ in found.data])
    except Exception as error:  # a download or an archive may fail in many ways
        raise InputError(
            f"data is {name} and Paddle cannot read it ({one_line(error)}): give --data-dir, the folder with "
            "its archive"
        ) from error
    return Split(images.astype(np.uint8), np.array([label for _, label in found.data], np.int64))


def _assembled(name: str, classes: Sequence[str], train: AnySplit, val: AnySplit, test: AnySplit) -> Images:
    return Images(name, classes, train, val, test, *_statistics(train))


def _statistics(split: AnySplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, images scaled to 0..1; of a `LazySplit`, those of a sample."""
    step = 1 if isinstance(split, Split) else max(1, len(split) // LAZY_SAMPLE)
    index = np.arange(0, len(split), step)
    total = squares = np.zeros(split.shape[0])
    for first in range(0, len(index), CHUNK):
        values = split[index[first : first + CHUNK]].images.astype(np.float64)
        total, squares = total + values.sum((0, 2, 3)), squares + np.square(values).sum((0, 2, 3))
    count = len(index) * split.shape[1] * split.shape[2]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    std = np.where(std > 0, std, 255.0)  # a channel without contrast must not divide by zero
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def crop_and_flip(
    images: npt.NDArray[np.uint8],
    padding: int,
    flip: bool,
    fill: Sequence[float],
    random: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Each image shifted by up to `padding` pixels and mirrored, or not, on its own; see `data.augment`.

    Args:
        fill: value of the border per channel, 0..255.
    """
    count, channels, height, width = images.shape
    offsets = random.integers(0, 2 * padding + 1, (2, count, 1))
    mirrored = random.random((count, 1)) < 0.5
    rows = np.arange(height) + offsets[0]
    columns = np.broadcast_to(np.arange(width), (count, width))
    if flip:
        columns = np.where(mirrored, width - 1 - columns, columns)
    columns = columns + offsets[1]
    padded = np.empty((count, channels, height + 2 * padding, width + 2 * padding), np.uint8)
    padded[:] = np.round(fill).astype(np.uint8)[:, None, None]
    padded[:, :, padding : padding + height, padding : padding + width] = images
    image, channel = np.arange(count)[:, None, None, None], np.arange(channels)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def as_seen(images: npt.NDArray[np.uint8], of: Images, recipe: Recipe) -> Tensor:
    """What a network sees of images (N, C, H, W) of a data set: normalized, enlarged, float32."""
    tensor = paddle.to_tensor(normalized(images, of.mean, of.std, recipe.normalize))
    if recipe.size is not None and recipe.size != of.size:
        tensor = F.interpolate(tensor, size=[recipe.size, recipe.size], mode="bilinear", align_corners=False)
    return tensor
