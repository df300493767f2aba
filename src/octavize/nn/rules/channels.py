"""Rules that choose or join channels: slices and concatenation.

All of them are exact: an OctTensor knows which of its channels are low (its layout), so a channel keeps its
frequency wherever it goes. A selection without low channels is a plain tensor, and the layers after it are
vanilla.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from octavize.nn.dispatch import Octave, functions_named, oct_rule
from octavize.nn.rules.elementwise import Function, operand_halves
from octavize.nn.tensor import OctTensor
from octavize.split import join_layouts, same_layout

# ---- joining and slicing --------------------------------------------------------------------------------


@oct_rule(torch.cat, torch.concat, torch.concatenate)
def concatenate(func: Function, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Concatenation over channels: high with high, low with low. Exact: the order of channels is tracked.

    A dense map counts as all high. Maps of equal layout are also concatenated over the batch.
    """
    first = next(x for x in tensors if isinstance(x, OctTensor))
    if any(x.dim() != first.dim() for x in tensors):
        return NotImplemented
    maps = [
        x if isinstance(x, OctTensor) else OctTensor.all_high(x, octave_dims=first.octave_dims)
        for x in tensors
    ]
    if any(x.octave_dims != first.octave_dims for x in maps):
        return NotImplemented
    dim %= first.dim()
    if dim == 1:
        layout = join_layouts(tuple(x.channel_layout for x in maps))
    elif dim == 0 and all(same_layout(x.channel_layout, first.channel_layout) for x in maps):
        layout = first.channel_layout
    else:
        return NotImplemented
    high, low = func([x.high for x in maps], dim), func([x.low for x in maps], dim)
    strict = any(x.strict for x in maps)
    return OctTensor(high, low, octave_dims=first.octave_dims, strict=strict, channel_layout=layout)


@oct_rule(torch.Tensor.__getitem__)
def get_item(func: Function, x: OctTensor, position: Any) -> Any:
    """`x[a:b]` and `x[a:b, c:d]`: part of the batch and of the channels, by slices or a list of channels.

    An index into space, or one that drops an axis, falls back to the dense map.
    """
    batch, channels, *space = (
        (*position, *[slice(None)] * 2) if isinstance(position, tuple) else (position, ...)
    )
    if not isinstance(batch, slice) or (channels is Ellipsis and isinstance(position, tuple)):
        return NotImplemented
    if not all(s is Ellipsis or (isinstance(s, slice) and s == slice(None)) for s in space):
        return NotImplemented
    if batch != slice(None):
        x = x.trusted_like(func(x.high, batch), func(x.low, batch)).as_part(x)
    if channels is Ellipsis:
        return x
    if isinstance(channels, slice):
        return x if channels == slice(None) else _sliced(x, channels)
    if isinstance(channels, list) and all(type(c) is int for c in channels):
        return x.channels([range(x.shape[1])[c] for c in channels], copy=True)  # as torch's
    return NotImplemented


@oct_rule(torch.Tensor.__setitem__)
def set_item(func: Function, x: Any, position: Any, value: Any) -> Any:
    """`x[a:b] = y` and `x[:, a:b] = y`, and so `x[:, a:b] += y`. Exact.

    The value is a number, one value per image or channel, or a map of the same split.
    """
    if not isinstance(x, OctTensor) or any(
        isinstance(p, list) or (isinstance(p, slice) and p.step not in (None, 1))
        for p in (position if isinstance(position, tuple) else (position,))
    ):
        return NotImplemented
    part = get_item(torch.Tensor.__getitem__, x, slice(None) if position is Ellipsis else position)
    if isinstance(part, Tensor):
        if isinstance(value, Octave):
            return NotImplemented
        func(part, ..., value)
    else:
        halves = None if part is NotImplemented else operand_halves(value, part)
        if halves is None:
            return NotImplemented
        func(part.high, ..., halves[0])
        func(part.low, ..., halves[1])
    x.invalidate()
    return None


def _sliced(x: OctTensor, channels: slice) -> OctTensor | Tensor:
    y = x.channels(range(x.shape[1])[channels])
    if channels.step not in (None, 1):  # each half is a copy then, and torch's slice is a view
        x.watch([y.high, y.low] if isinstance(y, OctTensor) else [y])
    return _part(y, x)


def _part(y: OctTensor | Tensor, whole: OctTensor) -> OctTensor | Tensor:
    if isinstance(y, OctTensor):
        return y.as_part(whole)
    whole.lend(y)
    return y


@oct_rule(*functions_named("split split_with_sizes chunk tensor_split"))
def split(func: Function, x: OctTensor, sizes: Any, dim: int = 0) -> Any:
    """A map split into several along the channels or along the batch. Exact."""
    dim %= x.dim()
    if dim == 0:
        parts = zip(func(x.high, sizes), func(x.low, sizes), strict=True)
        return tuple(_part(x.trusted_like(high, low), x) for high, low in parts)
    if dim != 1 or isinstance(sizes, Tensor):
        return NotImplemented
    total = x.shape[1]
    if func in functions_named("tensor_split"):
        if isinstance(sizes, int):  # the first parts are the larger ones
            sizes = [i * (total // sizes) + min(i, total % sizes) for i in range(1, sizes)]
        ends = zip([None, *sizes], [*sizes, None], strict=True)
        return tuple(_part(x.channels(range(total)[start:end]), x) for start, end in ends)
    if isinstance(sizes, int):
        step = -(-total // sizes) if func in functions_named("chunk") else sizes
        sizes = [min(step, total - start) for start in range(0, total, step)]
    if sum(sizes) != total:
        return func(x.to_dense(), sizes, dim=1)  # torch's error, or its empty parts
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(_part(x.channels(range(end - n, end)), x) for n, end in zip(sizes, ends, strict=True))


@oct_rule(*functions_named("narrow"))
def narrow(func: Function, x: OctTensor, dim: int, start: Any, length: int) -> Any:
    """`length` channels or images, from `start` on. Exact."""
    dim %= x.dim()
    if dim > 1 or isinstance(start, Tensor):
        return NotImplemented
    if not -x.shape[dim] <= start <= x.shape[dim] - length:
        return func(x.to_dense(), dim, start, length)  # torch's own error
    start %= max(x.shape[dim], 1)
    if dim == 1:
        return _part(x.channels(range(start, start + length)), x)
    return _part(x.trusted_like(func(x.high, 0, start, length), func(x.low, 0, start, length)), x)


@oct_rule(*functions_named("glu"))
def gate(func: Function, x: OctTensor, dim: int = -1) -> Any:
    """One half of the channels times the sigmoid of the other. Exact."""
    if dim % x.dim() != 1 or x.shape[1] % 2:
        return NotImplemented
    values, gates = x.chunk(2, 1)
    return torch.mul(values, gates.sigmoid())  # there may be plain ones
