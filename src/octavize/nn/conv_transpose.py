"""Transposed octave convolution, for decoders: torch's transposed convolutions, with alpha.

Its four paths are those of `conv.py`, each a transposed convolution T with the layer's own stride:

    Y_high = T_hh(X_high) + U(T_lh(X_low))
    Y_low  = T_ll(X_low)  + T_hl(P(X_high))

A path from a half of odd size is cropped: its low half is a little more than half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.nn.channels import cut
from octavize.nn.conv import OctConv, Path
from octavize.nn.resample import upsample
from octavize.nn.tensor import OctTensor
from octavize.split import low_size, with_low_divisible

_CONV: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


class OctConvTranspose(OctConv):
    """What the three transposed octave convolutions share. Their weight is (C_in, C_out / groups, …)."""

    def forward(self, input: OctTensor | Tensor, output_size: Sequence[int] | None = None) -> Any:
        """Convolve a map.

        Args:
            input: an OctTensor, high (N, C_high, *size) and low (N, C_low, *⌈size / 2⌉), in any split with
                C_high + C_low = in_channels; or a plain (N, in_channels, *size), which is all high.
            output_size: as torch's; it has to be stride · size.

        Returns:
            An OctTensor, high (N, C_out − low_out, *stride · size) and low (N, low_out, half of that, rounded
            up). With no low output channel, a plain tensor. A depthwise layer keeps the split of its input.

        Raises:
            InputError: the number of channels, of octave axes, or the output size is not the layer's.
        """
        if isinstance(input, OctTensor):
            self._check_input(input)
        if not isinstance(input, OctTensor) or not self.keeps_size:
            if self.depthwise or self.low_out == 0:
                dense = input.to_dense() if isinstance(input, OctTensor) else input
                return self._torch_forward(dense, output_size)
            input = self._all_high(input) if isinstance(input, Tensor) else input
        size = self._out_size(input.high.shape[2:])
        if output_size is not None and tuple(output_size)[-len(size) :] != size:
            raise InputError(f"output_size={tuple(output_size)}: this octave layer makes {size}")
        return self._depthwise(input) if self.depthwise else self._octave(input)

    def _torch_forward(self, x: Tensor, output_size: Sequence[int] | None) -> Tensor:
        torch_layer: Any = super(OctConv, self)  # torch's own transposed layer comes after OctConv
        return torch_layer.forward(x, output_size)

    def _octave(self, x: OctTensor) -> OctTensor | Tensor:
        inputs = x.runs
        outputs = (self.out_channels - self.low_out, self.low_out)
        of_group = outputs
        if self.groups > 1:  # as in an ordinary grouped layer, every path has all groups
            x = x.with_runs(with_low_divisible(x.runs, self.groups))
            inputs = (x.high.shape[1], x.low.shape[1])
            of_group = (outputs[0] // self.groups, outputs[1] // self.groups)
        from_high, from_low = cut(self.kernel(), inputs)
        (w_hh, w_hl), (w_lh, w_ll) = cut(from_high, of_group, dim=1), cut(from_low, of_group, dim=1)
        b_high, b_low = (None, None) if self.bias is None else cut(self.bias, outputs)

        size = self._out_size(x.high.shape[2:])
        half_size = low_size(size, self.octave_dims)
        halves = (x.high.shape[1], x.low.shape[1])
        low_to_high = [(x.low, w_lh, half_size)] if self.exchanges("low_to_high", *halves) else []
        y_high = self._sum_transposed(size, b_high, (x.high, w_hh, size), *low_to_high)
        if self.low_out == 0:
            return y_high
        paths = [(x.low, w_ll, half_size)]
        if self.exchanges("high_to_low", *halves):
            paths.append((x.pooled_high(), w_hl, half_size))
        y_low = self._sum_transposed(half_size, b_low, *paths)
        return OctTensor(y_high, y_low, octave_dims=self.octave_dims, strict=self.strict or x.strict)

    def _depthwise(self, x: OctTensor) -> OctTensor:
        runs = tuple(count * (self.out_channels // self.in_channels) for count in x.runs)
        w_high, w_low = cut(self.kernel(), x.runs)
        b_high, b_low = (None, None) if self.bias is None else cut(self.bias, runs)
        size = self._out_size(x.high.shape[2:])
        y_high = self._sum_transposed(size, b_high, (x.high, w_high, size), groups=x.high.shape[1])
        half = low_size(size, self.octave_dims)
        y_low = self._sum_transposed(half, b_low, (x.low, w_low, half), groups=x.low.shape[1])
        strict = self.strict or x.strict
        return OctTensor(y_high, y_low, octave_dims=self.octave_dims, strict=strict, runs=runs)

    def _sum_transposed(
        self, size: Sequence[int], bias: Tensor | None, *paths: Path, groups: int | None = None
    ) -> Tensor:
        """Sum of T of (half, weight, reach), cropped to their reach and brought to `size`.

        Paths without channels add 0. They are left out, so that under autocast the sum has its dtype.
        """
        groups = self.groups if groups is None else groups
        total: Tensor | None = None
        for half, weight, reach in paths:
            if half.shape[1] == 0 or weight.shape[1] == 0:
                continue
            spatial: Any = (self.stride, self.padding, self.output_padding)
            y = _CONV[len(size)](half, weight, bias, *spatial, groups, self.dilation)
            y = upsample(y[(..., *(slice(n) for n in reach))], size)
            bias = None  # once a sum
            total = y if total is None else total + y
        if total is None:
            half, weight, _ = paths[0]
            return half.new_empty((half.shape[0], weight.shape[1] * groups, *size))
        return total

    def _out_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the high output: stride · size along the octave axes, torch's along the others."""
        return tuple(
            (n - 1) * s - 2 * int(p) + d * (k - 1) + o + 1
            for n, s, p, d, k, o in zip(
                size,
                self.stride,
                self.padding,
                self.dilation,
                self.kernel_size,
                self.output_padding,
                strict=True,
            )
        )


class OctConvTranspose1d(OctConvTranspose, nn.ConvTranspose1d):
    """Transposed octave 1-D convolution: `torch.nn.ConvTranspose1d` and the keywords of `OctConv2d`."""


class OctConvTranspose2d(OctConvTranspose, nn.ConvTranspose2d):
    """Transposed octave 2-D convolution: `torch.nn.ConvTranspose2d` and the keywords of `OctConv2d`.

    Shapes:
        high (N, C_high, H, W) and low (N, C_low, ⌈H/2⌉, ⌈W/2⌉) to high (N, C_out − int(α·C_out), sH, sW) and
        low (N, int(α·C_out), half of that, rounded up).
    """


class OctConvTranspose3d(OctConvTranspose, nn.ConvTranspose3d):
    """Transposed octave 3-D convolution; time is not halved, as in `OctConv3d`."""
