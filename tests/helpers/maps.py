"""Octave maps to try every rule on, and how results are compared."""

from __future__ import annotations

from typing import Any

import torch
from tests.helpers.reference import repeat_pixels
from torch import Tensor, nn

from octavize import OctTensor


def make(layout: tuple[int, ...], *size: int, octave_dims: int | None = None, seed: int = 0) -> OctTensor:
    """A random map of two images with these layout and spatial size."""
    generator = torch.Generator().manual_seed(seed)
    dims = min(len(size), 2) if octave_dims is None else octave_dims
    small = (*size[: len(size) - dims], *((n + 1) // 2 for n in size[len(size) - dims :]))
    high, low = (
        torch.randn(2, channels, *s, generator=generator, dtype=torch.float64)
        for channels, s in ((sum(layout[::2]), size), (sum(layout[1::2]), small))
    )
    return OctTensor(high, low, octave_dims=octave_dims, channel_layout=layout)


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


def map_named(name: str, seed: int = 0) -> OctTensor:
    layout, size, octave_dims = MAPS[name]
    return make(layout, *size, octave_dims=octave_dims, seed=seed)


def dense_of(x: Any) -> Any:
    """The logical map, put together channel by channel; anything else as it is."""
    if not isinstance(x, OctTensor):
        return x
    up = x.low
    for axis in range(x.dim() - x.octave_dims, x.dim()):
        up = repeat_pixels(up, axis, x.high.shape[axis])
    channels, used = [], [0, 0]
    for i, count in enumerate(x.channel_layout):
        for _ in range(count):
            channels.append((x.high, up)[i % 2][:, used[i % 2]])
            used[i % 2] += 1
    return torch.stack(channels, 1)


def copied(x: OctTensor) -> OctTensor:
    return OctTensor(
        x.high.clone(),
        x.low.clone(),
        octave_dims=x.octave_dims,
        channel_layout=x.channel_layout,
        strict=x.strict,
    )


def equal(a: Any, b: Any, name: str = "") -> None:
    """Same values to the last bits: vectorized and scalar code of one function may round differently."""
    torch.testing.assert_close(
        a, b, rtol=1e-12, atol=1e-12, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )


def stored_channels(x: OctTensor) -> list[Tensor]:
    """The pixels that each channel stores, in logical order: (N, *size of its half)."""
    found, used = [], [0, 0]
    for i, count in enumerate(x.channel_layout):
        for _ in range(count):
            found.append((x.high, x.low)[i % 2][:, used[i % 2]])
            used[i % 2] += 1
    return found


def randomized(norm: Any) -> Any:
    for p in norm.parameters():
        nn.init.normal_(p)
    return norm.double()
