"""Rules that choose or join channels: slices and concatenation.

All of them are exact: an OctTensor knows which of its channels are low (its layout), so a channel keeps its
frequency wherever it goes. A selection without low channels is a plain tensor, and the layers after it are
vanilla.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavize.paddle.dispatch import oct_rule
from octavize.paddle.functions import Function
from octavize.paddle.rules.elementwise import is_tensor
from octavize.paddle.sizes import differ
from octavize.paddle.tensor import OctTensor
from octavize.split import join_layouts, same_layout


@oct_rule("concat")
def concatenate(func: Function, tensors: Sequence[Any], axis: Any = 0, name: Any = None) -> Any:
    """Concatenation over channels: high with high, low with low. Exact: the order of channels is tracked.

    A dense map counts as all high. Maps of equal layout are also concatenated over the batch.
    """
    first = next(x for x in tensors if isinstance(x, OctTensor))
    if is_tensor(axis) or not all(is_tensor(x) or isinstance(x, OctTensor) for x in tensors):
        return NotImplemented
    if any(x.ndim != first.ndim for x in tensors):
        return NotImplemented
    maps = [
        x if isinstance(x, OctTensor) else OctTensor.all_high(x, octave_dims=first.octave_dims)
        for x in tensors
    ]
    if any(x.octave_dims != first.octave_dims or differ(x.spatial_shape, first.spatial_shape) for x in maps):
        return NotImplemented
    axis %= first.ndim
    if axis == 1:
        layout = join_layouts(tuple(x.channel_layout for x in maps))
    elif axis == 0 and all(same_layout(x.channel_layout, first.channel_layout) for x in maps):
        layout = first.channel_layout
    else:
        return NotImplemented
    high, low = _joined(func, [x.high for x in maps], axis), _joined(func, [x.low for x in maps], axis)
    strict = any(x.strict for x in maps)
    return OctTensor.trusted(high, low, first.spatial_shape, layout, first.octave_dims, strict)


def _joined(func: Function, halves: Sequence[Any], axis: int) -> Any:
    there = [half for half in halves if half is not None]
    return func(there, axis) if len(there) > 1 else there[0] if there else None


@oct_rule("getitem")
def get_item(func: Function, x: OctTensor, position: Any) -> Any:
    """`x[a:b]` and `x[a:b, c:d]`: part of the batch and of the channels, by slices or a list of channels.

    An index into space, or one that drops an axis, falls back to the dense map.
    """
    asked: tuple[Any, ...] = (
        (*position, *[slice(None)] * 2) if isinstance(position, tuple) else (position, ...)
    )
    batch, channels, *space = asked
    if not _is_slice(batch) or (channels is Ellipsis and isinstance(position, tuple)):
        return NotImplemented
    if not all(s is Ellipsis or (isinstance(s, slice) and s == slice(None)) for s in space):
        return NotImplemented
    if batch != slice(None):
        x = x.each_half(lambda half: func(half, batch))
    if channels is Ellipsis:
        return x
    if _is_slice(channels):
        return x if channels == slice(None) else x.channels(range(x.shape[1])[channels])
    if isinstance(channels, list) and all(type(c) is int for c in channels):
        return x.channels([range(x.shape[1])[c] for c in channels])
    return NotImplemented


def _is_slice(value: Any) -> bool:
    """Whether this is a slice of known ends: while a program is built, they may be tensors."""
    return isinstance(value, slice) and not any(
        is_tensor(end) for end in (value.start, value.stop, value.step)
    )


@oct_rule("split", "chunk")
def split(func: Function, x: OctTensor, num_or_sections: Any, axis: Any = 0, name: Any = None) -> Any:
    """A map split into several along the channels or along the batch. Exact."""
    total = x.shape[1]
    if is_tensor(axis) or axis % x.ndim > 1 or not isinstance(num_or_sections, (int, list, tuple)):
        return NotImplemented
    if axis % x.ndim == 0:
        parts = [None if half is None else func(half, num_or_sections, 0) for half in (x.high, x.low)]
        count = len(next(part for part in parts if part is not None))
        return [x.like(*(None if part is None else part[i] for part in parts)) for i in range(count)]
    if isinstance(num_or_sections, int):
        if total % num_or_sections:
            return NotImplemented  # Paddle's own error, or its own parts
        sizes = [total // num_or_sections] * num_or_sections
    else:
        sizes = list(num_or_sections)
        if any(is_tensor(size) for size in sizes):
            return NotImplemented
        sizes = [total - sum(sizes) - 1 if size == -1 else size for size in sizes]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [x.channels(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


@oct_rule("index_select", "gather")
def select(func: Function, x: Any, index: Any, axis: Any = 0, *args: Any, **kwargs: Any) -> Any:
    """Images of a batch by number. Exact; channels by number fall back, their order is not known before."""
    if not isinstance(x, OctTensor) or is_tensor(axis) or (axis or 0) % x.ndim:
        return NotImplemented
    return x.each_half(lambda half: func(half, index, 0, *args, **kwargs))
