"""Which channels of a network may change places, and the change itself.

A channel has a place in many parameters: in the rows of the convolution that makes it, in the normalization
after it, in the columns of every layer that reads it; and residual additions make one channel of several.
`find_coupling` watches one run of the network to learn what has to move together, `permute` moves it. The
function of the network stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize

from octavize.calibration.channel_graph import FROZEN, ChannelGraph
from octavize.calibration.channel_rules import Watch
from octavize.convert.trace import clean_copy, example_shape, explained, leaves
from octavize.errors import InputError

Order = Sequence[Tensor]


@dataclass(frozen=True)
class Coupling:
    """What moves together in a network, and what may change places.

    `block` (labels,) names the block of every label; equal names move together. Each of `sets` (blocks,
    members) holds the labels of interchangeable blocks, one block a row. `axes` holds the labels (length,) of
    each axis of a parameter or buffer.
    """

    axes: dict[tuple[str, int], Tensor]
    block: Tensor
    sets: list[Tensor]

    def labels(self, name: str, dim: int) -> Tensor | None:
        """The labels (length,) of an axis of a parameter or buffer; None if the run did not use it."""
        return self.axes.get((name, dim))

    def movable(self, name: str, dim: int) -> Tensor:
        """How many places each channel of an axis may take, its own included: (length,).

        Empty for an axis that the run did not use, or of length 1.
        """
        labels = self.labels(name, dim)
        return self.partners()[labels if labels is not None else slice(0)]

    def partners(self) -> Tensor:
        """How many places each label may take, its own included: (labels,)."""
        partners = torch.ones(len(self.block), dtype=torch.long)
        for members in self.sets:
            partners[members] = len(members)
        return partners

    def source(self, order: Order) -> Tensor:
        """The label that comes to the place of each label when blocks change places: (labels,).

        Raises:
            InputError: an order is not a permutation of its set's blocks.
        """
        source = torch.arange(len(self.block))
        if len(order) != len(self.sets):
            raise InputError(f"order has {len(order)} entries: give one for each of {len(self.sets)} sets")
        for i, (members, new) in enumerate(zip(self.sets, order, strict=True)):
            if not torch.equal(new.sort().values, torch.arange(len(members))):
                raise InputError(f"order[{i}] is no permutation: give each of 0 to {len(members) - 1} once")
            source[members] = members[new]
        return source


def example_input(model: nn.Module, example: Tensor | Sequence[int] | None = None) -> Tensor:
    """An image of noise of the shape, type and device that a network reads."""
    shape = example_shape(model, example)
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(first)


def stand_in(model: nn.Module) -> nn.Module:
    """The network in evaluation mode, without its users' hooks, on the memory of its parameters.

    So the mode and the hooks of the network itself are left alone.
    """
    return clean_copy(model, lambda values: values)


def find_coupling(model: nn.Module, example: Tensor | Sequence[int] | None = None) -> Coupling:
    """Run a network once and find out which of its channels may change places.

    Channels of the network's input and output stay where they are, and so does whatever an operation reads
    that is not understood, such as attention over several heads or a weight computed from others.

    Args:
        model: a vanilla network. It is not changed.
        example: an input, or its shape (N, C, H, W); see `convert.trace.example_shape`. Small is fast.

    Raises:
        InputError: the network does not run on such an input.
    """
    net, x = stand_in(model), example_input(model, example)
    graph = ChannelGraph(net)
    graph[x] = [torch.full([1] * x.dim(), FROZEN)]

    def run(x: Tensor, buffers: dict[str, Tensor]) -> list[Tensor]:
        return [value for value in leaves(functional_call(net, buffers, (x,))) if isinstance(value, Tensor)]

    # Writing into a tensor becomes making a new one: labels need not follow what shares memory.
    with explained(model, x.shape), torch.no_grad(), Watch(graph):
        output = functionalize(run)(x, dict(net.named_buffers()))
    for tensor in output:
        graph.freeze(*graph.layers(tensor))
    block, sets = graph.solve()
    return Coupling(graph.axes, block, sets)


@torch.no_grad()
def permute(model: nn.Module, coupling: Coupling, order: Order) -> None:
    """Let blocks of channels change places, in place: the parameters stay the same objects.

    Gradients and optimizer states, if there are any, are not permuted.

    Args:
        coupling: of this network, or of one of the same architecture.
        order: for each of `coupling.sets`, (blocks,): which block comes to each block's place.

    Raises:
        InputError: an order is not a permutation of its set's blocks.
    """
    source = coupling.source(order)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for (name, dim), labels in coupling.axes.items():
        places = source[labels] - labels[0]
        if not torch.equal(places, torch.arange(len(labels))):
            tensor = tensors[name]
            tensor.copy_(tensor.index_select(dim, places.to(tensor.device)))
