"""Two activations that `torch.compile` needs help with.

When it is not compiling, torch offers `F.hardswish` and `F.hardsigmoid` to classes that override functions,
as all others; while compiling it does not (torch 2.14). So the modules that call them look at their input.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from octavize.nn.tensor import OctTensor


class _ByHalf(nn.Module):
    """Its module's function on each half of an OctTensor, or on a plain tensor."""

    def forward(self, input: OctTensor | Tensor) -> Any:
        function: Any = super().forward  # of torch's module, which comes after this class
        if not isinstance(input, OctTensor):
            return function(input)
        y = input.like(function(input.high), function(input.low))
        if getattr(self, "inplace", False):
            input.invalidate()
        return y


class OctHardswish(_ByHalf, nn.Hardswish):
    """`torch.nn.Hardswish` for octave networks."""


class OctHardsigmoid(_ByHalf, nn.Hardsigmoid):
    """`torch.nn.Hardsigmoid` for octave networks."""


TRACEABLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Hardswish: OctHardswish,
    nn.Hardsigmoid: OctHardsigmoid,
}
