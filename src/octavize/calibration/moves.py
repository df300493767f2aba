"""How far a network's outputs move when a map loses what a low channel cannot hold.

A low channel takes δ = x − U(P(x)) from a map x. To first order the outputs z then move by J δ, with
J = ∂z/∂x. One run backward from ⟨v, z⟩, with random v, gives g = Jᵀ v for every map, and
E (Σ g δ)² = ‖J δ‖² over the pixels of a channel. Beside it stands Σ (g δ)², what a channel would move if its
pixels had nothing to do with each other: δ sums to 0 in every cell, and what cancels to first order comes
back where a ReLU cuts.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from octavize.calibration.walk import first_of
from octavize.convert.inputs import Inputs
from octavize.convert.loaders import run_on
from octavize.convert.trace import CONVOLUTIONS, leaves
from octavize.errors import InputError
from octavize.nn.resample import halve, upsample
from octavize.split import default_octave_dims

IMAGES = 8
"""Images that run together: a run backward keeps the maps of all layers."""


class Moves:
    """Adds up, over images, how far the loss of each channel that a convolution reads moves the outputs.

    `moved` is, for each convolution by name, (C_in,) float64: per image ‖J δ‖² + Σ (g δ)², where outputs of
    one kind count as much as those of another.

    Args:
        net: a stand-in of a vanilla network; its convolutions get hooks.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.moved: dict[str, Tensor] = {}
        self._read: list[tuple[str, int, Tensor]] = []
        self._generator = torch.Generator().manual_seed(0)
        for name, module in net.named_modules():
            if isinstance(module, CONVOLUTIONS):
                module.register_forward_pre_hook(partial(self._before, name), with_kwargs=True)

    def run(self, images: Inputs) -> None:
        """Run the network forward and backward on a batch.

        Raises:
            InputError: it does not run on them, or no gradient comes back.
        """
        with torch.inference_mode(False), torch.enable_grad():
            for part in images.split(IMAGES):
                self._read.clear()
                self._add(run_on(self.net, part.map(Tensor.clone)))
        self._read.clear()

    def _before(self, name: str, conv: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Give the convolution a map of its own, whose gradient is that of this reader alone."""
        x = first_of(args, kwargs)
        own = x.clone() if x.requires_grad else x.clone().requires_grad_()
        self._read.append((name, len(conv.kernel_size), own))
        return ((own, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): own})

    def _add(self, outputs: Any) -> None:
        found = [z for z in leaves(outputs) if isinstance(z, Tensor) and z.requires_grad]
        if not found:
            raise InputError(
                f"model: no gradient passes through {type(self.net).__name__} to its outputs: "
                'give score="damage", which needs none'
            )
        target = torch.stack([(self._direction(z) * z).sum() for z in found]).sum()
        maps = [x for _, _, x in self._read]
        gradients = torch.autograd.grad(target, maps, allow_unused=True)
        for (name, spatial, x), g in zip(self._read, gradients, strict=True):
            zero = torch.zeros(x.shape[-1 - spatial], dtype=torch.float64)
            self.moved[name] = self.moved.get(name, zero) + (
                zero if g is None else _moved(x.detach(), g, spatial)
            )

    def _direction(self, z: Tensor) -> Tensor:
        """Random, of the length that makes outputs of different scale and number count alike."""
        v = torch.randn(z.shape, generator=self._generator).to(z)
        each = z[0].numel() if z.dim() else 1
        return v / (z.detach().square().mean().sqrt().clamp_min(1e-12) * max(each, 1) ** 0.5)


def lost(x: Tensor, spatial: int) -> Tensor:
    """δ = x − U(P(x)) of a map (N, C, *size) with so many axes of space."""
    return x - upsample(halve(x, default_octave_dims(spatial)), x.shape[2:])


def _moved(x: Tensor, g: Tensor, spatial: int) -> Tensor:
    """‖J δ‖² + Σ (g δ)² of each channel of a map (N, C, *size) with gradient g, over images: (C,) float64."""
    product = (g * lost(x, spatial)).flatten(2)
    return (product.sum(2).square() + product.square().sum(2)).double().sum(0).cpu()
