"""timm's own convolution as an octave layer: `Conv2dSame`, which pads as TensorFlow does (`tf_` networks).

`swap` imports this module where timm is in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor

from octavize.convert.swap import octave_class
from octavize.nn.conv import PADS_SAME, OctConv
from octavize.nn.recompute import Made, kept

PADS_SAME.append(Conv2dSame)


@octave_class(Conv2dSame)
class OctConv2dSame(OctConv, Conv2dSame):
    """Octave convolution whose every path pads to ⌈size / stride⌉, an odd pixel on the right."""

    def _convolve(
        self,
        x: Made,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int] | None = None,
        groups: int | None = None,
    ) -> Tensor | None:
        if x.value.shape[1] == 0 or weight.shape[0] == 0:
            return None
        steps: Any = stride or self.octave.stride
        padded: Any = pad_same(x.value, list(self.kernel_size), steps, list(self.dilation))
        return super()._convolve(kept(padded), weight, bias, stride, groups)

    def _out_size(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(-(-n // stride) for n, stride in zip(size, self.stride, strict=True))
