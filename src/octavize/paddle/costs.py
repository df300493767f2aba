"""Multiply–accumulates of convolutions, in closed form from the maps they read and write.

And `flops_ops`, by which `paddle.flops` counts octave networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from paddle import nn
from paddle.hapi.dynamic_flops import register_hooks

from octavize.paddle.conv import OctConv
from octavize.paddle.tensor import OctTensor
from octavize.plans.geometry import Geometry
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


# ---- paddle.flops ---------------------------------------------------------------------------------------

Count = Callable[[Any, tuple[Any, ...], Any], None]
"""What `paddle.flops` calls after each layer, with the layer, its inputs and its output."""


def flops_ops(model: nn.Layer) -> dict[type[nn.Layer], Count]:
    """The `custom_ops` by which `paddle.flops` counts an octave network; without them it leaves layers out.

    Octave convolutions count as Paddle counts its own: multiply–accumulates, and one operation a stored
    output if there is a bias. Other layers count each half by itself, as Paddle counts that layer. For a
    vanilla network the result is Paddle's.

    Examples:
        >>> paddle.flops(net, (1, 3, 224, 224), custom_ops=flops_ops(net))
    """
    kinds = {type(layer) for layer in model.sublayers(include_self=True)}
    octave = {kind: _count_octave for kind in kinds if issubclass(kind, OctConv)}
    return octave | {kind: _by_half(register_hooks[kind]) for kind in kinds if kind in register_hooks}


def _count_octave(layer: Any, read: tuple[Any, ...], written: Any) -> None:
    x, geometry = read[0], layer._geometry
    if isinstance(x, OctTensor) or isinstance(written, OctTensor):
        count = octave_macs(layer, x, written)
    else:
        count = convolution_macs(geometry, x.shape, written.shape)
    biases = 0 if layer.bias is None else sum(prod(half.shape) for half in _halves(written))
    layer.total_ops += count + biases


def _by_half(count: Count) -> Count:
    """Paddle's way to count a layer, once for each half of an octave map that it reads."""

    def of_halves(layer: Any, read: tuple[Any, ...], written: Any) -> None:
        x = read[0]
        if not isinstance(x, OctTensor):
            return count(layer, read, written)
        halves = _halves(x)
        if isinstance(written, OctTensor):
            parts = _halves(written)
        else:  # it merged both
            parts = [written[:, : half.shape[1]] for half in halves]
        for half, part in zip(halves, parts, strict=True):
            count(layer, (half,), part)

    return of_halves


def _halves(x: Any) -> list[Any]:
    if not isinstance(x, OctTensor):
        return [x]
    return [half for half in (x.high, x.low) if half is not None]
