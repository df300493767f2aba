"""Octave convolutions that pad as TensorFlow does, by ⌈size / stride⌉: `tf_` networks of timm and others.

torch has no such layer, so each package has a class of its own. The octave layer is made of any of them, see
`own_padding.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.nn.conv import CONV, OctConv
from octavize.nn.own_padding import KEPT, Padding, own_padding, same_pads
from octavize.nn.recompute import Made, kept
from octavize.nn.recompute import call_keeping_sources as call
from octavize.nn.tensor import OctTensor


class OctConvSame(OctConv):
    """Octave convolution whose every path pads to ⌈size / stride⌉, an odd pixel on the right.

    Only the path that keeps the stride of the layer pads as the vanilla layer did.
    """

    own_padding: Padding

    def _octave(self, x: OctTensor) -> OctTensor | Tensor:
        return super()._octave(self._of_right_parity(x))

    def _depthwise(self, x: OctTensor) -> OctTensor:
        return super()._depthwise(self._of_right_parity(x))

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
        pads, steps = self.own_padding, stride or self._settings.stride
        if stride is None or pads is None:
            pads = same_pads(x.value.shape[2:], self.kernel_size, steps, self.dilation)
        x = kept(F.pad(x.value, pads)) if any(pads) else x
        return call(
            CONV[len(self.kernel_size)], x, weight, bias, steps, 0, self.dilation, groups or self.groups
        )

    def _out_size(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(-(-n // stride) for n, stride in zip(size, self.stride, strict=True))

    def _of_right_parity(self, x: OctTensor) -> OctTensor:
        """Check that the vanilla layer, too, would map the size to ⌈size / stride⌉."""
        pads = self.own_padding
        if pads is None:
            return x
        axes = zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        for axis, (n, k, s, d) in enumerate(axes, start=1):
            total = pads[2 * (len(self.stride) - axis)] + pads[2 * (len(self.stride) - axis) + 1]
            if s > 1 and total < d * (k - 1) and n % s:
                raise InputError(
                    f"input of size {tuple(x.shape[2:])}: {type(self).__name__} pads by {pads}, for even "
                    "sizes only: give images whose maps are even here, or build the network for their size"
                )
        return x

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The class has no name to be found by: pickled is the class that it was made of."""
        made: Any = super().__reduce_ex__(protocol)
        return _of_class, (vanilla_of(type(self)),), *made[2:]


@cache
def same_class_of(kind: type[nn.Module]) -> type[OctConvSame]:
    """The octave class of a class whose layers pad by themselves."""
    return type(f"Oct{kind.__name__}", (OctConvSame, kind), {"__module__": kind.__module__})


def vanilla_of(octave: type[OctConvSame]) -> type[nn.Module]:
    """The class that `same_class_of` was given."""
    return octave.__bases__[1]


def _of_class(kind: type[nn.Module]) -> nn.Module:
    octave = same_class_of(kind)
    return octave.__new__(octave)


def become_same(layer: nn.Module) -> None:
    """Give a layer that `pads_by_itself` its octave class; settings are still missing."""
    layer.__dict__[KEPT] = own_padding(layer)
    layer.__class__ = same_class_of(type(layer))
