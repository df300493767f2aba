"""Octave convolution: Paddle's convolutions with one more number.

An `OctConv2D` *is* a `Conv2D`: the same weight and bias, the same state dict, the same initialization.
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

`downsample="stride"` replaces P(X_high) * W_hh by the strided convolution of X_high. `exchange` can drop the
path of W_lh, of W_hl, or of both (the paper's Table 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from octavize.errors import InputError
from octavize.paddle.channels import split_channels
from octavize.paddle.geometry import geometry_of
from octavize.paddle.resample import pad_any, pool, upsample
from octavize.paddle.tensor import OctTensor
from octavize.paddle.wrapping import enable
from octavize.plans.geometry import OctaveSettings, border
from octavize.split import ChannelLayout, check_alpha, default_octave_dims, with_low_divisible

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_SETTINGS = ("alpha", "octave_dims", "strict", "downsample", "exchange")


class OctConv(nn.Layer):
    """What the octave convolutions share: everything but Paddle's base class, which comes after it."""

    _settings: OctaveSettings
    weight: Tensor
    bias: Tensor  # None without one; Paddle declares it so

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.5,
        octave_dims: int | None = None,
        strict: bool = False,
        downsample: str = "pool",
        exchange: str = "both",
        **kwargs: Any,
    ) -> None:
        alpha = check_alpha(alpha)
        super().__init__(*args, **kwargs)
        self.become_octave(alpha, octave_dims, strict, downsample, exchange)

    def become_octave(
        self,
        alpha: float | None = None,
        octave_dims: int | None = None,
        strict: bool | None = None,
        downsample: str | None = None,
        exchange: str | None = None,
    ) -> None:
        """Check and set the octave settings of the layer, see `OctConv2D`.

        Args:
            alpha, octave_dims, strict, downsample, exchange: None keeps the layer's setting; a layer that
                had none gets the default of `OctConv2D`.
        """
        enable()
        before = self.__dict__.get("_settings")
        settings = {name: getattr(before, name) for name in _SETTINGS if before is not None}
        given = zip(_SETTINGS, (alpha, octave_dims, strict, downsample, exchange), strict=True)
        settings |= {name: value for name, value in given if value is not None}
        self.__dict__["_geometry"] = geometry_of(self)
        self.__dict__["_settings"] = OctaveSettings.of(self._geometry, **settings)

    def __setattr__(self, name: str, value: Any) -> None:
        """As Paddle's. A new alpha, exchange … counts from the next call on."""
        if name in _SETTINGS:
            self.become_octave(**{name: value})
        else:
            super().__setattr__(name, value)

    def kernel(self) -> Tensor:
        """The weight (C_out, C_in / groups, *kernel_size). Layers that compute their weight override it."""
        return self.weight

    def forward(self, x: OctTensor | Tensor) -> Any:
        """Convolve a map.

        Args:
            x: an OctTensor, high (N, C_high, *size) and low (N, C_low, *⌈size / 2⌉), in any layout with
                C_high + C_low = in_channels; or a plain (N, in_channels, *size), which is all high.

        Returns:
            An OctTensor, high (N, C_out − low_out, *⌈size / stride⌉) and low (N, low_out, half of that,
            rounded up). Without low output channels, a plain tensor. A depthwise layer keeps the layout of
            its input, whatever its alpha.

        Raises:
            InputError: the input's number of channels or of octave axes is not the layer's.
        """
        octave = self._settings
        if not isinstance(x, OctTensor):
            if octave.depthwise or octave.out_layout[1] == 0:
                return (
                    self._plain(x) if octave.pools_plain else super().forward(x)
                )  # Paddle's own, bit for bit
            x = self._all_high(x)
        elif octave.keeps_size:
            x = self._checked(x)
        else:  # allowed at alpha=0: the halves have to merge before the layer
            return super().forward(self._checked(x).to_dense())
        return self._depthwise(x) if octave.depthwise else self._octave(x)

    # ---- the equations of the module's docstring ----------------------------------------------------

    def _plain(self, x: Tensor) -> Any:
        """Y = P(X) * W."""
        return self._convolve(self._pool_by_stride(x), self.kernel(), self.bias)

    def _octave(self, x: OctTensor) -> OctTensor | Tensor:
        settings, layout = self._settings, self._settings.out_layout
        if self._geometry.groups > 1:  # every path has all groups (official code)
            x = x.with_layout(with_low_divisible(x.channel_layout, self._geometry.groups))
        w_high, w_low = self._weights(settings.weight_layout, settings.weight_dim)
        b_high, b_low = self._biases(layout)
        y_high = None if w_high is None else self._to_high(x, w_high, b_high)
        if w_low is None:
            assert y_high is not None  # every layer has output channels
            return y_high
        return self._map(y_high, self._to_low(x, w_low, b_low), layout, x)

    def _to_high(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Y_high = X_high * W_hh + U(X_low * W_lh), where [W_hh, W_lh] is the weight."""
        exchanges = self._settings.exchanges("low_to_high", *x.counts)
        if exchanges and self._settings.one_resolution:
            return self._convolve(x.at_low_resolution(), weight, bias)
        w_hh, w_lh = self._by_source(weight, x)
        high, stride = self._high(x)
        y_high = self._convolve(high, w_hh, bias, stride)
        if not exchanges:
            return y_high
        from_low = self._convolve(x.low, w_lh, bias if y_high is None else None)
        size = self._out_size(x.spatial_shape)
        return add(y_high, from_low if from_low is None else upsample(from_low, size))

    def _to_low(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Y_low = P(X_high) * W_hl + X_low * W_ll, where [W_hl, W_ll] is the weight; a stride pools first."""
        exchanges = self._settings.exchanges("high_to_low", *x.counts)
        if exchanges and self._geometry.groups == 1:
            return self._convolve(self._pool_by_stride(x.at_low_resolution()), weight, bias)
        w_hl, w_ll = self._by_source(weight, x)
        y_low = self._convolve(self._pool_by_stride(x.low), w_ll, bias)
        if not exchanges:
            return y_low
        high = self._pool_by_stride(x.pooled_high())
        return add(y_low, self._convolve(high, w_hl, bias if y_low is None else None))

    def _depthwise(self, x: OctTensor) -> OctTensor:
        """Y_high = X_high * W_hh, Y_low = X_low * W_ll: each channel keeps its frequency (official code)."""
        geometry = self._geometry
        multiplier = geometry.out_channels // geometry.in_channels
        layout = tuple(count * multiplier for count in x.channel_layout)
        w_high, w_low = self._weights(layout)
        b_high, b_low = self._biases(layout)
        high, stride = self._high(x)
        y_high = self._convolve(high, w_high, b_high, stride, groups=x.counts[0])
        y_low = self._convolve(self._pool_by_stride(x.low), w_low, b_low, groups=x.counts[1])
        return self._map(y_high, y_low, layout, x)

    def _convolve(
        self,
        x: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        stride: Sequence[int] | None = None,
        groups: int | None = None,
    ) -> Tensor | None:
        """x * W by Paddle's convolution; None if the input or the output has no channels.

        Args:
            stride: default: the layer's own along time, which is not halved, and 1 along the octave axes.
            groups: default: the layer's.
        """
        if x is None or weight is None:
            return None
        geometry, padding = self._geometry, self._geometry.padding
        if self._padding_mode != "zeros":
            pads = border(padding, geometry.kernel_size, geometry.dilation)
            x, padding = pad_any(x, pads, self._padding_mode), [0] * len(pads[::2])
        given = padding.upper() if isinstance(padding, str) else list(padding)
        settings = (given, list(geometry.dilation), groups or geometry.groups)
        return _CONV[x.ndim - 2](x, weight, bias, list(stride or self._settings.stride), *settings)

    def _map(
        self, y_high: Tensor | None, y_low: Tensor | None, layout: ChannelLayout, x: OctTensor
    ) -> OctTensor:
        """The output map."""
        octave, size = self._settings, self._out_size(x.spatial_shape)
        return OctTensor.trusted(y_high, y_low, size, layout, octave.octave_dims, octave.strict or x.strict)

    def _weights(self, layout: ChannelLayout, dim: int = 0) -> tuple[Any, Any]:
        """The parts of the weight that make the high and the low output."""
        return split_channels(self.kernel(), layout, dim)

    def _biases(self, layout: ChannelLayout) -> tuple[Any, Any]:
        """The parts of the bias likewise."""
        return (None, None) if self.bias is None else split_channels(self.bias, layout)

    def _by_source(self, weight: Any, x: OctTensor) -> tuple[Any, Any]:
        """The columns of a part of the weight that read the high and the low half."""
        return split_channels(weight, self._columns(x), dim=1)

    def _columns(self, x: OctTensor) -> ChannelLayout:
        """Which columns of the weight read the high half, and which the low half."""
        groups = self._geometry.groups
        return x.channel_layout if groups == 1 else (x.counts[0] // groups, x.counts[1] // groups)

    # ---- what the convolutions read -----------------------------------------------------------------

    def _high(self, x: OctTensor) -> tuple[Tensor | None, Sequence[int] | None]:
        """The input of the high-to-high path and its stride: pooled, or with the layer's own stride."""
        settings = self._settings
        if not settings.strided or settings.downsample == "stride":
            return x.high, self._geometry.stride
        return (x.pooled_high() if settings.halves else self._pool_by_stride(x.high)), None

    def _pool_by_stride(self, x: Tensor | None) -> Tensor | None:
        """A map averaged over cells of the stride along the octave axes."""
        return pool(x, self._settings.factors) if x is not None and self._settings.strided else x

    def _out_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the high output: ⌈size / stride⌉ along the octave axes, Paddle's along the others."""
        geometry = self._geometry
        reached = [-(-n // stride) for n, stride in zip(size, geometry.stride, strict=True)]
        if geometry.padding != "same":
            for axis in range(len(size) - self._settings.octave_dims):
                span = geometry.dilation[axis] * (geometry.kernel_size[axis] - 1) + 1
                pads = 0 if isinstance(geometry.padding, str) else geometry.padding[axis]
                reached[axis] = (size[axis] + 2 * pads - span) // geometry.stride[axis] + 1
        return tuple(reached)

    # ---- properties, and checks of the input --------------------------------------------------------

    @property
    def alpha(self) -> float:
        """Share of low output channels; `become_octave` changes it."""
        return self._settings.alpha

    @property
    def octave_dims(self) -> int:
        """How many trailing axes are halved."""
        return self._settings.octave_dims

    @property
    def strict(self) -> bool:
        """Whether maps made by this layer refuse functions without an octave rule."""
        return self._settings.strict

    @property
    def downsample(self) -> str:
        """How a stride of 2 reduces the high half: `pool` or `stride`."""
        return self._settings.downsample

    @property
    def exchange(self) -> str:
        """Paths between the frequencies: `both`, `low_to_high`, `high_to_low` or `none`."""
        return self._settings.exchange

    def _all_high(self, x: Tensor) -> OctTensor:
        geometry = self._geometry
        if x.ndim != self._settings.map_dims or x.shape[1] != geometry.in_channels:
            raise InputError(
                f"x has shape {tuple(x.shape)}, but this layer reads (N, {geometry.in_channels}, …) with "
                f"{len(geometry.kernel_size)} spatial axes: {self}"
            )
        return OctTensor.all_high(x, octave_dims=self.octave_dims, strict=self.strict)

    def _checked(self, x: OctTensor) -> OctTensor:
        in_channels = self._geometry.in_channels
        if sum(x.channel_layout) != in_channels or x.ndim != self._settings.map_dims:
            raise InputError(
                f"x has {x.counts[0]} high and {x.counts[1]} low channels of size {x.spatial_shape}, but "
                f"this layer reads in_channels={in_channels}: {self}"
            )
        if x.octave_dims != self._settings.octave_dims:
            raise InputError(
                f"x is halved along {x.octave_dims} axes and this layer along octave_dims="
                f"{self.octave_dims}: give both the same"
            )
        return x

    def extra_repr(self) -> str:
        octave = f", alpha={self.alpha:g}"
        if self.octave_dims != default_octave_dims(len(self._geometry.kernel_size)):
            octave += f", octave_dims={self.octave_dims}"
        if self.downsample != "pool":
            octave += f", downsample={self.downsample!r}"
        if self.exchange != "both":
            octave += f", exchange={self.exchange!r}"
        return super().extra_repr() + octave


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two paths, in place: no convolution needs its own output in backward."""
    if a is None or b is None:
        return b if a is None else a
    return a.add_(b) if paddle.in_dynamic_mode() else a + b


class OctConv1D(OctConv, nn.Conv1D):
    """Octave 1-D convolution: `paddle.nn.Conv1D` with the keywords of `OctConv2D`."""


class OctConv2D(OctConv, nn.Conv2D):
    """Octave 2-D convolution (Chen et al. 2019, §3): `paddle.nn.Conv2D` with the keyword `alpha`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, weight_attr,
            bias_attr, data_format: those of `paddle.nn.Conv2D`. The padding must keep the size, and channels
            come first.
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
        >>> layer = OctConv2D(64, 128, 3, padding=1, alpha=0.5)
        >>> layer(paddle.randn([1, 64, 56, 56]))
        OctTensor(shape=(1, 128, 56, 56), alpha=0.5, high=(1, 64, 56, 56), low=(1, 64, 28, 28), …)
    """


class OctConv3D(OctConv, nn.Conv3D):
    """Octave 3-D convolution: `paddle.nn.Conv3D` with the keywords of `OctConv2D`.

    By default height and width are halved and time is not (paper §4.4): low is (N, C_low, T, ⌈H/2⌉, ⌈W/2⌉).
    `octave_dims=3` halves time as well.
    """
