"""The only arithmetic of octave convolution that is not convolution: who is low, and how big is low.

Three questions are answered here and nowhere else:

* **How many channels are low?** `low_channels`: the integer part of α·C.
* **How big is the low half?** `low_size`: ⌈size / 2⌉ along each octave axis, so every size from 1 up works.
* **Which channels are low?** A tuple of *runs*: alternating counts of high and low channels in logical
  order, `(high, low)` for nearly every feature map, `(3, 1, 2, 2)` after concatenating a (3, 1) map with a
  (2, 2) map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeVar

from octavize.errors import InputError

Runs = tuple[int, ...]


def check_alpha(alpha: float) -> float:
    """Return α as a float.

    Raises:
        InputError: α is not a number in [0, 1].
    """
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 <= alpha <= 1:
        raise InputError(
            f"alpha={alpha!r} is not a share of channels: give a number from 0 to 1, such as 0.5"
        )
    return float(alpha)


def low_channels(channels: int, alpha: float, groups: int = 1) -> int:
    """How many of `channels` are low: int(α·C), rounded down to a multiple of `groups`.

    The paper's count (its §3.2); a grouped convolution needs both halves to be divisible by its groups.
    """
    # 0.29 · 100 is 28.999…996 in floating point, and means 29.
    return int(alpha * channels + 1e-6) // groups * groups


def low_size(size: Sequence[int], octave_dims: int) -> tuple[int, ...]:
    """Spatial size of the low half: the last `octave_dims` axes halved and rounded up."""
    kept = len(size) - octave_dims
    return (*size[:kept], *((n + 1) // 2 for n in size[kept:]))


def default_octave_dims(spatial_dims: int) -> int:
    """How many trailing axes an octave halves: all in 1-D and 2-D, space but not time in 3-D (paper §4.4)."""
    return min(spatial_dims, 2)


@dataclass(frozen=True)
class Segment:
    """A stretch of neighboring channels of one frequency."""

    is_low: bool
    start: int  # first channel, in logical order
    half_start: int  # first channel, within its half
    count: int


def segments(runs: Runs) -> tuple[Segment, ...]:
    """The stretches of a map with these runs, in logical order; empty ones left out."""
    found: list[Segment] = []
    start, used = 0, [0, 0]
    for i, count in enumerate(runs):
        low = i % 2
        if count:
            found.append(Segment(bool(low), start, used[low], count))
        start += count
        used[low] += count
    return tuple(found)


Function = TypeVar("Function", bound=Callable[..., object])


KNOWN_WHILE_TRACING: list[Callable[..., object]] = []
"""Functions whose results a compiler may take for the constants they are: who is low is known while tracing.

Counting channels one by one is slow where it follows every step of it.
"""


def _constant(function: Function) -> Function:
    KNOWN_WHILE_TRACING.append(function)
    return function


@_constant
def join_runs(many: Sequence[Runs]) -> Runs:
    """Runs of the concatenation over channels of maps with these runs."""
    joined = [0]
    for runs in many:
        for i, count in enumerate(runs):
            if count == 0:
                continue
            if i % 2 == (len(joined) - 1) % 2:
                joined[-1] += count
            else:
                joined.append(count)
    return tuple(joined) if len(joined) % 2 == 0 else (*joined, 0)


@_constant
def common_runs(a: Runs, b: Runs) -> Runs:
    """Runs in which a channel is low only where it is low in both `a` and `b`."""
    return _runs_of([low_a and low_b for low_a, low_b in zip(_is_low(a), _is_low(b), strict=True)])


@_constant
def kept_low(own: Runs, target: Runs) -> tuple[int, ...]:
    """Which channels of the low half of a map with runs `own` are still low in `target`."""
    still_low = [t for o, t in zip(_is_low(own), _is_low(target), strict=True) if o]
    return tuple(i for i, low in enumerate(still_low) if low)


@_constant
def places(runs: Runs, channels: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], Runs]:
    """Where some channels of a map with these runs are stored, and the runs of the map they make.

    Returns:
        Which channels of the high half, which of the low half, and the new runs; all in the order asked for.
    """
    is_low, index = _is_low(runs), _index_in_half(runs)
    high = tuple(index[c] for c in channels if not is_low[c])
    low = tuple(index[c] for c in channels if is_low[c])
    return high, low, _runs_of([is_low[c] for c in channels])


@_constant
def logical_order(runs: Runs) -> tuple[int, ...]:
    """Where each channel is found in the concatenation of the high and the low half."""
    n_high = sum(runs[::2])
    return tuple(i + n_high * low for i, low in zip(_index_in_half(runs), _is_low(runs), strict=True))


@_constant
def channels_of(runs: Runs, is_low: bool) -> tuple[int, ...]:
    """The channels of one frequency, in logical order."""
    return tuple(c for c, low in enumerate(_is_low(runs)) if low == is_low)


def _runs_of(is_low: Sequence[bool]) -> Runs:
    return join_runs([(0, 1) if low else (1, 0) for low in is_low])


def _is_low(runs: Runs) -> list[bool]:
    return [bool(i % 2) for i, count in enumerate(runs) for _ in range(count)]


def _index_in_half(runs: Runs) -> list[int]:
    used, index = [0, 0], []
    for low in _is_low(runs):
        index.append(used[low])
        used[low] += 1
    return index


def with_low_divisible(runs: Runs, groups: int) -> Runs:
    """The runs nearest to `runs` whose low channels are divisible by `groups`: the first few become high."""
    extra = sum(runs[1::2]) % groups
    pieces: list[Runs] = []
    for segment in segments(runs):
        raised = min(extra, segment.count) if segment.is_low else segment.count
        extra -= raised if segment.is_low else 0
        pieces.append((raised, segment.count - raised))
    return join_runs(pieces)
