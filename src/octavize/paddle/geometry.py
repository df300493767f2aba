"""The geometry of Paddle's convolutions, as the numbers that plans and layers decide on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import nn

from octavize.plans.geometry import Geometry

TRANSPOSED = (nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose)
CONVOLUTIONS = (nn.Conv1D, nn.Conv2D, nn.Conv3D, *TRANSPOSED)


def geometry_of(conv: Any) -> Geometry:
    """The geometry of one of Paddle's convolutions."""
    axes = len(conv._kernel_size)
    padding, unsuited = _padding(conv._padding, axes)
    if conv._data_format[1] != "C":
        unsuited = f"data_format={conv._data_format!r} cannot be octave: channels that come first can"
    transposed = isinstance(conv, TRANSPOSED)
    if transposed and isinstance(padding, str):
        padding, unsuited = (0,) * axes, f"padding={conv._padding!r} of a transposed layer cannot be octave"
    return Geometry(
        conv._in_channels,
        conv._out_channels,
        tuple(conv._kernel_size),
        tuple(conv._stride),
        padding,
        tuple(conv._dilation),
        conv._groups,
        transposed,
        tuple(_each(conv.output_padding, axes)),
        unsuited,
    )


def _padding(given: Any, axes: int) -> tuple[tuple[int, ...] | str, str]:
    """Pixels per axis, or a name; and what keeps the layer from being octave."""
    if isinstance(given, str):
        return given.lower(), ""
    flat = _each(given, axes)
    if isinstance(flat[0], Sequence):  # [[0, 0], [0, 0], [top, bottom], [left, right]]
        flat = [n for pair in flat[2:] for n in pair]
    if len(flat) == axes:
        return tuple(int(n) for n in flat), ""
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    if any(before != after for before, after in pairs):
        return (0,) * axes, f"padding={given} cannot be octave: as many pixels on both sides can"
    return tuple(int(before) for before, _ in pairs), ""


def _each(given: Any, axes: int) -> list[Any]:
    return list(given) if isinstance(given, Sequence) else [given] * axes
