"""Image files to arrays of uint8, a pool of threads at a time (Pillow works outside Python's lock)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from octavize.errors import InputError, one_line
from octavize.report.progress import steps

if TYPE_CHECKING:
    from PIL import Image

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
# Longer side of what is resized, in shorter sides; further out nothing is looked at.
LONGEST = 8


def decode_all(paths: Sequence[Path], size: int, what: str | None = None) -> Pixels:
    """Decode images with a pool of threads: (N, 3, size, size) uint8, in the order of `paths`.

    Args:
        paths: image files.
        size: side of the result, pixels.
        what: name of its progress; None for a few images, of which none is told.

    Raises:
        InputError: an image is broken; the message names its path.
    """
    images = np.empty((len(paths), 3, size, size), np.uint8)

    def read(i: int) -> None:
        images[i] = decode(paths[i], size)

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        done: Iterable[None] = pool.map(read, range(len(paths)))
        for _ in done if what is None else steps(done, what, len(paths)):
            pass
    finally:
        # After a broken image the rest need not be read.
        pool.shutdown(cancel_futures=True)
    return images


def decode(path: Path, size: int) -> Pixels:
    """One image as (3, size, size) uint8: shorter side resized to `size` (antialiased), center crop.

    Raises:
        InputError: the image is broken; the message names its path.
    """
    from PIL import Image, ImageOps

    image = open_rgb(path)
    if max(image.size) > LONGEST * min(image.size):
        image = ImageOps.fit(image, _shortened(image.size), method=Image.Resampling.NEAREST)
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8).transpose(2, 0, 1)


def _shortened(size: tuple[int, int]) -> tuple[int, int]:
    """The middle of an image that is too long to be resized as a whole."""
    width, height = (min(side, LONGEST * min(size)) for side in size)
    return width, height


def open_rgb(path: Path) -> Image.Image:
    """Decode a file to RGB: gray repeated, CMYK converted, alpha dropped, 16 bits reduced to 8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            found: Any = image.getextrema() if image.mode == "I" else (0, 0)
            if image.mode == "F" or found[0] < 0 or found[1] > 65535:
                raise ValueError("its pixels are neither 8-bit nor 16-bit")
            # Only TIFF keeps 8 bits in pixels of 32; a dark image of 16 bits is as dark as it is.
            wide = image.mode == "I" and (found[1] > 255 or opened.format != "TIFF")
            if wide or image.mode.startswith("I;"):
                # 16-bit gray; converting it directly would clip at 255
                image = image.convert("I").point(lambda level: level * (1 / 256)).convert("L")
            return image.convert("RGB")
    # Pillow's readers raise many kinds (OSError, SyntaxError, struct.error, DecompressionBombError, ...).
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an image ({one_line(error)}): mend or remove it"
        ) from error
