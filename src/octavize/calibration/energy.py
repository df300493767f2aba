"""What each channel of a network would lose by being low, measured on images.

A low channel is kept at half resolution: of a map x it leaves U(P(x)), the 2×2 averages repeated. Its loss is
‖x − U(P(x))‖², the energy above half the sampling rate. It is measured where it hurts: at the input of every
convolution that reads the channel. Where no convolution reads it, as between the last map and global pooling,
nothing is lost, since averaging keeps the mean.

A loss matters as far as it moves the network's outputs, see `moves.py`. That makes losses of different layers
comparable, which their size alone does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from octavize.calibration.coupling import stand_in
from octavize.calibration.moves import Moves, lost
from octavize.convert.inputs import Inputs, Shape
from octavize.convert.loaders import images_of, run_on
from octavize.convert.trace import CONVOLUTIONS
from octavize.errors import InputError, whole

Score = Literal["output", "damage", "share"]
SCORES: tuple[str, ...] = get_args(Score)
MAX_IMAGES = 500
TINY = 1e-300  # in place of the energy of a map that is all zero


@dataclass
class InputEnergy:
    """Energies at one convolution, summed over images, pixels and calls, in float64.

    `lost` and `total` are (C_in,): ‖x − U(P(x))‖² and ‖x‖² of each channel it reads. `made` is ‖y‖² of its
    output; `pixels_in` and `pixels_out` count pixels of one channel; `weight` is (C_in,), the squared norm of
    the weights that read each channel. `moved` is (C_in,), how far the loss moves the network's outputs, see
    `Moves`; None where it was not asked for.
    """

    weight: Tensor
    lost: Tensor
    total: Tensor
    made: float = 0.0
    pixels_in: int = 0
    pixels_out: int = 0
    moved: Tensor | None = None

    def output(self) -> Tensor:
        """How far each channel's loss moves the network's outputs: (C_in,)."""
        assert self.moved is not None, "measure_energy was not asked for it"
        return self.moved

    def share(self) -> Tensor:
        """Loss of each channel, relative to the mean energy of the map's channels: (C_in,)."""
        return self.lost / self.total.mean().clamp_min(TINY)

    def damage(self) -> Tensor:
        """Error that each channel's loss makes in the output, relative to the output's energy: (C_in,).

        The expected ‖W (x − U(P(x)))‖² / ‖y‖² as if the loss were white: ‖W_c‖² times the loss a pixel.
        """
        error = self.lost * self.weight * (self.pixels_out / max(self.pixels_in, 1))
        return error / max(self.made, TINY)


@dataclass
class Energies:
    """Energies at every convolution that ran, by name, and how many images they were measured on."""

    convolutions: dict[str, InputEnergy] = field(default_factory=dict)
    images: int = 0

    def scores(self, score: Score) -> dict[str, Tensor]:
        """The chosen score of each channel that each convolution reads: name → (C_in,)."""
        return {name: getattr(energy, score)() for name, energy in self.convolutions.items()}


def check_score(score: str) -> str:
    """Return the name of a score.

    Raises:
        InputError: there is no such score.
    """
    if score not in SCORES:
        raise InputError(f"score={score!r} is unknown: choose one of {', '.join(map(repr, SCORES))}")
    return score


def measure_energy(
    model: nn.Module,
    loader: Iterable[object],
    *,
    score: Score = "output",
    max_images: int = MAX_IMAGES,
    like: Inputs | Shape | None = None,
) -> Energies:
    """Run a network on images and measure the energies at the inputs of its convolutions.

    Args:
        model: a vanilla network. It runs in evaluation mode and without its users' hooks.
        loader: batches of prepared images, see `octavize.convert.loaders.images_of`.
        score: "output" also runs it backward, which takes two to three times as long.
        max_images: stop after so many.
        like: what the loader yields, see `images_of`.

    Raises:
        InputError: a batch of another kind or on which the network does not run, a loader that yields
            nothing, `max_images` below 1; or "output" of a network that no gradient passes through.
    """
    whole("max_images", max_images, 1)
    found, net = Energies(), stand_in(model)
    moves = Moves(net) if score == "output" else None
    for name, module in net.named_modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(partial(_measure, found.convolutions, name), with_kwargs=True)
    for images in images_of(loader, max_images, like):
        if moves is not None:
            moves.run(images)
        else:
            with torch.no_grad():
                run_on(net, images)
        found.images += images.batch
    if moves is not None:
        for name, energy in found.convolutions.items():
            energy.moved = moves.moved[name]
    return found


@torch.no_grad()
def _measure(
    found: dict[str, InputEnergy], name: str, conv: Any, args: Any, kwargs: dict[str, Any], y: Tensor
) -> None:
    """Add one call of a convolution, x (N, C_in, *size) to y (N, C_out, *size)."""
    x, spatial = args[0] if args else kwargs["input"], len(conv.kernel_size)
    if name not in found:
        zeros = torch.zeros(x.shape[-1 - spatial], dtype=torch.float64)
        found[name] = InputEnergy(_column_norms(conv), zeros, zeros.clone())
    energy = found[name]
    energy.lost += _energy(lost(x, spatial))
    energy.total += _energy(x)
    energy.made += float(_energy(y).sum())
    energy.pixels_in += x.numel() // x.shape[1]
    energy.pixels_out += y.numel() // y.shape[1]


def _energy(x: Tensor) -> Tensor:
    """Sum of squares of each channel of (N, C, *size): (C,) float64 on the CPU."""
    # An image's sums fit in float32; the sum over thousands of images is kept in float64.
    by_image = x.float() if x.dtype != torch.float64 else x
    return by_image.square().flatten(2).sum(2).double().sum(0).cpu()


def _column_norms(conv: Any) -> Tensor:
    """Squared norm of the weights that read each input channel: (C_in,) float64."""
    square = conv.weight.detach().double().square().cpu()
    if conv.transposed:  # (C_in, C_out / groups, …)
        return square.flatten(1).sum(1)
    # (groups, C_out / groups, C_in / groups, …)
    by_group = square.reshape(conv.groups, -1, *square.shape[1:])
    return by_group.flatten(3).sum((1, 3)).flatten()
