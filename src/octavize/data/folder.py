"""A data set of one's own: a folder of `train/<class>/**` with `val/<class>/**` and/or `test/<class>/**`.

Images may lie in folders below their class, as torchvision's `ImageFolder` reads them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from octavize.data.choice import hold_out, limit
from octavize.data.decode import Pixels, decode_all, open_rgb
from octavize.errors import InputError, extra_here, require_extra, whole

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".jp2"),
        *(".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    }
)
EAGER_BYTES = 4 * 2**30
"""A split that would take more once decoded is decoded batch by batch instead."""
LAZY_SAMPLE = 2048
"""Mean and deviation of such a one come from so many images, evenly spaced."""


@dataclass(frozen=True)
class Files:
    """Image files of one split and the label of each."""

    paths: list[Path]
    labels: list[int]

    def __getitem__(self, indices: Iterable[int]) -> Files:
        chosen = list(indices)
        return Files([self.paths[i] for i in chosen], [self.labels[i] for i in chosen])

    def decoded(self, size: int, what: str) -> Pixels | None:
        """All images (N, 3, size, size), with a progress bar; None where they are too large for memory."""
        if len(self.paths) * 3 * size * size > EAGER_BYTES:
            return None
        return decode_all(self.paths, size, f"decoding {what}")


@dataclass(frozen=True)
class Folder:
    """A data set on disk: its classes, the side of its images as they are read, and its splits."""

    classes: list[str]
    size: int
    train: Files
    val: Files
    test: Files


def find_folder(
    size: int | None, data_dir: str | Path | None, val_fraction: float, limit_train: int | None
) -> Folder:
    """Which file of the folder belongs to which split; see `load_data`.

    Raises:
        InputError: there is no such folder, or something in it is missing.
    """
    require_extra("PIL", extra_here("experiment"))
    if size is not None:
        whole("size", size, 1)
    if data_dir is None:
        raise InputError("data_dir is not given: data=folder needs the folder that holds train/<class>/")
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise InputError(f"data_dir={root} is not a folder: give the one that holds train/<class>/")
    given = [split for split in ("val", "test") if (root / split).is_dir()]
    if not (root / "train").is_dir() or not given:
        missing = "val/<class>/ or test/<class>/" if (root / "train").is_dir() else "train/<class>/"
        raise InputError(f"data_dir={root} has no {missing}: add it, one folder of images per class")
    classes = _class_names(root / "train")
    train = _list_files(root / "train", classes)
    others = {split: _list_files(root / split, classes) for split in given}
    test = others[given[-1]]
    if len(given) == 2:
        keep, val = list(range(len(train.paths))), others["val"]
    else:
        keep, held_out = hold_out(train.labels, val_fraction, classes)
        val = train[held_out]
    train = train[limit(keep, train.labels, limit_train, len(classes))]
    size = _first_size(train.paths[0]) if size is None else size
    return Folder(classes, size, train, val, test)


def _class_names(folder: Path) -> list[str]:
    classes = sorted(_subfolders(folder))
    if not classes:
        raise InputError(f"data_dir: {folder} is empty: put one folder of images per class into it")
    if len(classes) == 1:
        raise InputError(f"data_dir: {folder} has only one class ({classes[0]}): two or more are needed")
    return classes


def _subfolders(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}


def _list_files(folder: Path, classes: list[str]) -> Files:
    """All images of a split, sorted by class and name.

    Raises:
        InputError: other classes than those of train, or a class without images.
    """
    if folder.name != "train":
        _check_same_classes(folder, classes)
    paths: list[Path] = []
    labels: list[int] = []
    left_out = [p for p in sorted(folder.iterdir()) if _is_left_out(p)]
    for label, name in enumerate(classes):
        found, others = images_below(folder / name)
        if not found:
            raise InputError(f"data_dir: {folder / name} holds no images: add some or remove the class")
        paths += found
        labels += [label] * len(found)
        left_out += others
    tell_left_out(folder, left_out)
    return Files(paths, labels)


def images_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """All image files below a folder, also behind links, sorted; and the files that are not read.

    Hidden folders and the hidden files of systems (.DS_Store) are neither, and a link that leads back to a
    folder above it is not followed: each image would be there many times.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        above = Path(parent).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not above.is_relative_to(Path(parent, name).resolve())
        ]
        found += [Path(parent, name) for name in names]
    images = sorted(p for p in found if _is_image(p) and not p.name.startswith("."))
    return images, sorted(p for p in found if _is_left_out(p))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _is_left_out(path: Path) -> bool:
    """Whether a user might miss a file: an image that is hidden, or something visible that is none."""
    return path.is_file() and _is_image(path) == path.name.startswith(".")


def tell_left_out(folder: Path, files: Sequence[Path]) -> None:
    """Warn of the files in a folder that are not read: how many, and the first of them."""
    if files:
        named = ", ".join(str(file.relative_to(folder)) for file in files[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        warnings.warn(
            f"{folder}: {len(files)} not read, since they are hidden or have no suffix of an image: "
            f"{named}{more}",
            UserWarning,
            stacklevel=4,
        )


def _check_same_classes(folder: Path, classes: list[str]) -> None:
    here = _subfolders(folder)
    parts = []
    if missing := sorted(set(classes) - here):
        parts.append(f"lacks {', '.join(missing)}")
    if extra := sorted(here - set(classes)):
        parts.append(f"has {', '.join(extra)} which train lacks")
    if parts:
        raise InputError(f"data_dir: {folder} {' and '.join(parts)}: all splits need the same classes")


def _first_size(path: Path) -> int:
    image = open_rgb(path)
    if image.width != image.height:
        raise InputError(
            f"size is not given and {path} is not square ({image.width}×{image.height}): "
            f"give size, e.g. size={min(image.size)}"
        )
    return image.width
