"""OctTensor: an ordinary (N, C, …) feature map whose low channels are stored at half resolution.

It is one value, not a pair to pass through a network: it has the logical `shape`, and PyTorch functions act
on it (see `dispatch.py`). A rule for each function (see `rules/`) says how it acts on the two halves.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from octavize.errors import InputError
from octavize.nn._torch_internals import in_transform
from octavize.nn.channels import merge_channels, split_channels, take_channels
from octavize.nn.dispatch import RULES, ChangeRefused, Octave, check_seen
from octavize.nn.recompute import version_of, who_saves
from octavize.nn.resample import cell_sizes, fits, halve, upsample
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

_Shared = dict[str, tuple[Any, Tensor]] | None
"""Cached tensors by name, each with the state that it is from."""
_OF_ITS_LIFE = ("_copies", "_wholes", "_parts")
_MISSED = "a view or a slice of it (x.flatten(2), x[:, ::2])"
# Properties that both halves share.
_SHARED_PROPERTIES = frozenset(
    {"is_cuda", "is_cpu", "is_meta", "is_mps", "is_xpu", "is_sparse", "is_quantized", "itemsize", "layout"}
)


@dataclass(init=False, repr=False, eq=False)
class OctTensor(Octave):
    """A feature map in two frequencies.

    It is a dataclass for those who look for the tensors in what modules read and return, as torch's parallel
    training does (FSDP, DDP): they find both halves, and can put others in their place.

    Args:
        high: (N, C_high, *size).
        low: (N, C_low, *⌈size / 2⌉). A half without channels still carries the size: (N, 0, …).
        octave_dims: how many trailing axes are halved. Default: all in 1-D and 2-D, space in 3-D.
        strict: refuse functions that have no octave rule instead of computing them on the dense map.
        channel_layout: which channels are low, as alternating counts of high and low channels in logical
            order. Default `(C_high, C_low)`: the last C_low channels, as in the paper. Concatenated maps
            have longer layouts.

    Raises:
        InputError: the halves do not belong together (rank, batch, size, dtype, device or layout).
    """

    rules = RULES
    high: Tensor
    low: Tensor
    channel_layout: ChannelLayout
    octave_dims: int
    strict: bool

    def __init__(
        self,
        high: Tensor,
        low: Tensor,
        *,
        octave_dims: int | None = None,
        strict: bool = False,
        channel_layout: ChannelLayout | None = None,
    ) -> None:
        for name, half in (("high", high), ("low", low)):
            if not isinstance(half, Tensor):
                raise TypeError(f"{name} is a {type(half).__name__}: give a torch.Tensor (N, C, …)")
        if high.dtype != low.dtype and 0 in (high.shape[1], low.shape[1]):
            # Autocast leaves a half without channels alone: give it the dtype of the other half.
            high, low = (high, low.to(high)) if low.shape[1] == 0 else (high.to(low), low)
        if octave_dims is None:
            octave_dims = default_octave_dims(high.dim() - 2)
        layout = (high.shape[1], low.shape[1]) if channel_layout is None else tuple(channel_layout)
        _check(high, low, octave_dims, layout)
        self.high, self.low, self.channel_layout = high, low, layout
        self.octave_dims, self.strict = octave_dims, strict
        self._shared: _Shared = None

    @classmethod
    def trusted(
        cls, high: Tensor, low: Tensor, channel_layout: ChannelLayout, octave_dims: int, strict: bool
    ) -> OctTensor:
        """A map of halves that one of our layers or rules has made, so that they need no check."""
        x = cls.__new__(cls)
        x.high, x.low, x.channel_layout = high, low, channel_layout
        x.octave_dims, x.strict, x._shared = octave_dims, strict, None
        return x

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
        if not 3 <= x.dim() <= 5:
            raise InputError(
                f"x has shape {tuple(x.shape)}: a feature map (N, C, …) of 3 to 5 dimensions is needed"
            )
        n_low = low_channels(x.shape[1], check_alpha(alpha))
        if octave_dims is None:
            octave_dims = default_octave_dims(x.dim() - 2)
        high, low = split_channels(x, (x.shape[1] - n_low, n_low), dim=1)
        return cls(high, halve(low, octave_dims), octave_dims=octave_dims, strict=strict)

    @classmethod
    def all_high(cls, x: Tensor, *, octave_dims: int | None = None, strict: bool = False) -> OctTensor:
        """View a dense map (N, C, *size) as an OctTensor without low channels. Nothing is copied."""
        if octave_dims is None:
            octave_dims = default_octave_dims(x.dim() - 2)
        low = x.new_empty((x.shape[0], 0, *low_size(x.shape[2:], octave_dims)))
        return cls(x, low, octave_dims=octave_dims, strict=strict)

    def to_dense(self) -> Tensor:
        """The dense map (N, C, *size): low is up-sampled by nearest (U), channels are in logical order."""
        if torch.is_grad_enabled():
            check_seen((self,))
        return merge_channels(self.high, upsample(self.low, self.high.shape[2:]), self.channel_layout)

    # ---- what rules and layers build on -------------------------------------------------------------

    def like(self, high: Tensor, low: Tensor) -> OctTensor:
        """New halves (N, C_high, *size) and (N, C_low, *⌈size / 2⌉), same channel layout and settings.

        Raises:
            InputError: the halves do not belong together.
        """
        if high is self.high and low is self.low:
            return self  # as torch does, where a cast or a dropout has nothing to do
        settings: dict[str, Any] = {"octave_dims": self.octave_dims, "strict": self.strict}
        return OctTensor(high, low, channel_layout=self.channel_layout, **settings)

    def trusted_like(self, high: Tensor, low: Tensor) -> OctTensor:
        """`like` of halves that are known to fit, since a rule of ours has made them of these: unchecked."""
        if high.dtype != low.dtype or (high is self.high and low is self.low):
            return self.like(high, low)
        return self.trusted(high, low, self.channel_layout, self.octave_dims, self.strict)

    def pooled_high(self) -> Tensor:
        """P(high): (N, C_high, *⌈size / 2⌉). Computed once, however many layers read it."""
        return self._once("pooled_high", lambda: halve(self.high, self.octave_dims))

    def at_low_resolution(self) -> Tensor:
        """[P(high), low]: all channels in logical order, (N, C, *⌈size / 2⌉). Computed once."""
        return self._once("at_low_resolution", self._merge_at_low_resolution)

    def _merge_at_low_resolution(self) -> Tensor:
        return merge_channels(halve(self.high, self.octave_dims), self.low, self.channel_layout)

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        # A cached tensor is valid only in the state it is from: the same grad mode, versions of the halves
        # and activation checkpoint. A leaf may see a second backward, which needs a graph of its own.
        high, low = self.high, self.low
        if torch.compiler.is_dynamo_compiling() or high.is_inference() or low.is_inference():
            return compute()  # changes in place are not counted there; a compiler shares equal calls itself
        recorded_for: Any = False
        if torch.is_grad_enabled():
            if in_transform() or any(half.is_leaf and half.requires_grad for half in (high, low)):
                return compute()
            recorded_for = who_saves()
        state = (high, low, version_of(high), version_of(low), recorded_for)
        if self._shared is None:
            self._shared = {}
        known = self._shared.get(name)
        if known is None or not _same(known[0], state):
            known = self._shared[name] = (state, compute())
        return known[1]

    def invalidate(self) -> OctTensor:
        """Drop the cached tensors after a change in place."""
        self._shared = None
        return self

    def watch(self, copies: Iterable[Tensor], *, changed: bool = False) -> None:
        """Watch copies where torch would have given views of this map.

        The map refuses to be used once one of them was changed, and to be changed while one is in use.

        Args:
            changed: they are already.
        """
        if torch.compiler.is_compiling():
            return
        own = (self.high, self.low)
        known = [
            _Copy.of(c, changed=changed)
            for c in copies
            if changed or (not c.is_inference() and all(c is not x for x in own))
        ]
        if known:
            self.__dict__.setdefault("_copies", []).extend(known)
            self.__class__ = Watched  # pyright: ignore[reportAttributeAccessIssue]

    def split_channels(self, values: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
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
        return self.trusted(high, low, channel_layout, self.octave_dims, self.strict)

    def channels(self, channels: Sequence[int], *, copy: bool = False) -> OctTensor | Tensor:
        """A map of some of the channels, in the order given; a plain tensor if none of them is low.

        Neighbors are views of this map, unless `copy`.
        """
        high, low, layout = locate_channels(self.channel_layout, tuple(channels))
        if not low:
            return take_channels(self.high, high, dim=1, copy=copy)
        high_half = take_channels(self.high, high, dim=1, copy=copy)
        low_half = take_channels(self.low, low, dim=1, copy=copy)
        return self.trusted(high_half, low_half, layout, self.octave_dims, self.strict)

    def gradient(self, high: Tensor | None, low: Tensor | None) -> Tensor | None:
        """The gradient of the dense map (N, C, *size) from those of the halves; None if both are.

        Each pixel of a cell gets an equal share of the gradient of its low pixel.
        """
        if high is None and low is None:
            return None
        high = torch.zeros_like(self.high) if high is None else high
        low = torch.zeros_like(self.low) if low is None else low
        return self.trusted_like(high, low / cell_sizes(self.high, self.octave_dims)).to_dense()

    @property
    def grad(self) -> Tensor | None:
        """The gradient of the dense map, if autograd keeps that of the halves; see `gradient`."""
        return self.gradient(self.high.grad, self.low.grad)

    def as_part(self, whole: OctTensor) -> OctTensor:
        """This map, known as a slice of another: its halves are views of the other's."""
        if not torch.compiler.is_compiling():
            wholes = self.__dict__["_wholes"] = [*whole.__dict__.get("_wholes", ()), weakref.ref(whole)]
            for reference in wholes:
                if (x := reference()) is not None:
                    x.lend(self)
        return self

    def lend(self, part: OctTensor | Tensor) -> None:
        """Know a view of this map, which sees no change that gives this map other halves."""
        if not torch.compiler.is_compiling():
            self.__dict__.setdefault("_parts", []).append(weakref.ref(part))

    @property
    def is_strided(self) -> bool:
        """Whether this is a slice of another map's channels: torch's would not be contiguous."""
        if torch.compiler.is_compiling():
            return False
        wholes = (whole() for whole in self.__dict__.get("_wholes", ()))
        return len(self) > 1 and any(x is not None and x.shape[1] != self.shape[1] for x in wholes)

    def become(self, other: OctTensor | Tensor) -> OctTensor:
        """Take over values and layout of a map of the same shape, cast to the dtype of this map.

        A map that this one is a slice of cannot be used any more: it has missed the change.

        Raises:
            RuntimeError: the shapes differ.
            ChangeRefused: slices of this map are still in use, or the map without its history; they miss the
                change.
        """
        if not isinstance(other, OctTensor):
            other = OctTensor.all_high(other, octave_dims=self.octave_dims)
        if other.shape != self.shape:
            raise RuntimeError(f"a result of shape {tuple(other.shape)} does not fit into {self!r}")
        self.high, self.low = other.high.to(self.dtype), other.low.to(self.dtype)
        self.channel_layout = other.channel_layout
        if not torch.compiler.is_compiling():
            self._spoil_others()
        return self.invalidate()

    def _spoil_others(self) -> None:
        for whole in self.__dict__.get("_wholes", ()):
            if (x := whole()) is not None:
                x.watch([self.high.detach()], changed=True)
        if any(part() is not None for part in self.__dict__.get("_parts", ())):
            raise changed_under(_MISSED)

    # ---- properties of a tensor ---------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """The logical shape (N, C_high + C_low, *size)."""
        return torch.Size((self.high.shape[0], self.high.shape[1] + self.low.shape[1], *self.high.shape[2:]))

    @property
    def counts(self) -> tuple[int, int]:
        """Number of high and of low channels."""
        layout = self.channel_layout
        return layout if len(layout) == 2 else (sum(layout[::2]), sum(layout[1::2]))

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.high.dim()

    @property
    def ndim(self) -> int:
        return self.high.dim()

    def numel(self) -> int:
        """Logical number of values; `stored_numel` counts the stored ones."""
        return math.prod(self.shape)  # torch.Size.numel makes numbers of symbols

    def stored_numel(self) -> int:
        return self.high.numel() + self.low.numel()

    @property
    def alpha(self) -> float:
        """Share of channels that are low."""
        return self.low.shape[1] / max(self.shape[1], 1)

    @property
    def dtype(self) -> torch.dtype:
        return self.high.dtype

    @property
    def device(self) -> torch.device:
        return self.high.device

    @property
    def requires_grad(self) -> bool:
        return self.high.requires_grad or self.low.requires_grad

    @property
    def is_leaf(self) -> bool:
        """Whether no half was made by autograd."""
        return self.high.is_leaf and self.low.is_leaf

    @property
    def data(self) -> OctTensor:
        """The map without its history, with the same memory; unlike torch's, it counts changes in place."""
        return self.detach()

    @data.setter
    def data(self, values: object) -> None:
        raise ChangeRefused("x.data = … cannot change an octave map: keep the new map instead")

    def __len__(self) -> int:
        return self.high.shape[0]

    @property
    def _version(self) -> tuple[Any, Any]:
        """How often each half was changed in place, as torch counts it for a tensor."""
        return self.high._version, self.low._version

    def __getattr__(self, name: str) -> Any:
        return getattr(self.high, name) if name in _SHARED_PROPERTIES else super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: v for k, v in self.__dict__.items() if k not in _OF_ITS_LIFE}, "_shared": None}

    def __repr__(self) -> str:
        order = "" if len(self.channel_layout) == 2 else f", channel_layout={self.channel_layout}"
        return (
            f"OctTensor(shape={tuple(self.shape)}, alpha={self.alpha:.4g}, high={tuple(self.high.shape)}, "
            f"low={tuple(self.low.shape)}{order}, dtype={self.dtype}, device={self.device})"
        )


class Watched(OctTensor):
    """A map that gave away copies where torch gives views, see `OctTensor.watch`: each use looks at them."""

    def _half(self, name: str) -> Tensor:
        if any(copy.changed for copy in self.__dict__.get("_copies", ())):
            raise ChangeRefused(
                f"an octave map was changed in place through {_MISSED}, which cannot reach the map: change "
                "the map itself, or give alpha=0 to the layer before"
            )
        return self.__dict__[name]

    def invalidate(self) -> OctTensor:
        if any(copy.is_used for copy in self.__dict__.get("_copies", ())):
            raise changed_under(_MISSED)
        return super().invalidate()

    def _set_half(self, value: Tensor, name: str) -> None:
        self.__dict__[name] = value

    high = property(partial(_half, name="high"), partial(_set_half, name="high"))  # pyright: ignore
    low = property(partial(_half, name="low"), partial(_set_half, name="low"))  # pyright: ignore


@dataclass(frozen=True)
class _Copy:
    """What was given away in place of a view; it is used as long as it, or a view of it, exists."""

    memory: Tensor
    version: Any
    given: weakref.ref[Tensor]

    @classmethod
    def of(cls, given: Tensor, *, changed: bool) -> _Copy:
        # A detached tensor counts the same changes, and does not keep the one that is given away.
        return cls(given.detach(), None if changed else version_of(given), weakref.ref(given))

    @property
    def changed(self) -> bool:
        return version_of(self.memory) != self.version

    @property
    def is_used(self) -> bool:
        return self.given() is not None


def changed_under(views: str) -> ChangeRefused:
    return ChangeRefused(
        f"an octave map was changed in place while {views} is in use, which cannot see the change: keep the "
        "result of the function that returns a new map, or give alpha=0 to the layer before"
    )


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether two states are of the same, unchanged tensors; `==` would compare their values."""
    return a[0] is b[0] and a[1] is b[1] and a[2:] == b[2:]


def _check(high: Tensor, low: Tensor, octave_dims: int, layout: ChannelLayout) -> None:
    """Check the halves that a user gives; see `OctTensor` for the errors."""
    if high.dim() != low.dim() or not 3 <= high.dim() <= 5:
        raise InputError(
            f"high has shape {tuple(high.shape)} and low {tuple(low.shape)}: "
            "both halves need the same 3 to 5 dimensions (N, C, …)"
        )
    if not 1 <= octave_dims <= high.dim() - 2:
        raise InputError(
            f"octave_dims={octave_dims}: a map of {high.dim() - 2} spatial axes has 1 to "
            f"{high.dim() - 2} to halve"
        )
    if high.shape[0] != low.shape[0] or not fits(low.shape[2:], high.shape[2:], octave_dims):
        wanted = (high.shape[0], low.shape[1], *low_size(high.shape[2:], octave_dims))
        raise InputError(
            f"low has shape {tuple(low.shape)} but high has {tuple(high.shape)}: low must be {wanted}"
        )
    if high.dtype != low.dtype or high.device != low.device:
        raise InputError(
            f"high is {high.dtype} on {high.device} and low {low.dtype} on {low.device}: move both to one"
        )
    counts = (sum(layout[::2]), sum(layout[1::2]))
    if counts != (high.shape[1], low.shape[1]) or len(layout) % 2 or min(layout) < 0:
        raise InputError(
            f"channel_layout={layout} is not pairs of counts that add up to {high.shape[1]} high and "
            f"{low.shape[1]} low channels"
        )
