"""Two activations that `torch.compile` needs help with.

torch lets a class override `F.hardswish` and `F.hardsigmoid`, but not while it compiles (torch 2.14). So the
modules that call them look at their input themselves.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from octavize.nn.tensor import OctTensor


class _ByHalf(nn.Module):
    """Apply the module's function to each half of an OctTensor, or to a plain tensor."""

    def forward(self, input: OctTensor | Tensor) -> Any:
        function: Any = super().forward  # torch's module, the next class in the MRO
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
