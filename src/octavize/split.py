"""The arithmetic around octave convolution: which channels are low, and how big the low half is.

This module answers three questions:

* **How many channels are low?** `low_channels`: the integer part of α·C.
* **How big is the low half?** `low_size`: ⌈size / 2⌉ along each octave axis, so every size from 1 up works.
* **Which channels are low?** A *channel layout*: alternating counts of high and low channels in logical
  order. It is `(high, low)` for nearly every feature map, and `(3, 1, 2, 2)` after a (3, 1) map and a (2, 2)
  map are concatenated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar

from octavize.errors import number

ChannelLayout = tuple[int, ...]


def check_alpha(alpha: float) -> float:
    """Return α as a float.

    Raises:
        InputError: α is not a number in [0, 1].
    """
    return number("alpha", alpha, 0, 1, meaning="the share of low channels")


def low_channels(channels: int, alpha: float, groups: int = 1) -> int:
    """How many of `channels` are low: int(α·C), rounded down to a multiple of `groups`.

    The paper's count (its §3.2); a grouped convolution needs both halves to be divisible by its groups.
    """
    # 0.29 · 100 is 28.999…996 in floating point, but the caller means 29.
    return int(alpha * channels + 1e-6) // groups * groups


def low_size(size: Sequence[int], octave_dims: int) -> tuple[int, ...]:
    """Spatial size of the low half: the last `octave_dims` axes halved and rounded up."""
    kept = len(size) - octave_dims
    return (*size[:kept], *[(n + 1) // 2 for n in size[kept:]])


def default_octave_dims(spatial_dims: int) -> int:
    """How many trailing axes are halved: all in 1-D and 2-D, space but not time in 3-D (paper §4.4)."""
    return min(spatial_dims, 2)


@dataclass(frozen=True)
class Segment:
    """A stretch of neighboring channels of one frequency."""

    is_low: bool
    start: int  # first channel, in logical order
    half_start: int  # first channel, within its half
    count: int


def same_layout(a: ChannelLayout, b: ChannelLayout) -> bool:
    """Whether two maps hold the same channels in the same halves."""
    return tuple(a) == tuple(b)  # the compiler of torch 2.9 compares tuples, but no constants


Function = TypeVar("Function", bound=Callable[..., object])

KNOWN_WHILE_TRACING: list[Callable[..., object]] = []
"""Functions whose results a compiler may treat as constants: layouts are known while tracing."""


def _constant(function: Function) -> Function:
    """Cache results: counting channels one by one is slow, above all when a compiler traces every step.

    `functools.lru_cache` does not help: torch.compile ignores it and traces every step.
    """
    known: dict[tuple[object, ...], object] = {}

    @wraps(function)
    def counted(*arguments: object) -> object:
        if arguments not in known:
            known[arguments] = function(*arguments)
        return known[arguments]

    KNOWN_WHILE_TRACING.append(counted)
    return counted  # pyright: ignore[reportReturnType]


@_constant
def segments(layout: ChannelLayout) -> tuple[Segment, ...]:
    """The segments of a map with this layout, in logical order, without empty ones."""
    found: list[Segment] = []
    start, used = 0, [0, 0]
    for i, count in enumerate(layout):
        low = i % 2
        if count:
            found.append(Segment(bool(low), start, used[low], count))
        start += count
        used[low] += count
    return tuple(found)


@_constant
def join_layouts(layouts: tuple[ChannelLayout, ...]) -> ChannelLayout:
    """Layout of the concatenation over channels of maps with these layouts."""
    joined = [0]
    for layout in layouts:
        for i, count in enumerate(layout):
            if count == 0:
                continue
            if i % 2 == (len(joined) - 1) % 2:
                joined[-1] += count
            else:
                joined.append(count)
    return tuple(joined) if len(joined) % 2 == 0 else (*joined, 0)


@_constant
def common_layout(a: ChannelLayout, b: ChannelLayout) -> ChannelLayout:
    """Layout in which a channel is low only where it is low in both `a` and `b`."""
    return _layout_of([low_a and low_b for low_a, low_b in zip(_is_low(a), _is_low(b), strict=True)])


@_constant
def low_indices_kept(own: ChannelLayout, target: ChannelLayout) -> tuple[int, ...]:
    """Which channels of the low half of a map with layout `own` are still low in `target`."""
    still_low = [t for o, t in zip(_is_low(own), _is_low(target), strict=True) if o]
    return tuple(i for i, low in enumerate(still_low) if low)


@_constant
def locate_channels(
    layout: ChannelLayout, channels: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], ChannelLayout]:
    """Where some channels of a map with this layout are stored, and the layout of the map they form.

    Returns:
        Indices in the high half, indices in the low half, and the new layout; in the order given.
    """
    is_low, index = _is_low(layout), _index_in_half(layout)
    high = tuple(index[c] for c in channels if not is_low[c])
    low = tuple(index[c] for c in channels if is_low[c])
    return high, low, _layout_of([is_low[c] for c in channels])


@_constant
def logical_order(layout: ChannelLayout) -> tuple[int, ...]:
    """The index of each channel in the concatenation of the high and the low half."""
    n_high = sum(layout[::2])
    return tuple(i + n_high * low for i, low in zip(_index_in_half(layout), _is_low(layout), strict=True))


@_constant
def high_indices(layout: ChannelLayout) -> tuple[int, ...]:
    """The high channels, in logical order."""
    return tuple(c for c, low in enumerate(_is_low(layout)) if not low)


@_constant
def low_indices(layout: ChannelLayout) -> tuple[int, ...]:
    """The low channels, in logical order."""
    return tuple(c for c, low in enumerate(_is_low(layout)) if low)


@_constant
def with_low_divisible(layout: ChannelLayout, groups: int) -> ChannelLayout:
    """The nearest layout whose low count is divisible by `groups`: the first few low channels become high."""
    extra = sum(layout[1::2]) % groups
    pieces: list[ChannelLayout] = []
    for segment in segments(layout):
        raised = min(extra, segment.count) if segment.is_low else segment.count
        extra -= raised if segment.is_low else 0
        pieces.append((raised, segment.count - raised))
    return join_layouts(tuple(pieces))


def _layout_of(is_low: Sequence[bool]) -> ChannelLayout:
    return join_layouts(tuple((0, 1) if low else (1, 0) for low in is_low))


def _is_low(layout: ChannelLayout) -> list[bool]:
    return [bool(i % 2) for i, count in enumerate(layout) for _ in range(count)]


def _index_in_half(layout: ChannelLayout) -> list[int]:
    used, index = [0, 0], []
    for low in _is_low(layout):
        index.append(used[low])
        used[low] += 1
    return index
