"""Transposed octave convolution, for decoders: torch's transposed convolutions with alpha.

Its paths are those of `conv.py`, each a transposed convolution T with the layer's own stride:

    Y_high = T_hh(X_high) + U(T_lh(X_low))
    Y_low  = T_hl(P(X_high)) + T_ll(X_low)  =  T_low([P(X_high), X_low])

The output of a path is cropped where a size is odd: there the low half is a little more than half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.nn.channels import split_channels
from octavize.nn.conv import OctConv, Size, add
from octavize.nn.dispatch import made_unseen
from octavize.nn.leaf import is_traced, recorded
from octavize.nn.recompute import Made, call_keeping_sources, kept
from octavize.nn.resample import crop, upsample
from octavize.nn.tensor import OctTensor
from octavize.split import check_alpha, low_size

_CONV = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class OctConvTranspose(OctConv):
    """What the three transposed octave convolutions share. Their weight is (C_in, C_out / groups, …)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
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
        torch_layer: Any = super(OctConv, self)  # torch's transposed layer comes after OctConv
        geometry = (in_channels, out_channels, kernel_size, stride, padding, output_padding, groups)
        torch_layer.__init__(*geometry, bias, dilation, padding_mode, device, dtype)
        self.become_octave(check_alpha(alpha), octave_dims, strict, downsample, exchange)

    def forward(self, input: OctTensor | Tensor, output_size: Sequence[int] | None = None) -> Any:
        """Convolve a map.

        Args:
            input: an OctTensor, high (N, C_high, *size) and low (N, C_low, *⌈size / 2⌉), in any layout with
                C_high + C_low = in_channels; or a plain (N, in_channels, *size), which is all high.
            output_size: as in torch; it has to be stride · size.

        Returns:
            An OctTensor, high (N, C_out − low_out, *stride · size) and low (N, low_out, half of that, rounded
            up). Without low output channels, a plain tensor. A depthwise layer keeps its input's layout.

        Raises:
            InputError: the number of channels or of octave axes, or the output size, does not fit.
        """
        octave = self.octave
        torch_layer: Any = super(OctConv, self)
        if isinstance(input, OctTensor):
            x = self._checked(input)
            if not octave.keeps_size:
                return torch_layer.forward(x.to_dense(), output_size)
        elif is_traced(input):
            return recorded(self, input, output_size)
        elif octave.depthwise or octave.out_layout[1] == 0:
            return torch_layer.forward(input, output_size)
        else:
            x = self._all_high(input)
        size = self._out_size(x.high.shape[2:])
        if output_size is not None and tuple(output_size)[-len(size) :] != size:
            raise InputError(f"output_size={tuple(output_size)}: this octave layer makes {size}")
        return made_unseen(self._depthwise(x) if octave.depthwise else self._octave(x), input, self)

    def _to_high(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Y_high = T_hh(X_high) + U(T_lh(X_low)), where [W_hh; W_lh] is the weight."""
        w_hh, w_lh = split_channels(weight, x.channel_layout)
        size = self._out_size(x.high.shape[2:])
        half_size = low_size(size, self.octave.octave_dims)
        y_high = self._transposed(kept(x.high), w_hh, bias, size)
        if not self.octave.exchanges("low_to_high", *x.counts):
            return y_high
        from_low = self._transposed(kept(x.low), w_lh, bias if y_high is None else None, half_size)
        return add(y_high, from_low if from_low is None else upsample(from_low, size))

    def _to_low(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Y_low = T_hl(P(X_high)) + T_ll(X_low), where [W_hl; W_ll] is the weight."""
        half_size = low_size(self._out_size(x.high.shape[2:]), self.octave.octave_dims)
        exchanges = self.octave.exchanges("high_to_low", *x.counts)
        if exchanges and self.groups == 1:
            return self._transposed(self._both(x), weight, bias, half_size)
        w_hl, w_ll = split_channels(weight, x.channel_layout)
        y_low = self._transposed(kept(x.low), w_ll, bias, half_size)
        if not exchanges:
            return y_low
        no_bias_yet = bias if y_low is None else None
        return add(y_low, self._transposed(self._pooled_high(x), w_hl, no_bias_yet, half_size))

    def _depthwise(self, x: OctTensor) -> OctTensor:
        multiplier = self.out_channels // self.in_channels
        layout = tuple(count * multiplier for count in x.channel_layout)
        w_high, w_low = split_channels(self.kernel(), x.channel_layout)
        b_high, b_low = (None, None) if self.bias is None else split_channels(self.bias, layout)
        size = self._out_size(x.high.shape[2:])
        y_high = self._transposed(kept(x.high), w_high, b_high, size, x.counts[0])
        half_size = low_size(size, self.octave.octave_dims)
        y_low = self._transposed(kept(x.low), w_low, b_low, half_size, x.counts[1])
        return self._map(y_high, y_low, layout, x)

    def _transposed(
        self, x: Made, weight: Tensor, bias: Tensor | None, size: Sequence[int], groups: int | None = None
    ) -> Tensor | None:
        """T(x), cropped to `size`; None if the input or the output has no channels."""
        if x.value.shape[1] == 0 or weight.shape[1] == 0:
            return None
        settings: Any = (self.stride, self.padding, self.output_padding, groups or self.groups, self.dilation)
        return crop(call_keeping_sources(_CONV[len(size)], x, weight, bias, *settings), size)

    def _out_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the high output: stride · size along the octave axes, torch's along the others."""
        settings = (self.stride, self.padding, self.dilation, self.kernel_size, self.output_padding)
        axes = zip(size, *settings, strict=True)
        return tuple((n - 1) * s - 2 * int(p) + d * (k - 1) + o + 1 for n, s, p, d, k, o in axes)


class OctConvTranspose1d(OctConvTranspose, nn.ConvTranspose1d):
    """Transposed octave 1-D convolution: `torch.nn.ConvTranspose1d` with the keywords of `OctConv2d`."""


class OctConvTranspose2d(OctConvTranspose, nn.ConvTranspose2d):
    """Transposed octave 2-D convolution: `torch.nn.ConvTranspose2d` with the keywords of `OctConv2d`.

    Shapes:
        high (N, C_high, H, W) and low (N, C_low, ⌈H/2⌉, ⌈W/2⌉) to high (N, C_out − int(α·C_out), sH, sW) and
        low (N, int(α·C_out), half of that, rounded up).
    """


class OctConvTranspose3d(OctConvTranspose, nn.ConvTranspose3d):
    """Transposed octave 3-D convolution; time is not halved, as in `OctConv3d`."""
