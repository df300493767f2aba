"""Which channels are tied to which: the book that is kept while a network runs, and what follows from it.

Every place of a parameter's axis has a *label* of its own, and so has every channel that an operation makes:
a feature map carries, at every pixel, the label of its channel. Each operation enters *relations*: pairs of
labels that it brought together, such as a channel and what it was made from. Labels that are related,
however indirectly, move together: they are a *block*.

Two blocks may change places if they look the same to every operation: the same axes hold their labels, in
the same order, and the same relations hold between them. Since each label belongs to one place of one
axis, or to one result of one operation, exchanging two such blocks renames the channels of the network and
changes nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

NEUTRAL = 0  # no channel: scalars, zeros of padding, what is left of a map averaged over its channels
FROZEN = 1  # whatever is tied to this label stays where it is


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter or buffer, with a label a place: `start`, `start + 1`, …

    `name` is None for the channels that one operation made, which no parameter lists.
    """

    name: str | None
    dim: int
    start: int
    length: int

    @property
    def labels(self) -> Tensor:
        return torch.arange(self.start, self.start + self.length)


class Ledger:
    """Gives out labels and keeps the relations between them."""

    def __init__(self) -> None:
        self.axes: list[Axis] = []
        self.count = 2  # labels given out, NEUTRAL and FROZEN included
        self._rows: list[Tensor] = []  # each (3, n): relation, label, label
        self._relations = 0

    def new_axis(self, length: int, name: str | None = None, dim: int = 0) -> Tensor:
        """Fresh labels (length,). A single channel has nothing to change places with: it is neutral."""
        if length == 1:
            return torch.zeros(1, dtype=torch.long)
        return self._give(length, name, dim)

    def _give(self, length: int, name: str | None = None, dim: int = 0) -> Tensor:
        axis = Axis(name, dim, self.count, length)
        self.axes.append(axis)
        self.count += length
        return axis.labels

    def combine(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """Labels of what an operation makes of `a`, or of `a` and `b`, place by place after broadcasting.

        Each pair of labels that meets gets one fresh label, related to both. So a channel that took part in
        an operation can only change places with one that did so too, and a channel and what an operation
        made of it are told apart, wherever they meet again. What is made of nothing but NEUTRAL is NEUTRAL.
        """
        b = torch.tensor(NEUTRAL) if b is None else b
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a, b = a.expand(shape), b.expand(shape)
        # Neighbors are mostly pixels of one channel: taken as one, they spare `unique` the sorting.
        runs, run = (a.flatten() * self.count + b.flatten()).unique_consecutive(return_inverse=True)
        pairs, pair = runs.unique(return_inverse=True)
        left, right = pairs // self.count, pairs % self.count
        made = torch.where((left == FROZEN) | (right == FROZEN), FROZEN, NEUTRAL)
        fresh = (made == NEUTRAL) & (pairs != 0)
        if fresh.any():
            made[fresh] = self._give(int(fresh.sum()))
        self._enter(made, left)
        self._enter(made, right)
        return made[pair][run].reshape(a.shape)

    def relate(self, a: Tensor, b: Tensor) -> None:
        """Enter a relation: `a` met `b`, place by place."""
        pairs = (a * self.count + b).unique()
        self._enter(pairs // self.count, pairs % self.count)

    def _enter(self, a: Tensor, b: Tensor) -> None:
        """Enter a relation of distinct pairs. One with NEUTRAL ties nothing but counts."""
        some = (a != NEUTRAL) | (b != NEUTRAL)
        relation = torch.full_like(a, self._relations)
        self._rows.append(torch.stack([relation, a, b])[:, some])
        self._relations += 1

    def tie(self, rows: Tensor) -> None:
        """Make every row of `rows` (units, members) move as one, its members in this order."""
        for member in range(rows.shape[1]):
            self.relate(rows[:, 0], rows[:, member])

    def freeze(self, labels: Tensor) -> None:
        """Keep these channels where they are."""
        labels = labels.flatten().unique()
        self._enter(labels[labels != NEUTRAL], torch.full_like(labels[labels != NEUTRAL], FROZEN))

    def solve(self) -> tuple[Tensor, list[Tensor]]:
        """What may change places.

        Returns:
            The block of every label, (count,), named by its smallest label; and the interchangeable sets:
            each (blocks, members), the labels of one block a row, equal places of the rows corresponding.
            No frozen block is in a set.
        """
        rows = torch.cat(self._rows, 1) if self._rows else torch.zeros(3, 0, dtype=torch.long)
        pairs = rows[1:]
        block = _components(self.count, pairs[:, (pairs > FROZEN).all(0)])
        with_frozen = _components(self.count, pairs[:, (pairs != NEUTRAL).all(0)])
        features = _features(with_frozen, rows, self._relations, self.axes)
        return block, _interchangeable(with_frozen, features)


def _components(count: int, pairs: Tensor) -> Tensor:
    """The smallest label connected to each label: labels spread along pairs until nothing changes."""
    a, b = pairs
    block = torch.arange(count)
    while True:
        root_a, root_b = block[a], block[b]
        smaller = torch.minimum(root_a, root_b)
        new = block.scatter_reduce(0, root_a, smaller, "amin").scatter_reduce(0, root_b, smaller, "amin")
        new = new[new]
        if torch.equal(new, block):
            return block
        block = new


def _features(block: Tensor, rows: Tensor, relations: int, axes: list[Axis]) -> Tensor:
    """What there is to say about each block, with its labels numbered from 1 within it.

    Returns:
        (2, n): the block, and one number that stands for "its labels i and j are in relation r", or for "its
        label i is on axis a".
    """
    rank, widest = _ranks(block)
    relation, a, b = rows
    owner = torch.where(a != NEUTRAL, block[a], block[b])
    on_axis = torch.cat([torch.full((axis.length,), relations + i) for i, axis in enumerate(axes)] or [a[:0]])
    labels = torch.arange(2, len(block))
    owner = torch.cat([owner, block[labels]])
    relation = torch.cat([relation, on_axis])
    first, second = torch.cat([rank[a], rank[labels]]), torch.cat([rank[b], rank[labels]])
    moves = owner != FROZEN
    if (relations + len(axes) + 1) * (widest + 1) ** 2 >= 2**62:
        moves = torch.zeros_like(moves)  # too large to number: nothing moves
    return torch.stack([owner, (relation * (widest + 1) + first) * (widest + 1) + second])[:, moves]


def _ranks(block: Tensor) -> tuple[Tensor, int]:
    """The number of each label within its block, from 1; 0 for NEUTRAL and whatever is frozen."""
    order = torch.sort(block, stable=True).indices
    sizes = torch.bincount(block, minlength=len(block))
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(block)
    rank[order] = torch.arange(len(block)) - starts[block[order]] + 1
    rank[block <= FROZEN] = 0
    return rank, int(rank.max())


def _interchangeable(block: Tensor, features: Tensor) -> list[Tensor]:
    """Group the blocks whose features are the same."""
    owner, feature = features[:, torch.sort(features[1], stable=True).indices]
    order = torch.sort(owner, stable=True).indices
    owners, sizes = owner[order].unique_consecutive(return_counts=True)
    numbers, alike, end = feature[order].tolist(), defaultdict(list), 0
    for name, size in zip(owners.tolist(), sizes.tolist(), strict=True):
        alike[tuple(numbers[end : end + size])].append(name)
        end += size
    by_block = torch.sort(block, stable=True).indices
    counts = torch.bincount(block, minlength=len(block))
    starts = counts.cumsum(0) - counts
    sets = []
    for names in alike.values():
        if len(names) > 1:
            members = torch.arange(int(counts[names[0]]))
            sets.append(by_block[starts[torch.tensor(names)][:, None] + members])
    return sets
