"""From maps to a least-squares problem: what one half of a layer reads, and what is wanted of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from octavize.calibration.follows import Follows
from octavize.calibration.lockstep import Meeting
from octavize.calibration.rows import (
    Convolution,
    Half,
    NotLinear,
    halves_of,
    map_rows,
    positions,
    read_rows,
    run,
)
from octavize.calibration.solve import Problem
from octavize.nn.resample import halve
from octavize.nn.tensor import OctTensor

ROWS_BYTES = 2**27
"""Memory that the sampled rows of one half of a layer may take."""
MAX_COLUMNS = 10_000
"""Weights of one output: more would take minutes and gigabytes to solve for."""
TOLERANCE = 1e-3
"""By how much rows times weights may differ from the layer's output, relative to its largest value."""


@dataclass(frozen=True)
class Place:
    """A layer, and where a constant that it shall add may go: into its bias, or off the mean of a norm."""

    layer: Any
    follows: Follows
    norm: Any

    @property
    def constant(self) -> bool:
        """Whether there is such a place."""
        return self.layer.bias is not None or self.norm is not None

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and offset (C_out,) by which the network goes on with the output, in double precision."""
        norm, channels = self.norm, self.layer.out_channels
        if norm is None:
            ones = torch.ones(channels, dtype=torch.float64, device=self.layer.weight.device)
            return ones, torch.zeros_like(ones)
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach().double()
        offset = -norm.running_mean.double() * scale
        return scale, offset if norm.bias is None else offset + norm.bias.detach().double()

    def weights(self, half: Half) -> Tensor:
        """The weights of a half, (groups, columns, C / groups), in double precision; last its constants."""
        weight = self.layer.weight.detach().double().flatten()
        v = weight[half.places.to(weight.device)].transpose(1, 2)
        if not self.constant:
            return v
        bias = torch.zeros(self.layer.out_channels, dtype=torch.float64, device=weight.device)
        if self.layer.bias is not None:
            bias = self.layer.bias.detach().double()
        return torch.cat([v, bias[half.channels.to(weight.device)][:, None]], 1)

    @torch.no_grad()
    def write(self, half: Half, v: Tensor) -> None:
        """Put the weights of a half, as `weights` gives them, into the layer, and constants where they go."""
        weight, channels = self.layer.weight, half.channels.to(v.device)
        entries = v[:, :-1] if self.constant else v
        # A view of some weights, whose order is another one where their channels are last: hence the copy.
        flat = weight.flatten().clone()
        flat[half.places.to(v.device)] = entries.transpose(1, 2).to(flat)
        weight.copy_(flat.view_as(weight))
        if self.layer.bias is not None:
            self.layer.bias[channels] = v[:, -1].to(self.layer.bias)
        elif self.norm is not None:
            self.norm.running_mean[channels] -= v[:, -1].to(self.norm.running_mean)


@dataclass
class _Sample:
    """Rows of one half, batch by batch."""

    half: Half
    read: list[Tensor] = field(default_factory=list)
    wanted: list[Tensor] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    fold: list[Tensor] = field(default_factory=list)


def sample(
    place: Place, vanilla: Place, meetings: Iterable[Meeting], images: int, generator: torch.Generator
) -> list[tuple[Half, Problem]]:
    """Sample what a layer reads and what is wanted of it, for each half of its output.

    Args:
        place: the layer of the octave network.
        vanilla: the same of the vanilla network.
        meetings: all calls of the layer.
        images: how many there are in all.
        generator: for pixels, where there is no room for all.

    Raises:
        NotLinear: the layer cannot be refitted; the message says why.
    """
    samples: list[_Sample] = []
    layout = None
    for meeting in meetings:
        if not samples:
            halves, layout = halves_of(place.layer, meeting.x), _layout(meeting.x)
            _check_columns(halves)
            samples = [_Sample(half) for half in halves]
        elif _layout(meeting.x) != layout:
            raise NotLinear("its calls read maps that are split in different ways")
        convolutions, y = run(place.layer, meeting.x)
        wanted = _wanted(vanilla, meeting)
        for each in samples:
            _add(each, place, meeting, wanted, convolutions, y, images, generator)
    return [(each.half, _problem(each, place)) for each in samples]


def _layout(x: Any) -> tuple[int, ...] | None:
    """Which channels of a map are low; None of a plain one."""
    return x.channel_layout if isinstance(x, OctTensor) else None


def _check_columns(halves: Sequence[Half]) -> None:
    columns = max(half.places.shape[2] for half in halves)
    if columns > MAX_COLUMNS:
        raise NotLinear(f"an output has {columns:,} weights, more than the {MAX_COLUMNS:,} solved for")


def _add(
    sample: _Sample,
    place: Place,
    meeting: Meeting,
    wanted: Tensor,
    convolutions: Sequence[Convolution],
    y: Any,
    images: int,
    generator: torch.Generator,
) -> None:
    """Add the rows of one call, whose output is y; what is wanted of it is a map of all channels."""
    half = sample.half
    groups, outputs, columns = half.places.shape
    own = half_of(y, half.low)
    row = 4 * groups * (columns + 3 * outputs)
    at = positions(own.shape[2:], max(1, ROWS_BYTES // row // images), generator)
    every = torch.arange(groups * outputs).view(groups, outputs)
    sample.read.append(read_rows(half, convolutions, at, own.shape[2:]))
    _check_reading(sample, place, map_rows(own, every, at))
    sample.wanted.append(map_rows(_of_half(wanted, half, y), half.channels, at))
    if meeting.added is not None:
        added = meeting.added[0]
        if isinstance(added, OctTensor) and added.channel_layout == getattr(y, "channel_layout", None):
            sample.added.append(map_rows(half_of(added, half.low), every, at))
        else:
            dense = added.to_dense() if isinstance(added, OctTensor) else added
            sample.added.append(map_rows(_of_half(dense, half, y), half.channels, at))
    fold = (meeting.first + torch.arange(len(own))) % 2
    sample.fold.append(fold.repeat_interleave(len(at[0])).to(own.device))


def half_of(y: Any, low: bool) -> Tensor:
    """The high or low half of a map; all of a plain one."""
    return (y.low if low else y.high) if isinstance(y, OctTensor) else y


def _of_half(dense: Tensor, half: Half, y: Any) -> Tensor:
    """A dense map at the resolution of a half."""
    return halve(dense, y.octave_dims) if half.low else dense


def _wanted(vanilla: Place, meeting: Meeting) -> Tensor:
    """What the vanilla network goes on with: its layer's output, normalized, added to, and cut off."""
    y = meeting.y
    scale, offset = (part.to(y.dtype).view(-1, *[1] * (y.dim() - 2)) for part in vanilla.affine())
    z = y * scale + offset
    if meeting.added is not None:
        z = z + meeting.added[1]
    return z.clamp(*vanilla.follows.bounds)


def _check_reading(sample: _Sample, place: Place, made: Tensor) -> None:
    """Check on the last rows that the layer makes what its equations say.

    Raises:
        NotLinear: it does not.
    """
    read = sample.read[-1]
    v = place.weights(sample.half).to(read.dtype)
    y = read @ v[:, :-1] + v[:, -1:] if place.constant else read @ v
    coarse = max(TOLERANCE, 16 * torch.finfo(place.layer.weight.dtype).eps)
    if float((y - made).abs().max()) > coarse * max(float(made.abs().max()), 1e-12):
        raise NotLinear("it computes something else than convolutions with its weight")


def _problem(sample: _Sample, place: Place) -> Problem:
    """All rows of a half."""
    read, channels = torch.cat(sample.read, 1), sample.half.channels
    if place.constant:
        read = torch.cat([read, torch.ones_like(read[..., :1])], 2)
    scale, offset = (part[channels.to(part.device)][:, None].to(read.dtype) for part in place.affine())
    return Problem(
        x=read,
        wanted=torch.cat(sample.wanted, 1),
        scale=scale,
        offset=offset,
        added=torch.cat(sample.added, 1) if sample.added else None,
        bounds=place.follows.bounds,
        constant=place.constant,
        fold=torch.cat(sample.fold),
    )


def norm_of(model: nn.Module, follows: Follows) -> Any:
    """The batch norm that follows a layer."""
    return None if follows.norm is None else model.get_submodule(follows.norm)
