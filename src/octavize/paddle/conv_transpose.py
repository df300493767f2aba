"""Transposed octave convolution, for decoders: Paddle's transposed convolutions with alpha.

Its paths are those of `conv.py`, each a transposed convolution T with the layer's own stride:

    Y_high = T_hh(X_high) + U(T_lh(X_low))
    Y_low  = T_hl(P(X_high)) + T_ll(X_low)  =  T_low([P(X_high), X_low])

The output of a path is cropped where a size is odd: there the low half is a little more than half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from octavize.errors import InputError
from octavize.paddle.channels import split_channels
from octavize.paddle.conv import OctConv, add
from octavize.paddle.resample import upsample
from octavize.paddle.sizes import crop
from octavize.paddle.tensor import OctTensor
from octavize.split import low_size

_CONV: dict[int, Callable[..., Tensor]] = {
    1: F.conv1d_transpose,
    2: F.conv2d_transpose,
    3: F.conv3d_transpose,
}


class OctConvTranspose(OctConv):
    """What the three transposed octave convolutions share. Their weight is (C_in, C_out / groups, …)."""

    def forward(self, x: OctTensor | Tensor, output_size: Any = None) -> Any:
        """Convolve a map.

        Args:
            x: an OctTensor, high (N, C_high, *size) and low (N, C_low, *⌈size / 2⌉), in any layout with
                C_high + C_low = in_channels; or a plain (N, in_channels, *size), which is all high.
            output_size: as in Paddle; it has to be stride · size.

        Returns:
            An OctTensor, high (N, C_out − low_out, *stride · size) and low (N, low_out, half of that, rounded
            up). Without low output channels, a plain tensor. A depthwise layer keeps its input's layout.

        Raises:
            InputError: the number of channels or of octave axes, or the output size, does not fit.
        """
        octave = self._settings
        paddle_layer: Any = super(OctConv, self)
        if isinstance(x, OctTensor):
            x = self._checked(x)
            if not octave.keeps_size:
                return paddle_layer.forward(x.to_dense(), output_size)
        elif octave.depthwise or octave.out_layout[1] == 0:
            return paddle_layer.forward(x, output_size)
        else:
            x = self._all_high(x)
        size = self._out_size(x.spatial_shape)
        if output_size is not None:
            asked = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * len(size)
            if asked != size:
                raise InputError(f"output_size={asked}: this octave layer makes {size}")
        return self._depthwise(x) if octave.depthwise else self._octave(x)

    def _to_high(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Y_high = T_hh(X_high) + U(T_lh(X_low)), where [W_hh; W_lh] is the weight."""
        w_hh, w_lh = split_channels(weight, x.channel_layout)
        size = self._out_size(x.spatial_shape)
        y_high = self._transposed(x.high, w_hh, bias, size)
        if not self._settings.exchanges("low_to_high", *x.counts):
            return y_high
        half_size = low_size(size, self._settings.octave_dims)
        from_low = self._transposed(x.low, w_lh, bias if y_high is None else None, half_size)
        return add(y_high, from_low if from_low is None else upsample(from_low, size))

    def _to_low(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Y_low = T_hl(P(X_high)) + T_ll(X_low), where [W_hl; W_ll] is the weight."""
        half_size = low_size(self._out_size(x.spatial_shape), self._settings.octave_dims)
        exchanges = self._settings.exchanges("high_to_low", *x.counts)
        if exchanges and self._geometry.groups == 1:
            return self._transposed(x.at_low_resolution(), weight, bias, half_size)
        w_hl, w_ll = split_channels(weight, x.channel_layout)
        y_low = self._transposed(x.low, w_ll, bias, half_size)
        if not exchanges:
            return y_low
        no_bias_yet = bias if y_low is None else None
        return add(y_low, self._transposed(x.pooled_high(), w_hl, no_bias_yet, half_size))

    def _depthwise(self, x: OctTensor) -> OctTensor:
        multiplier = self._geometry.out_channels // self._geometry.in_channels
        layout = tuple(count * multiplier for count in x.channel_layout)
        weights = split_channels(self.kernel(), x.channel_layout)
        biases = self._biases(layout)
        size = self._out_size(x.spatial_shape)
        y_high = self._transposed(x.high, weights[0], biases[0], size, x.counts[0])
        half_size = low_size(size, self._settings.octave_dims)
        y_low = self._transposed(x.low, weights[1], biases[1], half_size, x.counts[1])
        return self._map(y_high, y_low, layout, x)

    def _transposed(
        self,
        x: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        size: Sequence[int],
        groups: int | None = None,
    ) -> Tensor | None:
        """T(x), cropped to `size`; None if the input or the output has no channels."""
        if x is None or weight is None:
            return None
        geometry = self._geometry
        y = _CONV[len(size)](
            x,
            weight,
            bias,
            stride=list(geometry.stride),
            padding=[int(n) for n in geometry.padding],
            output_padding=list(geometry.output_padding),
            dilation=list(geometry.dilation),
            groups=groups or geometry.groups,
        )
        return crop(y, size)

    def _out_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the high output: stride · size along the octave axes, Paddle's along the others."""
        g = self._geometry
        axes = zip(size, g.stride, g.padding, g.dilation, g.kernel_size, g.output_padding, strict=True)
        return tuple((n - 1) * s - 2 * int(p) + d * (k - 1) + o + 1 for n, s, p, d, k, o in axes)


class OctConv1DTranspose(OctConvTranspose, nn.Conv1DTranspose):
    """Transposed octave 1-D convolution: `paddle.nn.Conv1DTranspose` with the keywords of `OctConv2D`."""


class OctConv2DTranspose(OctConvTranspose, nn.Conv2DTranspose):
    """Transposed octave 2-D convolution: `paddle.nn.Conv2DTranspose` with the keywords of `OctConv2D`.

    Shapes:
        high (N, C_high, H, W) and low (N, C_low, ⌈H/2⌉, ⌈W/2⌉) to high (N, C_out − int(α·C_out), sH, sW) and
        low (N, int(α·C_out), half of that, rounded up).
    """


class OctConv3DTranspose(OctConvTranspose, nn.Conv3DTranspose):
    """Transposed octave 3-D convolution; time is not halved, as in `OctConv3D`."""
