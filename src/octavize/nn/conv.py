"""Octave convolution: torch's convolutions with one more number.

An `OctConv2d` *is* a `Conv2d`: the same weight and bias, the same state dict, the same initialization.
`alpha` only sets how many output channels are low, and so where the weight is split. With W split into W_hh,
W_lh, W_hl and W_ll (source → target), P the 2×2 average and U nearest up-sampling, the paper's layer is

    Y_high = X_high * W_hh + U(X_low * W_lh)
    Y_low  = P(X_high) * W_hl + X_low * W_ll  =  [P(X_high), X_low] * W_low

The low output reads all channels at the low resolution. So it is one convolution with the rows W_low of the
weight, which need no split by source.

With stride 2 (official code) the inputs are pooled and the convolutions keep stride 1. X_low has the
resolution of Y_high already, so both outputs read all channels at one resolution:

    Y_high = P(X_high) * W_hh + X_low * W_lh            =  [P(X_high), X_low] * W_high
    Y_low  = P(P(X_high)) * W_hl + P(X_low) * W_ll      =  P([P(X_high), X_low]) * W_low

`downsample="stride"` replaces P(X_high) * W_hh by the strided convolution of X_high. Between plain maps a
layer is torch's own, strided; with `downsample="pool_always"` it is P(X) * W there. `exchange` can drop the
path of W_lh, of W_hl, or of both (the paper's Table 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.nn._torch_internals import ConvNd, in_transform
from octavize.nn.channels import merge_channels, split_channels
from octavize.nn.dispatch import check_seen, made_unseen
from octavize.nn.leaf import is_traced, recorded
from octavize.nn.own_padding import pads_by_itself
from octavize.nn.recompute import Made, call_keeping_sources, kept
from octavize.nn.resample import border, halve, pad_any, pool, upsample
from octavize.nn.tensor import OctTensor
from octavize.plans.geometry import Geometry, OctaveSettings
from octavize.split import (
    ChannelLayout,
    check_alpha,
    default_octave_dims,
    low_size,
    with_low_divisible,
)

CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
Size = int | tuple[int, ...]
_SETTINGS = ("alpha", "octave_dims", "strict", "downsample", "exchange")
_GEOMETRY = frozenset(field.name for field in fields(Geometry))


class OctConv(ConvNd):
    """What OctConv1d, OctConv2d and OctConv3d share: everything but torch's base class."""

    _settings: OctaveSettings
    _stale: bool  # whether the geometry was changed since

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        alpha: float = 0.5,
        octave_dims: int | None = None,
        strict: bool = False,
        downsample: str = "pool",
        exchange: str = "both",
    ) -> None:
        torch_layer: Any = super()
        geometry = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        torch_layer.__init__(*geometry, bias, padding_mode, device, dtype)
        self.become_octave(check_alpha(alpha), octave_dims, strict, downsample, exchange)

    def become_octave(
        self,
        alpha: float | None = None,
        octave_dims: int | None = None,
        strict: bool | None = None,
        downsample: str | None = None,
        exchange: str | None = None,
    ) -> None:
        """Check and set the octave settings of the layer, see `OctConv2d`.

        Args:
            alpha, octave_dims, strict, downsample, exchange: None keeps the layer's setting; a layer that
                had none gets the default of `OctConv2d`.
        """
        before = self.__dict__.get("_settings")
        settings = {name: getattr(before, name) for name in _SETTINGS if before is not None}
        given = zip(_SETTINGS, (alpha, octave_dims, strict, downsample, exchange), strict=True)
        settings |= {name: value for name, value in given if value is not None}
        self._settings, self._stale = OctaveSettings.of(geometry_of(self), **settings), False

    @property
    def octave(self) -> OctaveSettings:
        """What the layer has beyond torch's; made anew, and checked, after its geometry was changed.

        Raises:
            InputError: the changed geometry cannot keep the size of both halves.
        """
        if self._stale:
            self.become_octave()
        return self._settings

    def __setattr__(self, name: str, value: Any) -> None:
        """As torch's. A new stride, padding … counts from the next call on, and so does a new alpha."""
        if name in _SETTINGS:
            self.become_octave(**{name: value})
        else:
            super().__setattr__(name, value)
            if name in _GEOMETRY:
                self.__dict__["_stale"] = "_settings" in self.__dict__

    def kernel(self) -> Tensor:
        """The weight (C_out, C_in / groups, *kernel_size). Layers that compute their weight override it."""
        return self.weight

    def forward(self, input: OctTensor | Tensor) -> Any:
        """Convolve a map.

        Args:
            input: an OctTensor, high (N, C_high, *size) and low (N, C_low, *⌈size / 2⌉), in any layout with
                C_high + C_low = in_channels; or a plain (N, in_channels, *size), which is all high.

        Returns:
            An OctTensor, high (N, C_out − low_out, *⌈size / stride⌉) and low (N, low_out, half of that,
            rounded up). Without low output channels, a plain tensor. A depthwise layer keeps the layout of
            its input, whatever its alpha.

        Raises:
            InputError: the input's number of channels or of octave axes is not the layer's.
        """
        octave = self.octave
        if not isinstance(input, OctTensor):
            if is_traced(input):
                return recorded(self, input)
            if octave.depthwise or octave.out_layout[1] == 0:
                return (
                    self._plain(input) if octave.pools_plain else super().forward(input)
                )  # torch's own, bit for bit
            x = self._all_high(input)
        elif octave.keeps_size:
            x = self._checked(input)
        else:  # allowed at alpha=0: the halves have to merge before the layer
            return super().forward(self._checked(input).to_dense())
        return made_unseen(self._depthwise(x) if octave.depthwise else self._octave(x), input, self)

    # ---- the equations of the module's docstring ----------------------------------------------------

    def _plain(self, x: Tensor) -> Any:
        """Y = P(X) * W."""
        return self._convolve(self._pool_by_stride(kept(x)), self.kernel(), self.bias)

    def _octave(self, x: OctTensor) -> OctTensor | Tensor:
        settings, layout, bias = self._settings, self._settings.out_layout, self.bias
        if self.groups > 1:  # every path has all groups (official code)
            x = x.with_layout(with_low_divisible(x.channel_layout, self.groups))
        w_high, w_low = split_channels(self.kernel(), settings.weight_layout, settings.weight_dim)
        b_high, b_low = (None, None) if bias is None else split_channels(bias, layout)
        y_high = self._to_high(x, w_high, b_high) if layout[0] else None
        if y_high is not None and layout[1] == 0:
            return y_high
        return self._map(y_high, self._to_low(x, w_low, b_low), layout, x)

    def _to_high(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Y_high = X_high * W_hh + U(X_low * W_lh), where [W_hh, W_lh] is the weight."""
        exchanges = self._settings.exchanges("low_to_high", *x.counts)
        if exchanges and self._reads_both_for_high(x.high):
            return self._convolve(self._both(x), weight, bias)
        w_hh, w_lh = split_channels(weight, self._columns(x), dim=1)
        high, stride = self._high(x)
        y_high = self._convolve(high, w_hh, bias, stride)
        if not exchanges:
            return y_high
        from_low = self._convolve(kept(x.low), w_lh, bias if y_high is None else None)
        size = self._out_size(x.high.shape[2:]) if y_high is None else y_high.shape[2:]
        return add(y_high, from_low if from_low is None else upsample(from_low, size))

    def _reads_both_for_high(self, high: Tensor) -> bool:
        """Whether X_low has the resolution of Y_high, and one convolution is no slower than two.

        Measured: in training it is slower by a tenth where the maps are small and not channels-last.
        """
        if not self._settings.one_resolution or not torch.is_grad_enabled():
            return self._settings.one_resolution
        # torch.vmap cannot tell which layout its maps have.
        last = high.dim() == 4 and not in_transform()
        return last and high.is_contiguous(memory_format=torch.channels_last)

    def _to_low(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Y_low = P(X_high) * W_hl + X_low * W_ll, where [W_hl, W_ll] is the weight; a stride pools first."""
        exchanges = self._settings.exchanges("high_to_low", *x.counts)
        if exchanges and self.groups == 1:
            return self._convolve(self._pool_by_stride(self._both(x)), weight, bias)
        w_hl, w_ll = split_channels(weight, self._columns(x), dim=1)
        y_low = self._convolve(self._pool_by_stride(kept(x.low)), w_ll, bias)
        if not exchanges:
            return y_low
        high = self._pool_by_stride(self._pooled_high(x))
        return add(y_low, self._convolve(high, w_hl, bias if y_low is None else None))

    def _depthwise(self, x: OctTensor) -> OctTensor:
        """Y_high = X_high * W_hh, Y_low = X_low * W_ll: each channel keeps its frequency (official code)."""
        multiplier = self.out_channels // self.in_channels
        layout = tuple(count * multiplier for count in x.channel_layout)
        w_high, w_low = split_channels(self.kernel(), layout)
        b_high, b_low = (None, None) if self.bias is None else split_channels(self.bias, layout)
        high, stride = self._high(x)
        y_high = self._convolve(high, w_high, b_high, stride, groups=x.counts[0])
        y_low = self._convolve(self._pool_by_stride(kept(x.low)), w_low, b_low, groups=x.counts[1])
        return self._map(y_high, y_low, layout, x)

    def _convolve(
        self,
        x: Made,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int] | None = None,
        groups: int | None = None,
    ) -> Tensor | None:
        """x * W by torch's convolution; None if the input or the output has no channels.

        Args:
            stride: default: the layer's own along time, which is not halved, and 1 along the octave axes.
            groups: default: the layer's.
        """
        if x.value.shape[1] == 0 or weight.shape[0] == 0:
            return None
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = kept(pad_any(x.value, border(self), self.padding_mode)), 0
        settings = (stride or self._settings.stride, padding, self.dilation, groups or self.groups)
        return call_keeping_sources(CONV[len(self.kernel_size)], x, weight, bias, *settings)

    def _map(
        self, y_high: Tensor | None, y_low: Tensor | None, layout: ChannelLayout, x: OctTensor
    ) -> OctTensor:
        """The output map; a half without channels (None) becomes an empty tensor of the right size."""
        octave = self._settings
        if y_high is None:
            assert y_low is not None  # every layer has output channels
            y_high = y_low.new_empty((y_low.shape[0], 0, *self._out_size(x.high.shape[2:])))
        if y_low is None:
            size = low_size(self._out_size(x.high.shape[2:]), octave.octave_dims)
            y_low = y_high.new_empty((y_high.shape[0], 0, *size))
        return OctTensor.trusted(y_high, y_low, layout, octave.octave_dims, octave.strict or x.strict)

    def _columns(self, x: OctTensor) -> ChannelLayout:
        """Which columns of the weight read the high half, and which the low half."""
        if self.groups == 1:
            return x.channel_layout
        return x.counts[0] // self.groups, x.counts[1] // self.groups

    # ---- what the convolutions read: pooled maps, which backward recomputes -------------------------

    def _both(self, x: OctTensor) -> Made:
        """[P(X_high), X_low]: all channels at the low resolution."""
        merge = partial(_merge_at_low_resolution, layout=x.channel_layout, octave_dims=x.octave_dims)
        return Made(x.at_low_resolution(), merge, (x.high, x.low))

    def _pooled_high(self, x: OctTensor) -> Made:
        """P(X_high)."""
        return Made(x.pooled_high(), partial(halve, octave_dims=x.octave_dims), (x.high,))

    def _high(self, x: OctTensor) -> tuple[Made, Sequence[int] | None]:
        """The input of the high-to-high path and its stride: pooled, or with the layer's own stride."""
        settings = self._settings
        if not settings.strided or settings.downsample == "stride":
            return kept(x.high), self.stride
        return (self._pooled_high(x) if settings.halves else self._pool_by_stride(kept(x.high))), None

    def _pool_by_stride(self, x: Made) -> Made:
        """A map averaged over cells of the stride along the octave axes."""
        if not self._settings.strided:
            return x
        factors, make = self._settings.factors, x.make
        pooled = call_keeping_sources(pool, x, factors)
        return Made(pooled, lambda *sources: pool(make(*sources), factors), x.sources)

    def _out_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the high output: ⌈size / stride⌉ along the octave axes, torch's along the others."""
        reached = [-(-n // stride) for n, stride in zip(size, self.stride, strict=True)]
        if self.padding != "same":
            for axis in range(len(size) - self._settings.octave_dims):
                span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
                padded = size[axis] + 2 * (0 if self.padding == "valid" else int(self.padding[axis]))
                reached[axis] = (padded - span) // self.stride[axis] + 1
        return tuple(reached)

    # ---- properties, and checks of the input --------------------------------------------------------

    @property
    def alpha(self) -> float:
        """Share of low output channels; `become_octave` changes it."""
        return self.octave.alpha

    @property
    def octave_dims(self) -> int:
        """How many trailing axes are halved."""
        return self.octave.octave_dims

    @property
    def strict(self) -> bool:
        """Whether maps made by this layer refuse functions without an octave rule."""
        return self.octave.strict

    @property
    def downsample(self) -> str:
        """How a stride of 2 reduces the high half: `pool` or `stride`."""
        return self.octave.downsample

    @property
    def exchange(self) -> str:
        """Paths between the frequencies: `both`, `low_to_high`, `high_to_low` or `none`."""
        return self.octave.exchange

    def _all_high(self, x: Tensor) -> OctTensor:
        spatial = len(self.kernel_size)
        if x.dim() != spatial + 2 or x.shape[1] != self.in_channels:
            raise InputError(
                f"input has shape {tuple(x.shape)}, but this layer reads (N, {self.in_channels}, …) with "
                f"{spatial} spatial axes: {self}"
            )
        return OctTensor.all_high(x, octave_dims=self.octave_dims, strict=self.strict)

    def _checked(self, x: OctTensor) -> OctTensor:
        check_seen((x,))
        if sum(x.channel_layout) != self.in_channels or x.high.dim() != self._settings.map_dims:
            raise InputError(
                f"input has {x.high.shape[1]} high and {x.low.shape[1]} low channels (high "
                f"{tuple(x.high.shape)}, low {tuple(x.low.shape)}), but this layer reads in_channels="
                f"{self.in_channels}: {self}"
            )
        if x.octave_dims != self._settings.octave_dims:
            raise InputError(
                f"input is halved along {x.octave_dims} axes and this layer along octave_dims="
                f"{self.octave_dims}: give both the same"
            )
        return x

    def extra_repr(self) -> str:
        octave = f", alpha={self.alpha:g}"
        if self.octave_dims != default_octave_dims(len(self.kernel_size)):
            octave += f", octave_dims={self.octave_dims}"
        if self.downsample != "pool":
            octave += f", downsample={self.downsample!r}"
        if self.exchange != "both":
            octave += f", exchange={self.exchange!r}"
        return super().extra_repr() + octave


def _merge_at_low_resolution(high: Tensor, low: Tensor, layout: ChannelLayout, octave_dims: int) -> Tensor:
    return merge_channels(halve(high, octave_dims), low, layout)


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two paths, in place: no convolution needs its own output in backward."""
    return b if a is None else a if b is None else a.add_(b)


def geometry_of(conv: ConvNd) -> Geometry:
    """The geometry of one of torch's convolutions."""
    padding = conv.padding if isinstance(conv.padding, str) else tuple(int(n) for n in conv.padding)
    padding = "same" if pads_by_itself(conv) else padding
    return Geometry(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        padding,
        conv.dilation,
        conv.groups,
        conv.transposed,
        conv.output_padding,
    )


class OctConv1d(OctConv, nn.Conv1d):
    """Octave 1-D convolution: `torch.nn.Conv1d` with the keywords of `OctConv2d`."""


class OctConv2d(OctConv, nn.Conv2d):
    """Octave 2-D convolution (Chen et al. 2019, §3): `torch.nn.Conv2d` with the keyword `alpha`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype: those of `torch.nn.Conv2d`. The padding must keep the size.
        alpha: share of *output* channels that are low, in [0, 1]. The split of the input is read from the
            input. 0 is the vanilla layer.
        octave_dims: how many trailing axes are halved; all by default.
        strict: maps made by this layer refuse functions without an octave rule.
        downsample: how the path from high to high takes a stride of 2: `pool` averages first (official
            code), `stride` convolves with the layer's own stride, as the vanilla layer does. `pool_always`
            averages also where the layer reads and writes plain maps, as some published networks do.
        exchange: which paths exist between the frequencies: `both` (the paper), `low_to_high`,
            `high_to_low` or `none`. The weight keeps its shape; the part of a missing path is not used.
            Layers that read or write only one frequency keep their paths.

    Shapes:
        high (N, C_high, H, W) and low (N, C_low, ⌈H/2⌉, ⌈W/2⌉) to high (N, C_out − int(α·C_out), ⌈H/s⌉,
        ⌈W/s⌉) and low (N, int(α·C_out), half of that, rounded up). A plain (N, C_in, H, W) is all high. A
        grouped layer rounds low down to a multiple of its groups; a depthwise one keeps its input's split.

    Raises:
        InputError: alpha is outside [0, 1], or the geometry cannot keep the size of both halves.

    Examples:
        >>> layer = OctConv2d(64, 128, 3, padding=1, alpha=0.5)
        >>> layer(torch.randn(1, 64, 56, 56))
        OctTensor(shape=(1, 128, 56, 56), alpha=0.5, high=(1, 64, 56, 56), low=(1, 64, 28, 28), ...)
    """


class OctConv3d(OctConv, nn.Conv3d):
    """Octave 3-D convolution: `torch.nn.Conv3d` with the keywords of `OctConv2d`.

    By default height and width are halved and time is not (paper §4.4): low is (N, C_low, T, ⌈H/2⌉, ⌈W/2⌉).
    `octave_dims=3` halves time as well.
    """
