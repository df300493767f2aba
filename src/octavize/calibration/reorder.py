"""Let the channels that lose least be the low ones.

An octave convolution makes its *last* channels low, whichever they are. In a trained network channels differ
widely in how much of their energy is above half the sampling rate, so before it becomes octave its channels
are put in order: a plan carries it, and `octavize` applies it. The vanilla network computes the same function
before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from octavize.calibration.coupling import Coupling
from octavize.calibration.energy import TINY, Energies, Score
from octavize.convert.inputs import Inputs, Shape, inputs_of, tries
from octavize.convert.order import apply_order, order_of, sizes, tensors_of
from octavize.convert.trace import clean_copy
from octavize.nn._torch_internals import tree_leaves
from octavize.plans.reordering import Order, Permutation, Reordered, Reordering


def best_order(
    channels: Channels, energies: Energies, low: Mapping[str, int], score: Score, given: Inputs | Shape
) -> tuple[Permutation, Reordering]:
    """The order of a vanilla network's channels in which those that lose least by being low are last.

    The network is left alone; in that order it would compute the same, to rounding, which is tried on a copy.

    Args:
        channels: of the network.
        energies: measured on it.
        low: how many of a convolution's last output channels will be low, by its name.
        score: see `calibrate`.
        given: inputs, or the shape of an input (N, C, H, W), on which the result is checked.

    Returns:
        The order, and for each convolution in `low` the share of its energy predicted lost, before and after.

    Raises:
        RuntimeError: the reordered network would compute something else.
    """
    source = _cheapest_last(channels, low, channels.by_block(energies.scores(score)))
    permutation = permutation_of(channels.model, channels.coupling, source)
    _verify(channels.model, permutation, given)
    report = _report(channels, energies, low, source)
    return permutation, Reordering(tuple(report), energies.images, score)


def permutation_of(model: nn.Module, coupling: Coupling, source: Tensor) -> Permutation:
    """The new order of each axis of each parameter and buffer, where it is another one.

    Args:
        source: the label that comes to the place of each label, (labels,).
    """
    found: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    tensors = tensors_of(model)
    for name, tensor in tensors.items():
        for axis in ((name, dim) for dim in range(tensor.dim())):
            if axis in coupling.axes:
                labels = coupling.axes[axis]  # consecutive numbers
                if not torch.equal(source[labels], labels):
                    places = tuple((source[labels] - labels[0]).tolist())
                    found.setdefault(places, []).append(axis)
    orders = (Order(places, tuple(axes), sizes(tensors, axes)) for places, axes in found.items())
    return Permutation(tuple(orders), order_of(model))


class Channels:
    """The blocks that convolutions read and make.

    Args:
        coupling: of `model`.
    """

    def __init__(self, model: nn.Module, coupling: Coupling) -> None:
        self.model = model
        self.coupling = coupling
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}

    def made(self, name: str) -> Tensor | None:
        """Labels of the channels that a convolution makes, (C_out,); None where they are unknown."""
        conv: Any = self.model.get_submodule(name)
        grouped = conv.transposed and conv.groups > 1
        return None if grouped else self._labels(conv.weight, 1 if conv.transposed else 0)

    def read(self, name: str) -> Tensor | None:
        """Labels, (C_in,), each in the block of a channel that a convolution reads; None where unknown."""
        conv: Any = self.model.get_submodule(name)
        if conv.groups == 1 or conv.transposed:
            return self._labels(conv.weight, 0 if conv.transposed else 1)
        made = self._labels(conv.weight, 0)
        if made is None:
            return None
        # What a group reads and what it makes are one block.
        return made.reshape(conv.groups, -1)[:, 0].repeat_interleave(conv.in_channels // conv.groups)

    def _labels(self, weight: Tensor, dim: int) -> Tensor | None:
        name = self._names.get(weight)  # a weight computed from others has none
        return None if name is None else self.coupling.axes.get((name, dim))

    def by_block(self, per_channel: Mapping[str, Tensor]) -> Tensor:
        """Sum what convolutions say of the channels they read, name → (C_in,), over blocks: (labels,)."""
        total = torch.zeros(len(self.coupling.block), dtype=torch.float64)
        for name, values in per_channel.items():
            labels = self.read(name)
            if labels is not None:
                total.index_add_(0, self.coupling.block[labels], values)
        return total


def _cheapest_last(channels: Channels, low: Mapping[str, int], cost: Tensor) -> Tensor:
    """The label that comes to the place of each label, (labels,): the cheapest block where it is low."""
    coupling = channels.coupling
    place = torch.full_like(coupling.block, -1)
    is_low = torch.zeros_like(coupling.block)
    for name, count in low.items():
        labels = channels.made(name)
        if labels is None or count == 0:
            continue
        is_low[labels[len(labels) - count :]] = 1
        place[labels] = torch.arange(len(labels))
    source = torch.arange(len(coupling.block))
    for members in coupling.sets:
        found = (place[members[0]] >= 0).nonzero().flatten()
        if len(found) == 0:
            continue
        # A residual addition makes one block of channels of several convolutions, low in some of them.
        key = is_low[members].sum(1) * len(place) + place[members[:, found[0]]]
        places = key.argsort(stable=True)
        costs = cost[coupling.block[members[:, 0]]]
        source[members[places]] = members[places[costs[places].argsort(descending=True, stable=True)]]
    return source


def _report(
    channels: Channels, energies: Energies, low: Mapping[str, int], source: Tensor
) -> list[Reordered]:
    """The predicted loss of each convolution in `low`, with its channels as they are and as they will be."""
    measured, block = energies.convolutions, channels.coupling.block
    lost = channels.by_block({n: e.lost / e.total.sum().clamp_min(TINY) for n, e in measured.items()})
    total = channels.by_block({n: e.total / e.total.sum().clamp_min(TINY) for n, e in measured.items()})
    partners = channels.coupling.partners()

    def share(labels: Tensor, count: int) -> float:
        blocks = block[labels]
        return float(lost[blocks[len(blocks) - count :]].sum() / total[blocks].sum().clamp_min(TINY))

    report = []
    for name, count in low.items():
        labels = channels.made(name)
        if labels is None:
            continue
        movable = int((partners[labels] > 1).sum())
        before, after = share(labels, count), share(source[labels], count)
        report.append(Reordered(name, len(labels), count, movable, before, after))
    return report


@torch.no_grad()
def _verify(model: nn.Module, permutation: Permutation, given: Inputs | Shape) -> None:
    """Reorder a copy, in float64, and compare.

    Raises:
        RuntimeError: it computes something else.
    """
    net = clean_copy(model).cpu().double()
    inputs = [inputs_of(x, "cpu", torch.float64) for x in tries(given)]
    before = [tree_leaves(x.call(net)) for x in inputs]
    apply_order(net, permutation)
    after = [tree_leaves(x.call(net)) for x in inputs]
    for old, new in zip(chain(*before), chain(*after), strict=True):
        if not isinstance(old, Tensor) or not old.is_floating_point():
            continue
        scale = float(old.abs().max()) if old.numel() else 0.0
        if not torch.allclose(old, new, rtol=0, atol=1e-6 * scale, equal_nan=True):
            error = float((old - new).abs().max()) / max(scale, TINY)
            raise RuntimeError(
                f"{type(model).__name__} was left alone: with its channels reordered its output would differ "
                f"by {error:.1e} of the largest value"
            )
