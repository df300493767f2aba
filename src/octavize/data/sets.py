"""Data sets by name.

`load_data("textures")` needs no download. `cifar10` and `cifar100` are read from `data_dir`, or downloaded
into it; `folder` reads `train/<class>/*` with `val/<class>/*` and/or `test/<class>/*`.
"""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from octavize.data.choice import hold_out, limit
from octavize.data.folder import Files, find_folder
from octavize.data.images import AnySplit, Images, LazySplit, Split, assemble
from octavize.data.textures import PHOTOGRAPHS, texture_patches
from octavize.errors import InputError, one_line, require_extra, whole

DATA_NAMES = ("textures", "cifar10", "cifar100", "folder")
DEFAULT_DATA_DIR = "~/.cache/octavize"


def load_data(
    name: str,
    *,
    size: int | None = None,
    data_dir: str | Path | None = None,
    val_fraction: float = 0.1,
    limit_train: int | None = None,
) -> Images:
    """Load a data set as three splits.

    Args:
        name: `textures`, `cifar10`, `cifar100` or `folder`.
        size: side of an image in pixels. textures: 32 (default) or 64. CIFAR: 32 only (enlarge on the device
            with `augment.to_input`). folder: anything; other images are resized by their shorter side and
            center-cropped; default the size of the first image, which then has to be square.
        data_dir: where the files are. CIFAR: default `~/.cache/octavize`, downloaded to when absent.
            folder: required. textures: not used.
        val_fraction: share of each train class held out for validation, between 0 and 1; always the same
            images. Not used where validation is given: textures, and a folder with both val and test.
        limit_train: at most so many train images in all, equally many per class (validation and test keep
            theirs). None keeps everything.

    Raises:
        InputError: anything above is wrong, or files are missing or broken; the message says what to do.
    """
    if name not in DATA_NAMES:
        raise InputError(f"data={name!r} is unknown: choose one of {', '.join(DATA_NAMES)}")
    if not 0 < val_fraction < 1:
        raise InputError(
            f"val_fraction={val_fraction} is out of range: give a share between 0 and 1, e.g. 0.1"
        )
    if limit_train is not None:
        whole("limit_train", limit_train, 1)
    if name == "textures":
        return _load_textures(32 if size is None else size, limit_train)
    if name == "folder":
        return _load_folder(size, data_dir, val_fraction, limit_train)
    return _load_cifar(name, size, data_dir, val_fraction, limit_train)


def _load_textures(size: int, limit_train: int | None) -> Images:
    splits = {
        split: Split(torch.from_numpy(patches), torch.from_numpy(labels))
        for split, (patches, labels) in texture_patches(size).items()
    }
    train = splits["train"]
    keep = limit(range(len(train)), train.labels.tolist(), limit_train, len(PHOTOGRAPHS))
    train = Split(*train.__getitems__(keep))
    return assemble("textures", list(PHOTOGRAPHS), train, splits["val"], splits["test"])


def _load_folder(
    size: int | None, data_dir: str | Path | None, val_fraction: float, limit_train: int | None
) -> Images:
    found = find_folder(size, data_dir, val_fraction, limit_train)

    def split(files: Files, what: str) -> AnySplit:
        pixels, labels = files.decoded(found.size, what), torch.tensor(files.labels)
        if pixels is None:
            return LazySplit(files.paths, labels, found.size)
        return Split(torch.from_numpy(pixels), labels)

    splits = (split(found.train, "train"), split(found.val, "val"), split(found.test, "test"))
    return assemble("folder", found.classes, *splits)


def _load_cifar(
    name: str, size: int | None, data_dir: str | Path | None, val_fraction: float, limit_train: int | None
) -> Images:
    if size not in (None, 32):
        raise InputError(f"size={size} is not supported by {name}: its images are 32 pixels; leave size out")
    root = Path(DEFAULT_DATA_DIR if data_dir is None else data_dir).expanduser()
    images, labels, classes = _read_cifar(name, root, train=True)
    train, val = hold_out(labels, val_fraction, classes)
    train = limit(train, labels, limit_train, len(classes))
    whole = Split(images, torch.tensor(labels))
    test_images, test_labels, _ = _read_cifar(name, root, train=False)
    return assemble(
        name,
        classes,
        Split(*whole.__getitems__(train)),
        Split(*whole.__getitems__(val)),
        Split(test_images, torch.tensor(test_labels)),
    )


def _read_cifar(name: str, root: Path, *, train: bool) -> tuple[Tensor, list[int], list[str]]:
    """Images (N, 3, 32, 32) uint8, labels and class names, downloaded into `root` when not there."""
    require_extra("torchvision", "experiment")
    from torchvision import datasets

    dataset_class = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:  # nothing is downloaded where all of it is there
        dataset = dataset_class(str(root), train=train, download=True)
    except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError
        raise InputError(
            f"data_dir={root} holds no complete {name} and the download failed ({one_line(error)}): "
            f"put the folder {dataset_class.base_folder} or the file {dataset_class.filename} into {root}"
        ) from error
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return images, list(dataset.targets), list(dataset.classes)
