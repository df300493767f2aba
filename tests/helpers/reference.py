"""A slow, obvious octave convolution to test against, written from the paper's equations.

It uses indexing, means, sums and einsum alone: no convolution, pooling or interpolation of torch, and nothing
of octavize. Maps are (N, C, *size); gradients come from autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

Pairs = Sequence[tuple[int, int]]
NUMPY_MODE = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def average_pairs(x: Tensor, axis: int) -> Tensor:
    """The mean of pixels 0 and 1, of 2 and 3, …; a last pixel without a partner is its own mean."""
    n = x.shape[axis]
    return torch.cat(
        [x.narrow(axis, i, min(2, n - i)).mean(axis, keepdim=True) for i in range(0, n, 2)], axis
    )


def repeat_pixels(x: Tensor, axis: int, size: int) -> Tensor:
    """Every pixel twice, cut off after `size` pixels."""
    return x.repeat_interleave(2, axis).narrow(axis, 0, size)


def average(x: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in axes:
        x = average_pairs(x, axis)
    return x


def pad(x: Tensor, pairs: Pairs, mode: str) -> Tensor:
    """Padding with (before, after) pixels an axis, as numpy.pad does it."""
    for axis, (before, after) in enumerate(pairs, start=2):
        n = x.shape[axis]
        if mode == "zeros":
            shape = list(x.shape)
            shape[axis] = n + before + after
            padded = x.new_zeros(shape)
            padded.narrow(axis, before, n).copy_(x)
            x = padded
        else:
            x = x.index_select(axis, torch.tensor(np.pad(np.arange(n), (before, after), NUMPY_MODE[mode])))
    return x


def convolve(
    x: Tensor,
    weight: Tensor,
    *,
    pairs: Pairs,
    mode: str = "zeros",
    dilation: Sequence[int],
    stride: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """Cross-correlation: for each offset in the kernel, the shifted map times the weights at that offset."""
    spatial = x.dim() - 2
    x = pad(x, pairs, mode)
    kernel = weight.shape[2:]
    size = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, d, s in zip(x.shape[2:], kernel, dilation, stride, strict=True)
    ]
    letters = "xyz"[:spatial]
    total = x.new_zeros((x.shape[0], groups, weight.shape[0] // groups, *size))
    in_groups = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    for offset in product(*map(range, kernel)):
        seen = x
        for axis in range(spatial):
            start, step = offset[axis] * dilation[axis], stride[axis]
            index = torch.arange(start, start + step * size[axis], step)
            seen = seen.index_select(axis + 2, index)
        seen = seen.reshape(seen.shape[0], groups, seen.shape[1] // groups, *size)
        total = total + torch.einsum(
            f"ngc{letters},goc->ngo{letters}",
            seen,
            in_groups[(slice(None), slice(None), slice(None), *offset)],
        )
    return total.flatten(1, 2)


def low_count(channels: int, alpha: float, groups: int) -> int:
    """int(α·C), of which a grouped layer takes the multiple of its groups."""
    low = int(alpha * channels)
    return low - low % groups


def octave_convolve(
    high: Tensor,
    low: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: float,
    *,
    stride: Sequence[int],
    pairs: Pairs,
    mode: str,
    dilation: Sequence[int],
    groups: int,
    octave_dims: int,
) -> tuple[Tensor, Tensor]:
    """The layer. `pairs` is the padding before and after each axis."""
    spatial = high.dim() - 2
    octave_axes = list(range(spatial - octave_dims + 2, spatial + 2))
    strided = [axis for axis in octave_axes if stride[axis - 2] == 2]
    kept = [axis for axis in octave_axes if stride[axis - 2] == 1]
    time_stride = [1 if axis + 2 in octave_axes else stride[axis] for axis in range(spatial)]
    c_high, c_low, c_out = high.shape[1], low.shape[1], weight.shape[0]

    def star(x: Tensor, w: Tensor, g: int) -> Tensor:
        if x.shape[1] == 0 or w.shape[0] == 0:  # a sum over nothing; one group gives it the right shape
            w = w.new_zeros(w.shape[0], x.shape[1], *w.shape[2:])
            g = 1
        return convolve(x, w, pairs=pairs, mode=mode, dilation=dilation, stride=time_stride, groups=g)

    def up(x: Tensor, like: Tensor) -> Tensor:
        """U; along a strided axis the low input has the resolution of the output already."""
        for axis in kept:
            x = repeat_pixels(x, axis, like.shape[axis])
        return x

    if groups == c_high + c_low and groups > 1:  # depthwise: each channel keeps its frequency
        multiplier = c_out // groups
        o_low = c_low * multiplier
        y_high = star(average(high, strided), weight[: c_out - o_low], c_high)
        y_low = star(average(low, strided), weight[c_out - o_low :], c_low)
    else:
        o_low = low_count(c_out, alpha, groups)
        w_high, w_low = weight[: c_out - o_low], weight[c_out - o_low :]
        cut = c_high // groups
        pooled = average(high, strided)
        y_high = star(pooled, w_high[:, :cut], groups)
        y_high = y_high + up(star(low, w_high[:, cut:], groups), y_high)
        y_low = star(average(low, strided), w_low[:, cut:], groups)
        y_low = y_low + star(average(pooled, octave_axes), w_low[:, :cut], groups)
    if bias is not None:
        ones = (1,) * spatial
        y_high = y_high + bias[: c_out - o_low].view(-1, *ones)
        y_low = y_low + bias[c_out - o_low :].view(-1, *ones)
    return y_high, y_low


def dense(high: Tensor, low: Tensor, octave_dims: int) -> Tensor:
    """The map that the two halves stand for."""
    for axis in range(high.dim() - octave_dims, high.dim()):
        low = repeat_pixels(low, axis, high.shape[axis])
    return torch.cat([high, low], 1)


def transposed(
    x: Tensor,
    weight: Tensor,
    size: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """Transposed convolution to `size`: every input pixel adds its kernel to the output around it."""
    n, c = x.shape[:2]
    per_group = weight.shape[1]
    y = x.new_zeros((n, groups * per_group, *size))
    for pixel in product(*map(range, x.shape[2:])):
        for offset in product(*map(range, weight.shape[2:])):
            place = [
                i * s - p + k * d
                for i, k, s, p, d in zip(pixel, offset, stride, padding, dilation, strict=True)
            ]
            if any(not 0 <= at < m for at, m in zip(place, size, strict=True)):
                continue
            seen = x[(slice(None), slice(None), *pixel)].reshape(n, groups, c // groups)
            w = weight[(slice(None), slice(None), *offset)].reshape(groups, c // groups, per_group)
            added = torch.einsum("ngc,gco->ngo", seen, w).flatten(1)
            index = (slice(None), slice(None), *place)
            y[index] = y[index] + added
    return y
