"""Ten textures cut from the photographs inside the scikit-image wheel: a data set that needs no download.

| | size 32 | size 64 |
|---|---|---|
| classes | 10 | 10 |
| train patches per class | 400 | 200 |
| validation patches per class | 60 | 60 |
| test patches per class | 100 | 100 |

Each photograph is cut into blocks of 2·size pixels; a whole block belongs to one split, and a patch never
leaves its block, so no pixel is shared between train, validation and test. Inside one split patches may
overlap. Every patch is gray and standardized on its own, so brightness, color and contrast give nothing
away: a network has to look at the texture.

Which block and which patch goes where follows from SHA-256, and the arithmetic is exact in integers up to
one final rounding: everybody gets the same bytes, whatever the platform, library version or random state.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from octavize.errors import InputError, require_extra

# PNG only: lossless, so no decoder can disagree about a pixel. All of them at least 300 pixels wide and high.
PHOTOGRAPHS = ("brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel", "ihc", "moon")
SPLITS = ("train", "val", "test")
# Patches per class and split, by patch size in pixels.
COUNTS: dict[int, dict[str, int]] = {
    32: {"train": 400, "val": 60, "test": 100},
    64: {"train": 200, "val": 60, "test": 100},
}
# A patch whose gray levels (0..255) spread less than this is flat: standardizing it would only show noise.
FLAT_STD = 1.0
# Gray levels are stored over ±3 standard deviations of the patch.
STD_RANGE = 3.0


class Box(NamedTuple):
    """A square of pixels: rows `top` to `top + size`, columns `left` to `left + size`, ends excluded."""

    top: int
    left: int
    size: int


def stable_order(count: int, tag: str) -> list[int]:
    """0..count-1 in an order that looks random and is the same everywhere and for ever."""
    return sorted(range(count), key=lambda i: sha256(f"{tag}:{i}".encode()).digest())


def photograph(name: str) -> npt.NDArray[np.uint8]:
    """One of `PHOTOGRAPHS` in gray, (height, width) uint8.

    Raises:
        InputError: scikit-image or Pillow is missing, or the wheel no longer carries the image.
    """
    for module in ("skimage", "PIL"):
        require_extra(module, "experiment")
    from PIL import Image

    spec = find_spec("skimage")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(folders or [""]))) / "data" / f"{name}.png"
    if not path.is_file():
        raise InputError(f"textures: {path} is missing: reinstall scikit-image with pip (0.24 or newer)")
    with Image.open(path) as image:
        return np.array(image.convert("L"))


def patch_boxes(height: int, width: int, size: int, tag: str) -> dict[str, list[Box]]:
    """All candidate patches of a photograph by split, in the order in which they are taken.

    Blocks of 2·size pixels go to test (a quarter), validation (an eighth) and train (the rest), at least one
    to each; within a block patches start every size/8 pixels. No pixel belongs to two splits.

    Args:
        height, width: of the photograph, pixels.
        size: side of a patch, pixels.
        tag: names the photograph, so that each gets its own order.
    """
    side, step = 2 * size, size // 8
    blocks = [
        Box(top, left, side)
        for top in range(0, height - side + 1, side)
        for left in range(0, width - side + 1, side)
    ]
    order = stable_order(len(blocks), f"{tag}:blocks")
    n_test, n_val = -(-len(blocks) // 4), -(-len(blocks) // 8)
    chosen = {"test": order[:n_test], "val": order[n_test : n_test + n_val], "train": order[n_test + n_val :]}
    return {
        split: _boxes_in([blocks[i] for i in chosen[split]], size, step, f"{tag}:{split}") for split in SPLITS
    }


def _boxes_in(blocks: list[Box], size: int, step: int, tag: str) -> list[Box]:
    boxes = [
        Box(block.top + y, block.left + x, size)
        for block in blocks
        for y in range(0, block.size - size + 1, step)
        for x in range(0, block.size - size + 1, step)
    ]
    return [boxes[i] for i in stable_order(len(boxes), tag)]


def standardize(patches: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Patch by patch zero mean and unit deviation, stored as uint8 over ±3 deviations.

    Args:
        patches: (N, H, W) uint8.

    Returns:
        the standardized patches, (N, H, W) uint8 (a flat patch comes out as mid-gray), and the standard
        deviation each had before, (N,) float64 in gray levels.
    """
    count = patches.shape[1] * patches.shape[2]
    exact = patches.reshape(len(patches), -1).astype(np.int64)
    # Integer sums: the order of addition, hence the platform, cannot matter.
    total, squares = exact.sum(1), (exact * exact).sum(1)
    std = np.sqrt((count * squares - total * total).astype(np.float64)) / count
    centered = (count * exact - total[:, None]).astype(np.float64) / count
    scaled = centered / np.maximum(std, 1e-6)[:, None]
    levels = ((scaled + STD_RANGE) * (255 / (2 * STD_RANGE))).round().clip(0, 255)
    return levels.astype(np.uint8).reshape(patches.shape), std


def texture_patches(size: int = 32) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """Every split as (images (N, 1, size, size) uint8, labels (N,) int64), classes one after the other.

    Raises:
        InputError: `size` is neither 32 nor 64.
    """
    if size not in COUNTS:
        raise InputError(f"size={size} is not supported by textures: use 32 or 64")
    images: dict[str, list[npt.NDArray[Any]]] = {split: [] for split in SPLITS}
    for name in PHOTOGRAPHS:
        image = photograph(name)
        height, width = image.shape
        boxes = patch_boxes(height, width, size, name)
        for split in SPLITS:
            images[split].append(_take(image, boxes[split], COUNTS[size][split]))
    return {
        split: (
            np.concatenate(images[split])[:, None],
            np.arange(len(PHOTOGRAPHS)).repeat(COUNTS[size][split]),
        )
        for split in SPLITS
    }


def _take(image: npt.NDArray[Any], boxes: list[Box], count: int) -> npt.NDArray[Any]:
    """The first `count` patches that are not flat, standardized: (count, size, size) uint8."""
    # Twice as many as asked for are enough to find `count` that are not flat.
    boxes = boxes[: 2 * count]
    patches = np.stack([image[b.top : b.top + b.size, b.left : b.left + b.size] for b in boxes])
    levels, std = standardize(patches)
    return levels[std >= FLAT_STD][:count]
