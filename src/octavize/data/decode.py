"""Picture files to uint8 tensors, a pool of threads at a time (Pillow works outside Python's lock)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from octavize.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

# Longer side of what is resized, in shorter sides; further out nothing is looked at.
LONGEST = 8
# Seconds of decoding after which a progress bar appears.
PATIENCE = 2.0


def decode_all(paths: Sequence[Path], size: int, progress: str | None = None) -> Tensor:
    """Decode pictures with a pool of threads: (N, 3, size, size) uint8, in the order of `paths`.

    Args:
        paths: picture files.
        size: side of the result, pixels.
        progress: text of a progress bar on stderr, shown once decoding takes longer than two seconds.

    Raises:
        InputError: a picture is broken; the message names its path.
    """
    pictures = torch.empty((len(paths), 3, size, size), dtype=torch.uint8)

    def read(i: int) -> None:
        pictures[i] = decode(paths[i], size)

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        done = pool.map(read, range(len(paths)))
        for _ in done if progress is None else _with_progress(done, len(paths), progress):
            pass
    finally:
        # After a broken picture the rest need not be read.
        pool.shutdown(cancel_futures=True)
    return pictures


def _with_progress(steps: Iterable[None], total: int, text: str) -> Iterable[None]:
    from rich.console import Console
    from rich.progress import Progress

    start, shown = time.monotonic(), False
    bar = Progress(console=Console(stderr=True))
    task = bar.add_task(text, total=total)
    try:
        for step in steps:
            yield step
            bar.advance(task)
            if not shown and time.monotonic() - start > PATIENCE:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()


def decode(path: Path, size: int) -> Tensor:
    """One picture as (3, size, size) uint8: shorter side resized to `size` (antialiased), centre crop.

    Raises:
        InputError: the picture is broken; the message names its path.
    """
    import numpy as np
    from PIL import Image, ImageOps

    picture = open_rgb(path)
    if max(picture.size) > LONGEST * min(picture.size):
        picture = ImageOps.fit(picture, _shortened(picture.size), method=Image.Resampling.NEAREST)
    if picture.size != (size, size):
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _shortened(size: tuple[int, int]) -> tuple[int, int]:
    """The middle of a picture that is too long to be resized as a whole."""
    width, height = (min(side, LONGEST * min(size)) for side in size)
    return width, height


def open_rgb(path: Path) -> Image.Image:
    """Decode a file to RGB: grey repeated, CMYK converted, alpha dropped, 16 bits reduced to 8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            brightest: Any = picture.getextrema()[1] if picture.mode == "I" else 0
            if picture.mode == "F" or brightest > 65535:
                raise ValueError("its pixels are neither 8-bit nor 16-bit")
            if brightest > 255 or picture.mode.startswith("I;"):
                # 16-bit grey; converting it directly would clip at 255
                picture = picture.convert("I").point(lambda level: level * (1 / 256)).convert("L")
            return picture.convert("RGB")
    # Pillow's readers raise many kinds (OSError, SyntaxError, struct.error, DecompressionBombError, ...).
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a picture ({one_line(error)}): mend or remove it"
        ) from error


def one_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
