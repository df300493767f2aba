"""P and U, the two changes of resolution in octave convolution.

Both act on the last `octave_dims` axes only, accept a map without channels, and work for every size from 1
up: P averages the pixels that exist, and U is cropped to the requested size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from octavize.plans import geometry
from octavize.split import low_size

_AVG_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def pool(x: Tensor, factors: Sequence[int]) -> Tensor:
    """P: average over cells of `factors` pixels, one factor (1 or 2) per spatial axis.

    Args:
        x: (N, C, *size).

    Returns:
        (N, C, *⌈size / factor⌉). A cell cut off by the border averages the pixels it has.
    """
    if max(factors) == 1:
        return x
    _, channels, *size = x.shape
    if channels == 0:
        return x.new_empty(
            (x.shape[0], 0, *(-(-n // factor) for n, factor in zip(size, factors, strict=True)))
        )
    if min(size) < 2:  # a single pixel is its own average; torch's 3-D pooling refuses larger windows
        factors = [min(factor, n) for factor, n in zip(factors, size, strict=True)]
    return _AVG_POOL[len(size)](x, factors, factors, 0, True, False)  # ceil mode, padding not counted


def halve(x: Tensor, octave_dims: int) -> Tensor:
    """P over the octave axes: (N, C, *size) → (N, C, *low_size(size))."""
    return pool(x, (1,) * (x.dim() - 2 - octave_dims) + (2,) * octave_dims)


def cell_sizes(x: Tensor, octave_dims: int) -> Tensor:
    """How many pixels of `x` (N, C, *size) each pixel of `halve(x)` averages: (*low_size(size),)."""
    sizes = x.new_ones(low_size(x.shape[2:], octave_dims))
    for axis in range(sizes.dim() - octave_dims, sizes.dim()):
        whole = x.shape[2 + axis] // 2
        sizes.narrow(axis, 0, whole).mul_(2)
    return sizes


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """U: repeat every pixel along each octave axis and crop to `size`.

    Args:
        x: (N, C, *size) or (N, C, *low_size(size)).
    """
    _, channels, *own = x.shape
    if own == list(size):
        return x
    if channels == 0:
        return x.new_empty((x.shape[0], 0, *size))
    if not x.is_floating_point():  # torch does not interpolate masks and counts
        for axis in range(2, x.dim()):
            if x.shape[axis] != size[axis - 2]:
                x = x.repeat_interleave(2, axis).narrow(axis, 0, size[axis - 2])
        return x
    # Nearest interpolation from ⌈n/2⌉ to n reads pixel i // 2 for every i: repetition and crop in one step.
    return F.interpolate(x, size=tuple(size), mode="nearest")


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first pixels of a map, along each axis."""
    if are_known((*x.shape, *size)) and x.shape[2:] == tuple(size):
        return x
    return x[(..., *(slice(n) for n in size))]


def are_known(size: Sequence[int]) -> bool:
    """Whether sizes are numbers. A symbol must not be asked for its parity: torch.export decides once."""
    return not any(isinstance(n, torch.SymInt) for n in size)


def fits(low: Sequence[int], high: Sequence[int], octave_dims: int) -> bool:
    """Whether `low` is the spatial size of the low half of a map of spatial size `high`."""
    return tuple(low) == low_size(high, octave_dims)


def border(conv: Any) -> list[int]:
    """The padding of a convolution in pixels: (left, right) per axis, last axis first.

    With `padding="same"`, an even kernel gets the odd pixel on the right, as in torch.
    """
    return geometry.border(conv.padding, conv.kernel_size, conv.dilation)


def pad_any(x: Tensor, pads: Sequence[int], mode: str) -> Tensor:
    """`F.pad` by reflection, replication or wrapping, for maps of any size.

    torch refuses to reflect or wrap further than the map reaches, but the low half of a small map can be a
    single pixel. There, reflection goes back and forth and wrapping starts again, as in NumPy.

    Args:
        x: (N, C, *size).
        pads: (left, right) per axis, from the last axis to the first.
        mode: `reflect`, `replicate` or `circular`.
    """
    reach = {"reflect": -1, "circular": 0}.get(mode)
    if reach is None or all(
        pads[2 * i] <= n + reach >= pads[2 * i + 1] for i, n in enumerate(reversed(x.shape[2:]))
    ):
        return F.pad(x, list(pads), mode=mode)
    for i in range(len(pads) // 2):
        axis, left, right = x.dim() - 1 - i, pads[2 * i], pads[2 * i + 1]
        n = x.shape[axis]
        position = torch.arange(-left, n + right, device=x.device)
        if mode == "circular":
            index = position % n
        else:
            period = max(2 * (n - 1), 1)
            index = (position % period) if n > 1 else position * 0
            index = torch.where(index >= n, period - index, index)
        x = x.index_select(axis, index)
    return x
