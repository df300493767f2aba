"""OctTensor: an ordinary (N, C, …) feature map whose low channels are stored at half resolution.

It is one value, not a pair to pass through a network: it has the logical `shape`, and Paddle's functions act
on it (see `dispatch.py`). A rule for each function (see `rules/`) says how it acts on the two halves.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import paddle
from paddle import Tensor

from octavize.errors import InputError
from octavize.paddle.channels import merge_channels, split_channels, take_channels
from octavize.paddle.dispatch import RULES, ChangeRefused, Octave
from octavize.paddle.resample import halve, upsample
from octavize.paddle.sizes import differ, size_of
from octavize.paddle.wrapping import enable
from octavize.split import (
    ChannelLayout,
    check_alpha,
    default_octave_dims,
    locate_channels,
    low_channels,
    low_indices_kept,
    low_size,
    same_layout,
)


class OctTensor(Octave):
    """A feature map in two frequencies.

    Args:
        high: (N, C_high, *size), or None without high channels.
        low: (N, C_low, *⌈size / 2⌉), or None without low channels.
        size: the spatial size; needed only if `high` is None.
        octave_dims: how many trailing axes are halved. Default: all in 1-D and 2-D, space in 3-D.
        strict: refuse functions that have no octave rule instead of computing them on the dense map.
        channel_layout: which channels are low, as alternating counts of high and low channels in logical
            order. Default `(C_high, C_low)`: the last C_low channels, as in the paper. Concatenated maps
            have longer layouts.

    Raises:
        InputError: the halves do not belong together (rank, batch, size, dtype or layout).
    """

    rules = RULES
    high: Tensor | None
    low: Tensor | None
    spatial_shape: tuple[int, ...]
    channel_layout: ChannelLayout
    octave_dims: int
    _shared: dict[str, tuple[Any, Any]]  # computed tensors by name, each with the state it is from

    def __init__(
        self,
        high: Tensor | None,
        low: Tensor | None,
        *,
        size: Sequence[int] | None = None,
        octave_dims: int | None = None,
        strict: bool = False,
        channel_layout: ChannelLayout | None = None,
    ) -> None:
        half = _one_of(high, low)
        if octave_dims is None:
            octave_dims = default_octave_dims(half.ndim - 2)
        counts = _channels(high), _channels(low)
        layout = counts if channel_layout is None else tuple(channel_layout)
        if size is None and high is None:
            raise InputError("size is not given, and there is no high half to read it from: give size=")
        space = size_of(half) if size is None else tuple(size)
        _check(high, low, space, octave_dims, layout)
        self._set(high, low, space, layout, octave_dims, strict)

    @classmethod
    def trusted(
        cls,
        high: Tensor | None,
        low: Tensor | None,
        size: Sequence[int],
        channel_layout: ChannelLayout,
        octave_dims: int,
        strict: bool,
    ) -> OctTensor:
        """A map of halves that one of our layers or rules has made, so that they need no check."""
        x = cls.__new__(cls)
        x._set(high, low, tuple(size), channel_layout, octave_dims, strict)
        return x

    def _set(
        self,
        high: Tensor | None,
        low: Tensor | None,
        size: tuple[int, ...],
        layout: ChannelLayout,
        octave_dims: int,
        strict: bool,
    ) -> None:
        enable()  # from now on, functions have to look for octave maps
        self.high, self.low, self.spatial_shape, self.channel_layout = high, low, size, layout
        self.octave_dims, self.strict, self._shared = octave_dims, strict, {}

    # ---- from and to dense maps ---------------------------------------------------------------------

    @classmethod
    def from_dense(
        cls, x: Tensor, alpha: float, *, octave_dims: int | None = None, strict: bool = False
    ) -> OctTensor:
        """Split a dense map: the last int(α·C) channels become low, by 2×2 averaging (P).

        Args:
            x: (N, C, *size).
            alpha: share of channels that become low, in [0, 1].

        Returns:
            high (N, C − int(α·C), *size), low (N, int(α·C), *⌈size / 2⌉).
        """
        if not 3 <= x.ndim <= 5:
            raise InputError(
                f"x has shape {tuple(x.shape)}: a feature map (N, C, …) of 3 to 5 dimensions is needed"
            )
        n_low = low_channels(x.shape[1], check_alpha(alpha))
        if octave_dims is None:
            octave_dims = default_octave_dims(x.ndim - 2)
        high, low = split_channels(x, (x.shape[1] - n_low, n_low), dim=1)
        low = None if low is None else halve(low, octave_dims)
        return cls(high, low, size=size_of(x), octave_dims=octave_dims, strict=strict)

    @classmethod
    def all_high(cls, x: Tensor, *, octave_dims: int | None = None, strict: bool = False) -> OctTensor:
        """View a dense map (N, C, *size) as an OctTensor without low channels. Nothing is copied."""
        return cls(x, None, octave_dims=octave_dims, strict=strict)

    def to_dense(self) -> Tensor:
        """The dense map (N, C, *size): low is up-sampled by nearest (U), channels are in logical order."""
        low = None if self.low is None else upsample(self.low, self.spatial_shape)
        return merge_channels(self.high, low, self.channel_layout)

    # ---- what rules and layers build on -------------------------------------------------------------

    def like(self, high: Tensor | None, low: Tensor | None, size: Sequence[int] | None = None) -> OctTensor:
        """New halves (N, C_high, *size) and (N, C_low, *⌈size / 2⌉), same channel layout and settings.

        Args:
            size: the spatial size; that of this map if it is not given.
        """
        size = self.spatial_shape if size is None else size
        return self.trusted(high, low, size, self.channel_layout, self.octave_dims, self.strict)

    def each_half(
        self,
        func: Callable[..., Any],
        *pairs: Sequence[Any],
        size: Sequence[int] | None = None,
    ) -> OctTensor:
        """`func(half, *the half's part of each pair)`, of the halves that have channels, as a map."""
        halves = zip((self.high, self.low), *pairs, strict=True)
        high, low = (None if half is None else func(half, *parts) for half, *parts in halves)
        return self.like(high, low, size)

    def pooled_high(self) -> Tensor | None:
        """P(high): (N, C_high, *⌈size / 2⌉). Computed once, however many layers read it."""
        if self.high is None:
            return None
        high = self.high
        return self._once("pooled_high", lambda: halve(high, self.octave_dims))

    def at_low_resolution(self) -> Tensor:
        """[P(high), low]: all channels in logical order, (N, C, *⌈size / 2⌉). Computed once."""
        merged = lambda: merge_channels(self.pooled_high(), self.low, self.channel_layout)  # noqa: E731
        return self._once("at_low_resolution", merged)

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        # A computed tensor is valid in the state it is from: the same grad mode and versions of the halves,
        # or the same block of the program that is being built.
        state = (self.high, self.low, *_state(self.high), *_state(self.low))
        known = self._shared.get(name)
        if known is None or not _same(known[0], state):
            known = self._shared[name] = (state, compute())
        return known[1]

    def split_channels(self, values: Tensor, dim: int = 0) -> tuple[Tensor | None, Tensor | None]:
        """Split per-channel `values` (C entries along `dim`) into those of high and of low channels."""
        return split_channels(values, self.channel_layout, dim)

    def with_layout(self, channel_layout: ChannelLayout) -> OctTensor:
        """The same map with fewer low channels: exact, since up-sampling a low channel changes no value.

        Args:
            channel_layout: which channels are low; each of them must be low already.
        """
        if same_layout(channel_layout, self.channel_layout):
            return self
        high, _ = split_channels(self.to_dense(), channel_layout, dim=1)
        low = take_channels(self.low, low_indices_kept(self.channel_layout, channel_layout), dim=1)
        return self.trusted(high, low, self.spatial_shape, channel_layout, self.octave_dims, self.strict)

    def channels(self, channels: Sequence[int]) -> Any:
        """A map of some of the channels, in the order given; a plain tensor if none of them is low."""
        places, low_places, layout = locate_channels(self.channel_layout, tuple(channels))
        high = take_channels(self.high, places, dim=1)
        if not low_places:
            return high
        low = take_channels(self.low, low_places, dim=1)
        return self.trusted(high, low, self.spatial_shape, layout, self.octave_dims, self.strict)

    def lend(self, view: Any) -> None:
        """Know what Paddle would have given as a view of this map: both would see each other's changes."""
        if view is self:
            return
        others = [weakref.ref(self), *self.__dict__.get("_views", ())]
        for x in [x for other in others if (x := other()) is not None and x is not view]:
            if isinstance(x, OctTensor):
                x.__dict__.setdefault("_views", []).append(weakref.ref(view))
            if isinstance(view, OctTensor):
                view.__dict__.setdefault("_views", []).append(weakref.ref(x))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_views"}

    def become(self, other: Any) -> OctTensor:
        """Take over values and layout of a map of the same shape.

        Raises:
            RuntimeError: the shapes differ.
            ChangeRefused: a view of this map is in use, or this is one of a map in use; it misses the change.
        """
        if any(view() is not None for view in self.__dict__.get("_views", ())):
            raise ChangeRefused(
                "an octave map was changed in place while a view or a slice of it, or the map that it is a "
                "slice of, is in use, which cannot see the change: use the function that returns a new map"
            )
        if not isinstance(other, OctTensor):
            other = OctTensor.all_high(other, octave_dims=self.octave_dims)
        if list(other.shape) != list(self.shape):
            raise RuntimeError(f"a result of shape {other.shape} does not fit into {self!r}")
        self.high, self.low, self.channel_layout = other.high, other.low, other.channel_layout
        self._shared = {}
        return self

    # ---- properties of a tensor ---------------------------------------------------------------------

    @property
    def any_half(self) -> Tensor:
        """A half with channels: both have the same batch, dtype and place."""
        return _one_of(self.high, self.low)

    @property
    def shape(self) -> list[int]:
        """The logical shape [N, C_high + C_low, *size]."""
        return [self.any_half.shape[0], sum(self.channel_layout), *self.spatial_shape]

    @property
    def counts(self) -> tuple[int, int]:
        """Number of high and of low channels."""
        return sum(self.channel_layout[::2]), sum(self.channel_layout[1::2])

    @property
    def alpha(self) -> float:
        """Share of channels that are low."""
        return self.counts[1] / max(sum(self.counts), 1)

    @property
    def ndim(self) -> int:
        return len(self.spatial_shape) + 2

    def dim(self) -> int:
        return self.ndim

    @property
    def size(self) -> int:
        """Logical number of values, as of a Paddle tensor."""
        return prod(self.shape)

    @property
    def dtype(self) -> Any:
        return self.any_half.dtype

    @property
    def place(self) -> Any:
        return self.any_half.place

    @property
    def stop_gradient(self) -> bool:
        return all(half.stop_gradient for half in (self.high, self.low) if half is not None)

    def is_dist(self) -> bool:
        """Whether it is spread over devices; `nn.Conv2D` asks."""
        return False

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        order = "" if len(self.channel_layout) == 2 else f", channel_layout={self.channel_layout}"
        high, low = (None if half is None else tuple(half.shape) for half in (self.high, self.low))
        return (
            f"OctTensor(shape={tuple(self.shape)}, alpha={self.alpha:.4g}, high={high}, low={low}{order}, "
            f"dtype={self.dtype})"
        )


def _one_of(high: Tensor | None, low: Tensor | None) -> Tensor:
    half = low if high is None else high
    if half is None:
        raise InputError("high and low are both None: a map has channels")
    return half


def _channels(half: Tensor | None) -> int:
    return 0 if half is None else half.shape[1]


def _state(half: Tensor | None) -> tuple[Any, ...]:
    if half is None:
        return ()
    if isinstance(half, Tensor):
        return paddle.is_grad_enabled(), half.inplace_version
    return (paddle.pir.get_current_insertion_point().block(),)


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether two states are of the same, unchanged tensors; `==` would compare their values."""
    return a[0] is b[0] and a[1] is b[1] and a[2:] == b[2:]


def _check(
    high: Tensor | None, low: Tensor | None, size: tuple[int, ...], octave_dims: int, layout: ChannelLayout
) -> None:
    """Check the halves that a user gives; see `OctTensor` for the errors."""
    spatial = len(size)
    ranks = [half.ndim for half in (high, low) if half is not None]
    if any(ndim != spatial + 2 for ndim in ranks) or not 1 <= spatial <= 3:
        raise InputError(
            f"high has shape {_shape(high)} and low {_shape(low)}, of a map of size {size}: both halves need "
            "the same 3 to 5 dimensions (N, C, …)"
        )
    if not 1 <= octave_dims <= spatial:
        raise InputError(
            f"octave_dims={octave_dims}: a map of {spatial} spatial axes has 1 to {spatial} to halve"
        )
    if low is not None and differ(size_of(low), low_size(size, octave_dims)):
        raise InputError(
            f"low has shape {_shape(low)} but the map has size {size}: low must be of size "
            f"{low_size(size, octave_dims)}"
        )
    if high is not None and differ(size_of(high), size):
        raise InputError(f"high has shape {_shape(high)} but size={size}: give one size")
    if high is not None and low is not None and (high.shape[0], high.dtype) != (low.shape[0], low.dtype):
        raise InputError(
            f"high has {high.shape[0]} images of {high.dtype} and low {low.shape[0]} of {low.dtype}: both "
            "need the same"
        )
    counts = (sum(layout[::2]), sum(layout[1::2]))
    if counts != (_channels(high), _channels(low)) or len(layout) % 2 or min(layout) < 0:
        raise InputError(
            f"channel_layout={layout} is not pairs of counts that add up to {_channels(high)} high and "
            f"{_channels(low)} low channels"
        )


def _shape(half: Tensor | None) -> tuple[int, ...] | None:
    return None if half is None else tuple(half.shape)
