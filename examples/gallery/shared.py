"""What scripts of the gallery share: where figures go, how they look, and photographs. Needs no framework.

Photographs are those that come with scikit-image, so nothing is downloaded.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

WIDTH, DPI = 5.2, 110
"""Of a figure, in inches: its letters can still be read on a phone."""
FIGURES = Path(__file__).resolve().parents[2] / "docs/gallery"

Array = npt.NDArray[Any]


def destination() -> Path:
    """Where the script writes: its first argument, by default docs/gallery/<name of the script>.png."""
    return Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES / f"{Path(sys.argv[0]).stem}.png"


def photograph(name: str, size: int, gray: bool = False) -> Array:
    """A photograph of scikit-image in a square of `size` pixels: (size, size, 3), or (size, size), uint8."""
    from skimage import data

    image = Image.fromarray(getattr(data, name)())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square.convert("L" if gray else "RGB"))


def standardized(gray: Array) -> Array:
    """Zero mean and unit deviation, as the patches of the textures have: float32."""
    values = gray.astype("float32")
    return (values - values.mean()) / max(float(values.std()), 1e-6)


def show(axes: Axes, image: Array, title: str = "", note: str = "", **how: Any) -> None:
    """An image without axes, a title above it and a note below."""
    axes.imshow(image, **{"cmap": "gray", "interpolation": "antialiased", **how})
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(note, fontsize=9, color="0.35")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def save(figure: Figure, path: Path, colors: int = 256) -> None:
    """Write a PNG of few colors, a third of the size of one with all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png", facecolor="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path.name}, {path.stat().st_size / 1000:.0f} kB")
