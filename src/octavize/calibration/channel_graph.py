"""Which channels are tied to which: the graph that one run of a network draws, and what follows from it.

Every place of a parameter's axis has a *label* of its own, and every tensor of the run carries the labels of
the channels it holds. Each operation enters *relations*: pairs of labels that it brought together, such as a
channel and the column of a weight that reads it. Labels that are related, however indirectly, move together:
they are a *block*. Two blocks may change places if they look the same to every operation: the same relations
hold between their labels, in the same order. Exchanging two such blocks renames the channels of the network
and changes nothing else.

Torch-Pruning 1.6.1 was tried for this and does not do. Of the networks in tests/calibration/test_coupling.py
its dependency graph, with grouped layers and outputs tied and frozen by us, gets 29 of 37 right. It fails on
shufflenet_v2_x0_5 (division by zero), res2net50, cspresnet50 and edgenext (indices beyond a layer, after
splits) and dpn68 (slices); in mixnet_s, skresnet18 and nf_resnet50 it lets channels change places that may
not. Of 42 random networks it gets 6 right, and on 27 it had not ended after 8 seconds. It takes what it does
not know for element-wise, so indexing, sorting, constants that differ by channel and writing into a slice
come out wrong; the check in float64 would refuse such a network as a whole. It reads private fields of
autograd's nodes.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import torch
from torch import Tensor, nn

from octavize.nn._torch_internals import mapping_from_tensors

NEUTRAL = 0  # no channel: scalars, zeros of padding, what is left of a map averaged over its channels
FROZEN = 1  # whatever is tied to this label stays where it is

Layers = list[Tensor]


class NotUnderstood(Exception):
    """Nothing is known of what an operation does to channels: whatever it read is frozen."""


class ChannelGraph:
    """Labels of the parameters and tensors of one run, and the relations between them.

    The labels of a tensor broadcast to its shape: an axis along which they do not change has length 1. They
    live on the CPU. A parameter with several axes has several labels at each place, one an axis, in *layers*;
    a map has one layer. `axes` are the labels (length,) of each axis of a parameter, by its name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.axes: dict[tuple[str, int], Tensor] = {}
        self._count = 2  # labels given out, NEUTRAL and FROZEN included
        self._relations: list[Tensor] = []  # each (2, n): pairs of labels
        self._layers = mapping_from_tensors()
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = mapping_from_tensors()
        self._names.update((t, n) for n, t in named if t.is_floating_point())
        self._memory = Counter(t.untyped_storage().data_ptr() for _, t in named)

    def layers(self, tensor: Tensor) -> Layers:
        """All labels of a tensor. Those of a constant are read off its values."""
        if tensor in self._names and tensor not in self._layers:
            self._layers[tensor] = self._of_parameter(tensor, self._names[tensor])
        if tensor in self._layers:
            return self._layers[tensor]
        return [torch.full([1] * tensor.dim(), NEUTRAL if one_value(tensor) else FROZEN)]

    def _of_parameter(self, tensor: Tensor, name: str) -> Layers:
        layers = []
        for dim, length in enumerate(tensor.shape):
            if length > 1:  # a single channel has nothing to change places with
                self.axes[name, dim] = labels = self.new_labels(length)
                layers.append(labels.reshape(-1, *[1] * (tensor.dim() - 1)).transpose(0, dim))
                if self._memory[tensor.untyped_storage().data_ptr()] > 1:  # it would be permuted twice
                    self.freeze(labels)
        return layers or [torch.full([1] * tensor.dim(), NEUTRAL)]

    def __getitem__(self, tensor: Tensor) -> Tensor:
        """The labels of a tensor with one layer."""
        layers = self.layers(tensor)
        if len(layers) > 1:
            raise NotUnderstood  # a weight, outside of a convolution or matrix product
        return layers[0]

    def __setitem__(self, tensor: Tensor, layers: Layers) -> None:
        self._layers[tensor] = [_shrunk(labels) for labels in layers]

    def along(self, tensor: Tensor, *dims: int) -> list[Tensor]:
        """The labels (length,) along some axes of a tensor, NEUTRAL where they do not change.

        If they change nowhere, they are taken for those of the last axis.
        """
        dims = tuple(dim % tensor.dim() for dim in dims)
        found = {dim: torch.full((tensor.shape[dim],), NEUTRAL) for dim in dims}
        for labels in self.layers(tensor):
            changes = [dim for dim, length in enumerate(labels.shape) if length > 1] or [dims[-1]]
            if len(changes) > 1 or changes[0] not in dims:
                raise NotUnderstood
            found[changes[0]] = labels.flatten().expand(tensor.shape[changes[0]])
        return list(found.values())

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor is neither a parameter nor computed from anything."""
        return tensor not in self._layers and tensor not in self._names

    def new_labels(self, length: int) -> Tensor:
        labels = torch.arange(self._count, self._count + length)
        self._count += length
        self.relate(labels, torch.tensor(NEUTRAL))  # tells them from those of other axes
        return labels

    def relate(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Enter a relation: `a` met `b`, place by place. What met NEUTRAL is tied to nothing, but it counts.

        Returns:
            The distinct pairs of labels, (n,) and (n,), and which of them is at each place.
        """
        pairs, pair = (a * self._count + b).unique(return_inverse=True)
        left, right = pairs // self._count, pairs % self._count
        self._relations.append(torch.stack([left, right]))
        return left, right, pair

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Labels of what an operation makes of `a` and `b`, place by place after broadcasting.

        Each pair of labels that meets gets a fresh label, related to both: so whatever is made of a channel
        is told apart from it, wherever they meet again.
        """
        left, right, pair = self.relate(*torch.broadcast_tensors(a, b))
        made = torch.where((left == FROZEN) | (right == FROZEN), FROZEN, NEUTRAL)
        named = (made == NEUTRAL) & (left + right != NEUTRAL)
        made[named] = self.new_labels(int(named.sum()))
        self.relate(made, left)
        self.relate(made, right)
        return made[pair]

    def contract(self, a: Tensor, b: Tensor) -> None:
        """Axes `a` and `b` are summed over together: both move along, or neither."""
        self.relate(a, b)
        self.freeze(a[b == NEUTRAL], b[a == NEUTRAL])

    def tie(self, groups: Tensor) -> None:
        """Every group, a row, moves as one. A place without a label keeps its group where it is."""
        for member in groups.T:
            self.relate(groups[:, 0], member)
        self.freeze(groups[(groups == NEUTRAL).any(1)])

    def freeze(self, *layers: Tensor) -> None:
        """Keep these channels where they are."""
        for labels in layers:
            self.relate(labels, torch.tensor(FROZEN))

    def solve(self) -> tuple[Tensor, list[Tensor]]:
        """What may change places.

        Returns:
            The block of every label, (labels,), named by its smallest label; and the interchangeable sets:
            each (blocks, members), the labels of one block a row, equal places of the rows corresponding.
        """
        sizes = torch.tensor([r.shape[1] for r in self._relations], dtype=torch.long)
        relation = torch.arange(len(sizes)).repeat_interleave(sizes)
        a, b = torch.cat([torch.zeros(2, 0, dtype=torch.long), *self._relations], 1)
        tied = (a > FROZEN) & (b > FROZEN)
        block = components(self._count, a[tied], b[tied])
        frozen = torch.zeros(self._count, dtype=torch.bool)
        frozen[block[a[b == FROZEN]]] = frozen[block[b[a == FROZEN]]] = frozen[:2] = True

        in_order, order = torch.sort(block, stable=True)
        place = torch.zeros_like(block)  # of each label within its block, from 1
        place[order] = torch.arange(1, len(block) + 1) - torch.searchsorted(in_order, in_order)
        place[NEUTRAL] = 0
        owner = block[torch.maximum(a, b)]
        _, pair = (place[a] * self._count + place[b]).unique(return_inverse=True)
        feature, row = (relation * (len(pair) + 1) + pair)[~frozen[owner]].sort()
        looks = _grouped(owner[~frozen[owner]][row], feature)
        members = _grouped(block, torch.arange(self._count))
        alike: dict[tuple[int, ...], Layers] = defaultdict(list)
        for name, look in looks.items():
            alike[tuple(look.tolist())].append(members[name])
        return block, [torch.stack(rows) for rows in alike.values() if len(rows) > 1]


def components(count: int, a: Tensor, b: Tensor) -> Tensor:
    """The smallest label connected to each label: labels spread along pairs until nothing changes."""
    block = torch.arange(count)
    while True:
        root_a, root_b = block[a], block[b]
        smaller = torch.minimum(root_a, root_b)
        new = block.scatter_reduce(0, root_a, smaller, "amin").scatter_reduce(0, root_b, smaller, "amin")
        new = new[new]
        if torch.equal(new, block):
            return block
        block = new


def _grouped(key: Tensor, values: Tensor) -> dict[int, Tensor]:
    """The values (n,) of each key (n,), in order."""
    in_order, order = torch.sort(key, stable=True)
    names, sizes = in_order.unique_consecutive(return_counts=True)
    return dict(zip(names.tolist(), values[order].split(sizes.tolist()), strict=True))


def one_value(tensor: Tensor) -> bool:
    """Whether all values of a tensor are the same."""
    return tensor.numel() < 2 or bool((tensor == tensor.flatten()[0]).all())


def _shrunk(labels: Tensor) -> Tensor:
    """Labels with length 1 along every axis where they do not change."""
    for dim, length in enumerate(labels.shape):
        first = labels.narrow(dim, 0, min(length, 1))
        if length > 1 and (labels.stride(dim) == 0 or bool((labels == first).all())):
            labels = first
    return labels
