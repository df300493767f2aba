"""Multiply–accumulates of convolutions, in closed form from the maps they read and write."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from octavize.geometry import Geometry
from octavize.paddle.conv import OctConv
from octavize.paddle.tensor import OctTensor
from octavize.split import low_size, with_low_divisible


def convolution_macs(geometry: Geometry, read: Sequence[int], written: Sequence[int]) -> int:
    """Of a vanilla convolution from a map of shape `read` to one of shape `written`."""
    if geometry.transposed:
        return prod(read) * geometry.out_channels // geometry.groups * prod(geometry.kernel_size)
    return prod(written) * geometry.in_channels // geometry.groups * prod(geometry.kernel_size)


def octave_macs(layer: OctConv, x: Any, y: Any) -> int:
    """Of an octave convolution that made `y` of `x`, one or both of which is octave: the sum of its paths.

    A path from c to c' channels, over p pixels of its output, costs c · c' · p · k² / groups; of a transposed
    layer p counts the pixels of its input.
    """
    geometry, settings = layer._geometry, layer._settings
    if isinstance(x, OctTensor) and not settings.keeps_size:  # it read the dense map
        return convolution_macs(geometry, x.shape, y.shape)
    (high_in, low_in), (high_out, low_out) = _counts(x, geometry), _counts(y, geometry)
    high_pixels, low_pixels = _pixels(layer, x if geometry.transposed else y)
    weights = prod(geometry.kernel_size)
    if geometry.depthwise:
        each = geometry.out_channels // geometry.in_channels if geometry.transposed else 1
        high, low = (high_in, low_in) if geometry.transposed else (high_out, low_out)
        return x.shape[0] * weights * each * (high * high_pixels + low * low_pixels)
    to_high = high_in * high_pixels
    if settings.exchanges("low_to_high", high_in, low_in):
        # It is up-sampled afterwards; where the layer has a stride, it has the resolution of the output.
        kept = len(geometry.kernel_size) - settings.octave_dims
        low_size_in = low_size(x.shape[2:], settings.octave_dims)
        size = low_size_in if geometry.transposed else (*y.shape[2 : 2 + kept], *low_size_in[kept:])
        to_high += low_in * prod(size)
    to_low = low_in * low_pixels
    if settings.exchanges("high_to_low", high_in, low_in):
        to_low += high_in * low_pixels
    return x.shape[0] * weights * (high_out * to_high + low_out * to_low) // geometry.groups


def _counts(x: Any, geometry: Geometry) -> tuple[int, int]:
    """High and low channels of a map, as the layer's groups split them."""
    if not isinstance(x, OctTensor):
        return x.shape[1], 0
    layout = x.channel_layout
    if geometry.groups > 1 and not geometry.depthwise:
        layout = with_low_divisible(layout, geometry.groups)
    return sum(layout[::2]), sum(layout[1::2])


def _pixels(layer: OctConv, x: Any) -> tuple[int, int]:
    size = tuple(x.shape[2:])
    return prod(size), prod(low_size(size, layer.octave_dims))
