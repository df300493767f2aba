"""How much of an image is low frequency: the observation that octave convolution starts from.

Spatial frequency is counted in cycles per pixel; the highest an image can carry along a row or a column is
1/2. An octave halves it: 1/4 to 1/2, 1/8 to 1/4, and so on. A component belongs to the octave of its larger
coordinate, max(|f_row|, |f_column|), so the octaves are square rings that cover the whole plane, and the
part below 1/4 is exactly what half the resolution can carry.

No window is applied before the Fourier transform: a window would weigh the middle of the image more than
its border. Instead the image is mirrored into a seamless tile (the extension of the discrete cosine
transform), so that the jump between opposite borders adds no high frequencies.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from octavize.errors import InputError, require_extra
from octavize.nn.resample import halve, upsample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from octavize.data.images import AnySplit

# ITU-R 601 luma, what Pillow's gray uses too.
LUMA = (0.299, 0.587, 0.114)
CHUNK = 256
SAMPLE = 2048

Shares = list[tuple[str, float]]


def octave_energy(image: Tensor) -> Shares:
    """Share of the spectral energy (mean removed) in every octave, highest frequencies first.

    Args:
        image: (H, W), (1, H, W) or (3, H, W), any dtype and scale.

    Returns:
        (name, share) per octave, e.g. ("1/4–1/2", 0.03) in cycles per pixel; the last one reaches down to 0.
        Shares add up to 1, or are all 0 for an image without contrast.

    Raises:
        InputError: `image` has another shape or is smaller than 2×2.
    """
    gray = _gray(image if image.ndim == 3 else image[None])
    return _named(_energy(gray[None])[0])


def dataset_energy(split: AnySplit) -> Shares:
    """The same, averaged over the images of a split: each image counts alike, whatever its contrast.

    Args:
        split: of `load_data`; of a large one `SAMPLE` images, evenly spaced.

    Raises:
        InputError: the split is empty.
    """
    if len(split) == 0:
        raise InputError("split is empty: give at least one image")
    count = min(SAMPLE, len(split))
    index = torch.arange(count) * len(split) // count
    parts = [_energy(_gray(split.__getitems__(chunk)[0])) for chunk in index.split(CHUNK)]
    shares = torch.cat(parts)
    # An image without contrast has no spectrum to average.
    shares = shares[shares.sum(1) > 0]
    return _named(shares.mean(0) if len(shares) else parts[0][0])


def split_bands(image: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high half of an image, as octave convolution sees them.

    low = U(P(image)): 2×2 average pooling, then nearest up-sampling; for odd sizes the last window holds
    only the pixels there are, and the result is cropped. high = image − low. They add up to the image.

    Args:
        image: (..., H, W); integers are taken as float32.

    Returns:
        low and high, the shape of `image`, floating point.

    Raises:
        InputError: `image` has fewer than two dimensions.
    """
    if image.ndim < 2:
        raise InputError(f"image has shape {tuple(image.shape)}: give (..., H, W)")
    values = image if image.is_floating_point() else image.to(torch.float32)
    height, width = values.shape[-2:]
    flat = values.reshape(1, -1, height, width)
    low = upsample(halve(flat, 2), (height, width)).reshape(values.shape)
    return low, values - low


def read_image(path: str | Path) -> Tensor:
    """An image file as (3, H, W) uint8.

    Raises:
        InputError: the file is missing or is no image; the message names its path.
    """
    require_extra("PIL", "experiment")
    import numpy as np

    from octavize.data.decode import open_rgb

    if not Path(path).is_file():
        raise InputError(f"image {path} does not exist: give the path of an image file")
    return torch.from_numpy(np.array(open_rgb(Path(path)))).permute(2, 0, 1)


def draw_bands(path_in: str | Path, path_out: str | Path) -> Shares:
    """Draw an image, its low and high band and its energy per octave.

    Args:
        path_in: any image file.
        path_out: figure to write; its suffix (.png, .svg, .pdf) chooses the format.

    Returns:
        the shares of `octave_energy`.

    Raises:
        InputError: `path_in` cannot be read, or `path_out` has another suffix.
    """
    require_extra("matplotlib", "experiment")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    out = Path(path_out)
    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"out={out} has no known suffix: use .png, .svg or .pdf")
    if out.exists() and out.resolve() == Path(path_in).resolve():
        raise InputError(f"out={out} is the image itself, which would be overwritten: give another --out")
    image = read_image(path_in)
    shares = octave_energy(image)
    low, high = split_bands(image)
    stretched, gain = _stretch(high)
    height, width = image.shape[1:]
    share_high = shares[0][1]
    # Wide images two by two, tall ones side by side; extreme shapes only get more margin.
    aspect = min(max(height / width, 0.4), 2.0)
    rows, columns, wide = (2, 2, 5.5) if aspect < 0.85 else (1, 4, 3.4)
    # Not pyplot's: its global state and the user's backend stay untouched.
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(columns * wide, rows * (wide * aspect + 0.8)), layout=layout)
    axes = figure.subplots(rows, columns).flatten()
    _show(axes[0], image, "Original", f"{width} × {height} pixels")
    _show(axes[1], low, "Low: 2×2 average", "a quarter of the samples")
    _show(axes[2], stretched, "High: original − low", f"mid-gray is 0, contrast × {gain:.2g}")
    _bars(axes[3], shares, f"{share_high:.1%} lies above 1/4 cycle per pixel")
    axes[3].set_box_aspect(max(aspect, 0.5))  # the shape of the images, so that titles line up
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return shares


def _stretch(high: Tensor) -> tuple[Tensor, float]:
    """The high band around mid-gray, with the contrast that lets 99 % of it fit; and that factor."""
    # kthvalue rather than quantile, which refuses more than 16 million values.
    spread = high.abs().flatten()
    spread = spread.kthvalue(max(1, round(0.99 * spread.numel()))).values.item()
    gain = 127.0 / spread if spread > 0 else 1.0
    return high * gain + 127.5, gain


def _show(axes: Axes, image: Tensor, title: str, note: str) -> None:
    axes.imshow(image.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy(), interpolation="none")
    axes.set_yticks([])
    _frame(axes, title, note)


def _frame(axes: Axes, title: str, note: str) -> None:
    """A title above and a note below, without spines and marks along the edge."""
    axes.set_title(title, fontsize=12, pad=8)
    axes.set_xlabel(note, fontsize=10, labelpad=8, color="0.35")
    axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _bars(axes: Axes, shares: Shares, note: str) -> None:
    """Horizontal bars, highest octave on top in its own color (the one that half resolution loses)."""
    names, values = [name for name, _ in shares], [share for _, share in shares]
    colors = ["#c8553d", *["#4a7ba6"] * (len(names) - 1)]
    axes.barh(range(len(names)), values, color=colors, height=0.7)
    axes.set_yticks(range(len(names)), names, fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(0, max(max(values), 1e-9) * 1.22)  # room for the figures beside the bars
    for i, share in enumerate(values):
        axes.text(share, i, f" {share:.1%}", va="center", fontsize=10)
    axes.set_ylabel("cycles per pixel", fontsize=10, color="0.35")
    axes.tick_params(length=0)
    _frame(axes, "Energy per octave", note)


def _gray(images: Tensor) -> Tensor:
    """(..., C, H, W) with C of 1 or 3 to (..., H, W) float32."""
    if images.ndim < 3 or images.shape[-3] not in (1, 3) or min(images.shape[-2:]) < 2:
        raise InputError(
            f"image has shape {tuple(images.shape)}: give (H, W), (1, H, W) or (3, H, W), at least 2×2"
        )
    values = images.to(torch.float32)
    if images.shape[-3] == 1:
        return values[..., 0, :, :]
    weights = torch.tensor(LUMA, device=values.device).view(3, 1, 1)
    return (values * weights).sum(-3)


def _energy(gray: Tensor) -> Tensor:
    """(N, H, W) to shares (N, octaves), highest octave first; zeros for an image without contrast."""
    count, height, width = gray.shape
    centered = gray - gray.mean((1, 2), keepdim=True)
    # Mirrored to twice the size: a seamless tile. Its spectrum is symmetric, so a quarter of it is enough.
    tile = torch.cat([centered, centered.flip(1)], 1)
    tile = torch.cat([tile, tile.flip(2)], 2)
    power = torch.fft.rfft2(tile).abs().square()[:, : height + 1, : width + 1]
    octave = _octaves(height, width).to(gray.device)
    weight = _multiplicity(height)[:, None] * _multiplicity(width)[None, :]
    weighted = (power.double() * weight.to(gray.device)).reshape(count, -1)
    sums = torch.zeros(count, int(octave.max()) + 1, dtype=torch.float64, device=gray.device)
    sums.index_add_(1, octave.flatten(), weighted)
    total = sums.sum(1, keepdim=True)
    # Rounding leaves a trace of energy in a flat image; relative to its brightness that is nothing.
    floor = 1e-10 * gray.double().square().sum((1, 2))[:, None] * 16 * height * width
    return torch.where(total > floor, sums / total.clamp(min=1e-300), torch.zeros_like(sums))


def _multiplicity(size: int) -> Tensor:
    """How often each of the frequencies 0..size occurs along one axis of the mirrored image."""
    counts = torch.full((size + 1,), 2.0, dtype=torch.float64)
    counts[0] = counts[-1] = 1.0
    return counts


def _octaves(height: int, width: int) -> Tensor:
    """Octave number of every frequency, (height + 1, width + 1): 0 is above 1/4 cycle per pixel."""
    rows = torch.arange(height + 1, dtype=torch.float64)[:, None] / (2 * height)
    columns = torch.arange(width + 1, dtype=torch.float64)[None, :] / (2 * width)
    radius = torch.maximum(rows, columns)
    # As many octaves as the longer side can tell apart: the last holds everything down to one half cycle.
    last = max(0, math.floor(math.log2(max(height, width))) - 1)
    number = torch.ceil(-torch.log2(radius.clamp(min=1e-12)) - 1e-9).long() - 2
    return number.clamp(0, last)


def _named(shares: Tensor) -> Shares:
    values = shares.tolist()
    names = [f"1/{2 ** (i + 2)}–1/{2 ** (i + 1)}" for i in range(len(values))]
    names[-1] = f"0–1/{2 ** len(values)}"
    return list(zip(names, values, strict=True))
