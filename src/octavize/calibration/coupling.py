"""Which channels of a network may change places.

A channel has a place in many parameters: in the rows of the convolution that makes it, in the normalization
after it, in the columns of every layer that reads it; and residual additions make one channel of several.
`find_coupling` watches one run of the network to learn what has to move together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize

from octavize.calibration.channel_graph import FROZEN, ChannelGraph
from octavize.calibration.channel_rules import Watch
from octavize.convert.inputs import Inputs, Shape, inputs_of
from octavize.convert.trace import clean_copy, explained, leaves


@dataclass(frozen=True)
class Coupling:
    """What moves together in a network, and what may change places.

    `block` (labels,) names the block of every label; equal names move together. Each of `sets` (blocks,
    members) holds the labels of interchangeable blocks, one block a row. `axes` holds the labels (length,) of
    each axis of a parameter or buffer that the run used.
    """

    axes: dict[tuple[str, int], Tensor]
    block: Tensor
    sets: list[Tensor]

    def partners(self) -> Tensor:
        """How many places each label may take, its own included: (labels,)."""
        partners = torch.ones(len(self.block), dtype=torch.long)
        for members in self.sets:
            partners[members] = len(members)
        return partners


def stand_in(model: nn.Module) -> nn.Module:
    """The network in evaluation mode, without its users' hooks, on the memory of its parameters.

    So the mode and the hooks of the network itself are left alone.
    """
    return clean_copy(model, lambda values: values)


def find_coupling(model: nn.Module, given: Inputs | Shape) -> Coupling:
    """Run a network once and find out which of its channels may change places.

    Channels of the network's input and output stay where they are, and so does whatever an operation reads
    that is not understood, such as attention over several heads or a weight computed from others.

    Args:
        model: a vanilla network. It is not changed.
        given: its inputs, or the shape of its input, (N, C, H, W). Small is fast.

    Raises:
        InputError: the network does not run on such an input.
    """
    net = stand_in(model)
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    inputs = inputs_of(given, first.device, first.dtype)
    graph = ChannelGraph(net)
    for x in inputs.tensors:
        graph[x] = [torch.full([1] * x.dim(), FROZEN)]

    def run(args: Any, kwargs: Any, buffers: dict[str, Tensor]) -> list[Tensor]:
        output = functional_call(net, buffers, args, kwargs)
        return [value for value in leaves(output) if isinstance(value, Tensor)]

    # Writing into a tensor becomes making a new one: labels need not follow what shares memory.
    with explained(model, given), torch.no_grad(), Watch(graph):
        output = functionalize(run)(inputs.args, dict(inputs.kwargs), dict(net.named_buffers()))
    for tensor in output:
        graph.freeze(*graph.layers(tensor))
    block, sets = graph.solve()
    return Coupling(graph.axes, block, sets)
