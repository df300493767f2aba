"""Octave maps of Paddle to try every rule on, and a slow, obvious octave convolution in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from octavize.paddle import OctTensor

MAPS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int | None]] = {
    "even": ((3, 1), (4, 6), None),
    "odd": ((3, 1), (5, 7), None),
    "one pixel": ((2, 2), (1, 1), None),
    "interleaved": ((1, 1, 2, 2), (5, 4), None),
    "low first": ((0, 2, 2, 0), (4, 4), None),
    "all high": ((4, 0), (4, 5), None),
    "all low": ((0, 4), (5, 4), None),
    "line": ((2, 1), (5,), None),
    "video": ((2, 1), (3, 5, 4), None),
    "video in all three": ((2, 1), (3, 5, 4), 3),
}


def make(layout: tuple[int, ...], *size: int, octave_dims: int | None = None, seed: int = 0) -> OctTensor:
    """A random map of two images with these layout and spatial size, in float64."""
    numbers = np.random.default_rng(seed)
    dims = min(len(size), 2) if octave_dims is None else octave_dims
    small = (*size[: len(size) - dims], *((n + 1) // 2 for n in size[len(size) - dims :]))
    high, low = (
        paddle.to_tensor(numbers.standard_normal((2, channels, *s))) if channels else None
        for channels, s in ((sum(layout[::2]), size), (sum(layout[1::2]), small))
    )
    return OctTensor(high, low, size=size, octave_dims=octave_dims, channel_layout=layout)


def map_named(name: str, seed: int = 0) -> OctTensor:
    layout, size, octave_dims = MAPS[name]
    return make(layout, *size, octave_dims=octave_dims, seed=seed)


def dense_of(x: Any) -> Any:
    """The logical map as an array, put together channel by channel; anything else as an array or as it is."""
    if not isinstance(x, OctTensor):
        return x.numpy() if isinstance(x, Tensor) else x
    high = None if x.high is None else x.high.numpy()
    low = None if x.low is None else x.low.numpy()
    if low is not None:
        for axis in range(x.ndim - x.octave_dims, x.ndim):
            low = repeat_pixels(low, axis, x.shape[axis])
    channels, used = [], [0, 0]
    for i, count in enumerate(x.channel_layout):
        for _ in range(count):
            half: Any = (high, low)[i % 2]
            channels.append(half[:, used[i % 2]])
            used[i % 2] += 1
    return np.stack(channels, 1)


def repeat_pixels(x: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Every pixel twice, cut off after `size` pixels."""
    return np.take(np.repeat(x, 2, axis), range(size), axis)


def average(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The mean of pixels 0 and 1, of 2 and 3, …; a last pixel without a partner is its own mean."""
    for axis in axes:
        n = x.shape[axis]
        x = np.concatenate(
            [np.take(x, range(i, min(i + 2, n)), axis).mean(axis, keepdims=True) for i in range(0, n, 2)],
            axis,
        )
    return x


def convolve(
    x: np.ndarray, weight: np.ndarray, stride: Sequence[int], padding: Sequence[int], groups: int = 1
) -> np.ndarray:
    """Cross-correlation: for each offset in the kernel, the shifted map times the weights at that offset."""
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], weight.shape[2:], stride, strict=True)]
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    letters = "xyz"[: len(size)]
    total: Any = 0
    for offset in product(*map(range, weight.shape[2:])):
        steps = zip(offset, size, stride, strict=True)
        seen = x[(..., *(slice(o, o + (n - 1) * s + 1, s) for o, n, s in steps))]
        seen = seen.reshape(len(x), groups, -1, *size)
        here = grouped[(slice(None), slice(None), slice(None), *offset)]
        total = total + np.einsum(f"ngc{letters},goc->ngo{letters}", seen, here)
    return total.reshape(len(x), -1, *size)
