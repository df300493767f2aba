"""Octave convolution: torch's convolutions, with one more number.

An `OctConv2d` *is* a `Conv2d`: the same weight and bias, the same state dict, the same initialization.
`alpha` only says how many output channels are low, and so where the weight is cut. With W cut into W_hh,
W_hl, W_lh and W_ll (source → target), P the 2×2 average and U nearest up-sampling, the paper's layer is

    Y_high = X_high * W_hh + U(X_low * W_lh)
    Y_low  = X_low  * W_ll + P(X_high) * W_hl

With stride 2 (official code) the inputs are pooled and the convolutions keep stride 1:

    Y_high = P(X_high) * W_hh + X_low * W_lh          X_low has the resolution of Y_high already
    Y_low  = P(X_low)  * W_ll + P(P(X_high)) * W_hl

`downsample="stride"` replaces P(X_high) * W_hh by the strided convolution of X_high. `exchange` leaves out
the path of W_lh, of W_hl, or both (the paper's Table 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.geometry import Geometry, check_downsample, check_exchange
from octavize.nn._torch_internals import ConvNd
from octavize.nn.channels import cut
from octavize.nn.recompute import made_again
from octavize.nn.resample import border, halve, pad_any, pool, upsample
from octavize.nn.tensor import OctTensor
from octavize.split import check_alpha, default_octave_dims, low_channels, low_size, with_low_divisible

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class OctConv(ConvNd):
    """What OctConv1d, OctConv2d and OctConv3d share: everything but the name of torch's layer."""

    alpha: float
    octave_dims: int
    strict: bool
    downsample: str
    exchange: str
    keeps_size: bool

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
        super().__init__(*args, **kwargs)
        self.become_octave(alpha, octave_dims, strict, downsample, exchange)

    def become_octave(
        self,
        alpha: float,
        octave_dims: int | None = None,
        strict: bool = False,
        downsample: str = "pool",
        exchange: str = "both",
    ) -> None:
        """Check and set what an octave layer has beyond torch's."""
        spatial = len(self.kernel_size)
        self.alpha = check_alpha(alpha)
        self.octave_dims = default_octave_dims(spatial) if octave_dims is None else octave_dims
        self.strict = strict
        if not 1 <= self.octave_dims <= spatial:
            raise InputError(
                f"octave_dims={octave_dims}: a {spatial}-D layer has 1 to {spatial} axes to halve"
            )
        self.downsample = check_downsample(downsample)
        self.exchange = check_exchange(exchange)
        problem = geometry_of(self).problem(self.octave_dims)
        if problem is not None and self.alpha > 0:
            raise InputError(problem)
        self.keeps_size = problem is None

    @property
    def depthwise(self) -> bool:
        return is_depthwise(self)

    @property
    def low_out(self) -> int:
        """Number of low output channels."""
        return low_channels(self.out_channels, self.alpha, self.groups)

    def kernel(self) -> Tensor:
        """The weight (C_out, C_in / groups, *kernel_size) to cut. Layers that compute theirs override it."""
        return self.weight

    def forward(self, input: OctTensor | Tensor) -> Any:
        """Convolve a map.

        Args:
            input: an OctTensor, high (N, C_high, *size) and low (N, C_low, *⌈size / 2⌉), in any split with
                C_high + C_low = in_channels; or a plain (N, in_channels, *size), which is all high.

        Returns:
            An OctTensor, high (N, C_out − low_out, *⌈size / stride⌉) and low (N, low_out, half of that,
            rounded up). With no low output channel, a plain tensor. A depthwise layer keeps the split of its
            input, whatever its alpha.

        Raises:
            InputError: the number of channels, or of octave axes, is not the layer's.
        """
        if isinstance(input, OctTensor):
            self._check_input(input)
            if not self.keeps_size:  # allowed at alpha=0, where the halves have to meet before the layer
                return super().forward(input.to_dense())
        elif self.depthwise or self.low_out == 0:
            return super().forward(input)  # the vanilla layer, bit for bit
        x = input if isinstance(input, OctTensor) else self._all_high(input)
        return self._depthwise(x) if self.depthwise else self._octave(x)

    def _octave(self, x: OctTensor) -> OctTensor | Tensor:
        """The four paths of the module's docstring."""
        columns = x.runs
        if self.groups > 1:  # every path is a convolution in the same number of groups (official code)
            x = x.with_runs(with_low_divisible(x.runs, self.groups))
            columns = (x.high.shape[1] // self.groups, x.low.shape[1] // self.groups)
        rows = (self.out_channels - self.low_out, self.low_out)
        to_high, to_low = cut(self.kernel(), rows)
        (w_hh, w_lh), (w_hl, w_ll) = cut(to_high, columns, dim=1), cut(to_low, columns, dim=1)
        b_high, b_low = (None, None) if self.bias is None else cut(self.bias, rows)

        size = self._out_size(x.high.shape[2:])
        halves = (x.high.shape[1], x.low.shape[1])
        low_to_high = [(x.low, w_lh)] if self.exchanges("low_to_high", *halves) else []
        high_to_high = self._high_to_high(x, w_hh)
        crosses = self.low_out > 0 and self.exchanges("high_to_low", *halves)
        high = self._pooled_high(x) if crosses and self.downsample == "stride" else high_to_high[0]
        low = self._pool_by_stride(x.low) if self.low_out else x.low
        with self._pooled_again((high, x.high), (low, x.low)):
            y_high = self._sum_paths(size, b_high, high_to_high, *low_to_high)
            if self.low_out == 0:
                return y_high
            low_paths, pooled = [(low, w_ll)], high
            if crosses:
                pooled = x.pooled_high() if high is x.high else halve(high, self.octave_dims)
                low_paths.append((pooled, w_hl))
            with made_again(partial(halve, octave_dims=self.octave_dims), (pooled, high)):
                y_low = self._sum_paths(low_size(size, self.octave_dims), b_low, *low_paths)
        return OctTensor(y_high, y_low, octave_dims=self.octave_dims, strict=self.strict or x.strict)

    def _depthwise(self, x: OctTensor) -> OctTensor:
        """The two paths within a frequency: each channel keeps its own (official code)."""
        multiplier = self.out_channels // self.in_channels
        runs = tuple(count * multiplier for count in x.runs)
        w_high, w_low = cut(self.kernel(), runs)
        b_high, b_low = (None, None) if self.bias is None else cut(self.bias, runs)
        size = self._out_size(x.high.shape[2:])
        half_size = low_size(size, self.octave_dims)
        high, low = self._high_to_high(x, w_high), self._pool_by_stride(x.low)
        with self._pooled_again((high[0], x.high), (low, x.low)):
            y_high = self._sum_paths(size, b_high, high, groups=x.high.shape[1])
            y_low = self._sum_paths(half_size, b_low, (low, w_low), groups=x.low.shape[1])
        strict = self.strict or x.strict
        return OctTensor(y_high, y_low, octave_dims=self.octave_dims, strict=strict, runs=runs)

    def _sum_paths(
        self, size: Sequence[int], bias: Tensor | None, *paths: Path, groups: int | None = None
    ) -> Tensor:
        """Sum of the convolutions of (half, weight), each brought to `size`; paths without channels add 0."""
        total: Tensor | None = None
        for half, weight, *stride in paths:
            if half.shape[1] == 0 or weight.shape[0] == 0:
                continue
            y = upsample(self._convolve(half, weight, bias, groups or self.groups, *stride), size)
            bias = None  # once a sum
            total = y if total is None else total.add_(y)  # in place: no convolution needs its own output
        if total is None:
            half, weight = paths[0][:2]
            return half.new_empty((half.shape[0], weight.shape[0], *size))
        return total

    def _convolve(
        self,
        half: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        groups: int,
        stride: Sequence[int] | None = None,
    ) -> Tensor:
        """torch's convolution, by default with stride only along the axes that are not halved (time)."""
        spatial = len(self.kernel_size)
        padding = self.padding
        if self.padding_mode != "zeros":
            half = pad_any(half, border(self), self.padding_mode)
            padding = 0
        stride = stride or (*self.stride[: spatial - self.octave_dims], *[1] * self.octave_dims)
        return _CONV[spatial](half, weight, bias, stride, padding, self.dilation, groups)

    def exchanges(self, path: str, high_in: int, low_in: int) -> bool:
        """Whether the layer has this path, `low_to_high` or `high_to_low`, for so many channels of input."""
        counts = (high_in, low_in, self.out_channels - self.low_out, self.low_out)
        # Where the layer splits or merges, a half would be lost without it.
        return self.exchange in ("both", path) or 0 in counts

    # ---- how a stride along the octave axes is taken ------------------------------------------------

    def _high_to_high(self, x: OctTensor, weight: Tensor) -> Path:
        """The path within the high frequency: pooled first, or with the layer's own stride."""
        if self.downsample == "stride":
            return x.high, weight, self.stride
        return self._pooled_high(x), weight

    def _pooled_high(self, x: OctTensor) -> Tensor:
        whole_octave = all(factor == 2 for factor in self.stride[-self.octave_dims :])
        return x.pooled_high() if whole_octave else self._pool_by_stride(x.high)

    def _pool_by_stride(self, half: Tensor) -> Tensor:
        """A half averaged by the stride along the octave axes."""
        return pool(half, self._factors())

    def _pooled_again(self, *pairs: tuple[Tensor, Tensor]) -> Any:
        """Backward pools again what `_pool_by_stride` made: pairs of what it gave and what it read."""
        return made_again(partial(pool, factors=self._factors()), *pairs)

    def _factors(self) -> tuple[int, ...]:
        """The stride along the octave axes, and 1 along the others."""
        return (*[1] * (len(self.kernel_size) - self.octave_dims), *self.stride[-self.octave_dims :])

    def _out_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the high output: ⌈size / stride⌉ along the octave axes, torch's along the others."""
        reached = [-(-n // stride) for n, stride in zip(size, self.stride, strict=True)]
        if self.padding != "same":
            for axis in range(len(size) - self.octave_dims):
                span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
                padded = size[axis] + 2 * (0 if self.padding == "valid" else int(self.padding[axis]))
                reached[axis] = (padded - span) // self.stride[axis] + 1
        return tuple(reached)

    # ---- what the layer accepts ---------------------------------------------------------------------

    def _all_high(self, x: Tensor) -> OctTensor:
        spatial = len(self.kernel_size)
        if x.dim() != spatial + 2 or x.shape[1] != self.in_channels:
            raise InputError(
                f"input has shape {tuple(x.shape)}, but this layer reads (N, {self.in_channels}, …) with "
                f"{spatial} spatial axes: {self}"
            )
        return OctTensor.all_high(x, octave_dims=self.octave_dims, strict=self.strict)

    def _check_input(self, x: OctTensor) -> None:
        if x.shape[1] != self.in_channels or x.dim() != len(self.kernel_size) + 2:
            raise InputError(
                f"input has {x.high.shape[1]} high and {x.low.shape[1]} low channels (high "
                f"{tuple(x.high.shape)}, low {tuple(x.low.shape)}), but this layer reads in_channels="
                f"{self.in_channels}: {self}"
            )
        if x.octave_dims != self.octave_dims:
            raise InputError(
                f"input is halved along {x.octave_dims} axes and this layer along octave_dims="
                f"{self.octave_dims}: give both the same"
            )

    def extra_repr(self) -> str:
        octave = f", alpha={self.alpha:g}"
        if self.octave_dims != default_octave_dims(len(self.kernel_size)):
            octave += f", octave_dims={self.octave_dims}"
        if self.downsample != "pool":
            octave += f", downsample={self.downsample!r}"
        if self.exchange != "both":
            octave += f", exchange={self.exchange!r}"
        return super().extra_repr() + octave


Path = tuple[Any, ...]  # (half, weight) or (half, weight, stride)


def is_depthwise(layer: Any) -> bool:
    """Whether every output channel of a convolution reads one input channel."""
    return layer.groups == layer.in_channels > 1


def geometry_of(conv: ConvNd) -> Geometry:
    """The numbers of one of torch's convolutions."""
    padding = conv.padding if isinstance(conv.padding, str) else tuple(int(n) for n in conv.padding)
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
    """Octave 1-D convolution: `torch.nn.Conv1d` and the keywords of `OctConv2d`."""


class OctConv2d(OctConv, nn.Conv2d):
    """Octave 2-D convolution (Chen et al. 2019, §3): `torch.nn.Conv2d` with the keyword `alpha`.

    Args:
        *args, **kwargs: those of `torch.nn.Conv2d`, in its order. The padding must keep the size.
        alpha: share of *output* channels that are low, in [0, 1]. The split of the input is read from the
            input. 0 is the vanilla layer.
        octave_dims: how many trailing axes are halved; all by default.
        strict: maps made by this layer refuse functions without an octave rule.
        downsample: how the high half is brought to the high output by a stride of 2: `pool` averages first
            (official code), `stride` convolves with the layer's own stride, as the vanilla layer does.
        exchange: which paths between the frequencies there are: `both` (the paper), `low_to_high`,
            `high_to_low` or `none`. The weight keeps its shape; the part of a path that is left out is not
            used. Layers that read or write only one frequency keep their paths.

    Shapes:
        high (N, C_high, H, W) and low (N, C_low, ⌈H/2⌉, ⌈W/2⌉) to high (N, C_out − int(α·C_out), ⌈H/s⌉,
        ⌈W/s⌉) and low (N, int(α·C_out), half of that, rounded up). A plain (N, C_in, H, W) is all high. In
        groups, the low count is rounded down to a multiple of them; depthwise, the split stays the input's.

    Raises:
        InputError: alpha outside [0, 1], or a geometry that cannot keep the size of both halves.

    Example:
        >>> layer = OctConv2d(64, 128, 3, padding=1, alpha=0.5)
        >>> layer(torch.randn(1, 64, 56, 56))
        OctTensor(shape=(1, 128, 56, 56), alpha=0.5, high=(1, 64, 56, 56), low=(1, 64, 28, 28), …)
    """


class OctConv3d(OctConv, nn.Conv3d):
    """Octave 3-D convolution: `torch.nn.Conv3d` and the keywords of `OctConv2d`.

    By default height and width are halved and time is not (paper §4.4): low is (N, C_low, T, ⌈H/2⌉, ⌈W/2⌉).
    `octave_dims=3` halves time as well.
    """
