"""Image files as input of an exported network: prepared as in training, by what its metadata know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octavize.deploy.formats import Array
from octavize.errors import InputError, extra_here, require_extra, shown
from octavize.report.progress import steps

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def prepare(paths: Sequence[Path], about: Mapping[str, Any]) -> Array:
    """Images as input of a network: (N, C, size, size), float32.

    The shorter side is resized to the network's size and the center cut out, as for the images it was
    trained on; mean and deviation are the network's, or ImageNet's where it names none.

    Args:
        about: `input_shape` (N, C, H, W), and if they are known `mean`, `std` and `normalize`.

    Raises:
        InputError: an image cannot be read, or the network takes no square images in gray or color.
    """
    require_extra("PIL", extra_here("experiment"))
    from octavize.data.decode import decode_all
    from octavize.data.normalize import normalized

    shape = about["input_shape"]
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3]:
        raise InputError(f"the network takes {tuple(shape)}: only square images in gray or color are made")
    for path in paths:
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            raise InputError(f"image {path} {what}: give the path of an image file")
    pixels = decode_all(paths, shape[2])
    if shape[1] == 1:
        pixels = pixels.mean(1, keepdims=True).round().astype(np.uint8)
    mean, std = statistics(about, shape[1])
    return normalized(pixels, mean, std, about.get("normalize", True))


def statistics(about: Mapping[str, Any], channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the images that a network was trained on, or ImageNet's where it names none.

    Raises:
        InputError: one is there without the other, or they are no numbers, one each a channel; or
            `normalize` is neither true nor false.
    """
    from octavize.data.normalize import check_statistics, check_together

    if about.get("normalize", True) not in (True, False):
        raise InputError(f"normalize={shown(about['normalize'])}: give true or false")
    given = {key: about.get(key) for key in IMAGENET}
    check_together(given)
    mean, std = (given[key] or IMAGENET[key][:channels] for key in ("mean", "std"))
    check_statistics(mean, std, channels)
    return mean, std


def batches(paths: Sequence[Path], about: Mapping[str, Any], size: int = 25) -> Iterator[Array]:
    """The same for many images, batch by batch."""
    starts = range(0, len(paths), size)
    for start in steps(starts, "reading images"):
        yield prepare(paths[start : start + size], about)


@dataclass(frozen=True)
class Found:
    """The images of a folder, and the class that each has by the name of its own folder, if it tells."""

    paths: list[Path]
    labels: list[int] | None

    def part(self, indices: Sequence[int]) -> Found:
        """Some of them."""
        labels = None if self.labels is None else [self.labels[i] for i in indices]
        return Found([self.paths[i] for i in indices], labels)


def find_images(folder: Path, classes: Sequence[str] | None, outputs: int | None) -> Found:
    """All images below a folder, sorted by path.

    Where they lie in folders of their own, the folders are taken for classes: those of the network's
    `classes`, or, if there are as many folders as the network has `outputs`, in the order of their names.
    Further folders below those of the classes change nothing.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    from octavize.data.folder import SUFFIXES, images_below, tell_left_out

    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist: give one that holds images")
    paths, left_out = images_below(folder)
    if not paths:
        raise InputError(
            f"folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}): give one that does"
        )
    tell_left_out(folder, left_out)
    return Found(paths, _labels([p.relative_to(folder.parent).parts[:-1] for p in paths], classes, outputs))


def _labels(
    folders: Sequence[Sequence[str]], classes: Sequence[str] | None, outputs: int | None
) -> list[int] | None:
    """The class of each image by the folders that it lies in, from outside; None if they do not tell."""
    known = list(classes or [])
    named = [[name for name in names if name in known] for names in folders]
    if known and all(named):
        return [known.index(names[-1]) for names in named]
    for names in (
        [inside[-1] for inside in folders],
        [inside[min(1, len(inside) - 1)] for inside in folders],
    ):
        if len(set(names)) == outputs:
            return [sorted(set(names)).index(name) for name in names]
    return None


def spread_out(found: Found, count: int) -> tuple[Found, Found]:
    """So many of the images, evenly spaced, so that every class has its share; and all others."""
    total = len(found.paths)
    chosen = {i * total // min(count, total) for i in range(min(count, total))}
    others = [i for i in range(total) if i not in chosen]
    return found.part(sorted(chosen)), found.part(others)
