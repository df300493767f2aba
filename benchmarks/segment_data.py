"""Road scenes with a class for every pixel: images, labels, and the crops that networks are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from octavize.data.decode import open_rgb
from octavize.errors import InputError
from segment_scores import VOID

SPLITS = ("train", "val", "test")


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """One split of a folder `train|val|test / images/*.jpg, labels/*.png`.

    An item is an image (3, H, W), uint8, and its labels (H, W).

    Raises:
        InputError: it holds no images, or an image has no labels.
    """

    def __init__(self, folder: Path, split: str, change: Any = None) -> None:
        self.paths = sorted((folder / split / "images").glob("*.jpg"))
        self.change = change
        if not self.paths:
            raise InputError(
                f"DATA {folder} has no {split}/images/*.jpg: give the folder of train, val and test"
            )
        for path in self.paths:
            if not labels_of(path).is_file():
                raise InputError(f"DATA {folder} lacks {labels_of(path).relative_to(folder)}: add it")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self.paths[index]
        image = tv_tensors.Image(v2.functional.pil_to_tensor(open_rgb(path)))
        labels = tv_tensors.Mask(torch.from_numpy(np.array(Image.open(labels_of(path)))).long())
        if self.change is not None:
            image, labels = self.change(image, labels)
        return image.as_subclass(Tensor), labels.as_subclass(Tensor)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the scenes, pixels."""
        height, width = self[0][0].shape[1:]
        return height, width


def pixels_by_class(folder: Path) -> Tensor:
    """How many pixels of train have each label: (C,)."""
    paths = map(labels_of, Scenes(folder, "train").paths)
    counts = sum(np.bincount(np.array(Image.open(path)).ravel(), minlength=VOID + 1) for path in paths)
    return torch.from_numpy(np.asarray(counts))[:VOID]


def labels_of(image: Path) -> Path:
    """The file of an image's labels."""
    return image.parent.parent / "labels" / f"{image.stem}.png"


def training_batches(folder: Path, crop: tuple[int, int], batch: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Crops of a quarter of the scene to all of it, resized to one size, mirrored, in other light."""
    change = v2.Compose(
        [
            v2.RandomResizedCrop(crop, scale=(0.25, 1), ratio=(1.1, 1.45), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.25, 0.25, 0.25),
        ]
    )
    return DataLoader(Scenes(folder, "train", change), batch, shuffle=True, drop_last=True)


def inputs_of(images: Tensor) -> Tensor:
    """Images as the encoder was trained on them: from −1 to 1."""
    return (images.float() / 255 - 0.5) / 0.5


def sample(folder: Path, count: int, batch: int = 4) -> Iterator[Tensor]:
    """Training images, evenly spread over the drives, without their labels: (N, 3, H, W)."""
    scenes = Scenes(folder, "train")
    chosen = torch.linspace(0, len(scenes) - 1, min(count, len(scenes))).round().long().unique()
    for part in chosen.split(batch):
        yield inputs_of(torch.stack([scenes[int(i)][0] for i in part]))
