"""The labels of every tensor of a run: what `label_rules` reads and writes.

A label tensor has the shape of its tensor and its strides, so that a view of one is a view of the other, and
lives on the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from octavize.calibration.labels import FROZEN, NEUTRAL, Ledger
from octavize.nn._torch_internals import mapping_from_tensors


class NotUnderstood(Exception):
    """A rule cannot tell what an operation does to channels: whatever it read is frozen."""


@dataclass(frozen=True)
class Weight:
    """A parameter, or a view of it with its axes in another order: axis i is axis `dims[i]` of `name`."""

    name: str
    dims: tuple[int | None, ...]  # None for an axis of length 1 that the parameter does not have


class Book:
    """Labels of the tensors of one run.

    Args:
        ledger: where relations are entered.
        model: its parameters and buffers are known by name.
    """

    def __init__(self, ledger: Ledger, model: nn.Module) -> None:
        self.ledger = ledger
        self._labels = mapping_from_tensors()
        self._weights = mapping_from_tensors()
        self._constants = mapping_from_tensors()
        self._axes: dict[tuple[str, int], Tensor] = {}
        named = [*model.named_parameters(), *model.named_buffers()]
        memory = Counter(t.untyped_storage().data_ptr() for _, t in named)
        self._shared = {name for name, t in named if memory[t.untyped_storage().data_ptr()] > 1}
        for name, t in named:
            if t.is_floating_point():
                self._weights[t] = Weight(name, tuple(range(t.dim())))

    # ---- parameters ---------------------------------------------------------------------------------

    def weight(self, tensor: Tensor) -> Weight | None:
        """The parameter that `tensor` is, or is a view of."""
        return self._weights.get(tensor)

    def set_weight(self, tensor: Tensor, weight: Weight) -> None:
        self._weights[tensor] = weight

    def axis(self, tensor: Tensor, dim: int) -> Tensor:
        """The labels of one axis of a parameter, (length,).

        Raises:
            NotUnderstood: the tensor is no parameter, as a weight computed from others.
        """
        weight = self.weight(tensor)
        if weight is None:
            raise NotUnderstood
        return self._axis(weight, dim, tensor.shape[dim])

    def _axis(self, weight: Weight, dim: int, length: int) -> Tensor:
        own = weight.dims[dim]
        if own is None or length == 1:
            return torch.zeros(length, dtype=torch.long)
        key = (weight.name, own)
        if key not in self._axes:
            self._axes[key] = self.ledger.new_axis(length, *key)
            if weight.name in self._shared:  # two names for one memory: it would be permuted twice
                self.ledger.freeze(self._axes[key])
        return self._axes[key]

    # ---- all tensors --------------------------------------------------------------------------------

    def __getitem__(self, tensor: Tensor) -> Tensor:
        """The labels of a tensor.

        Raises:
            NotUnderstood: a parameter with several axes, outside of a convolution or matrix product.
        """
        if tensor not in self._labels:
            self._labels[tensor] = self._first_labels(tensor)
        return self._labels[tensor]

    def __setitem__(self, tensor: Tensor, labels: Tensor) -> None:
        self._labels[tensor] = labels

    def _first_labels(self, tensor: Tensor) -> Tensor:
        weight = self.weight(tensor)
        if weight is not None:
            long = [dim for dim, n in enumerate(tensor.shape) if n > 1]
            if len(long) > 1:
                raise NotUnderstood
            if not long:
                return _spread(NEUTRAL, tensor)
            after = tensor.dim() - 1 - long[0]
            labels = self._axis(weight, long[0], tensor.shape[long[0]])
            return _spread(labels.reshape(-1, *[1] * after), tensor)
        self._constants[tensor] = True
        return _spread(NEUTRAL if one_value(tensor) else FROZEN, tensor)

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor is neither a parameter nor computed from anything."""
        return tensor in self._constants or not (tensor in self._labels or tensor in self._weights)

    def hold(self, tensor: Tensor, labels: Tensor | int) -> None:
        """Give a new tensor its labels, of its shape or to be broadcast to it."""
        self._labels[tensor] = _spread(labels, tensor)

    def freeze(self, tensor: Tensor) -> None:
        """Keep every channel that `tensor` holds where it is."""
        weight = self.weight(tensor)
        if weight is None:
            self.ledger.freeze(self[tensor])
        else:
            for dim, length in enumerate(tensor.shape):
                self.ledger.freeze(self._axis(weight, dim, length))

    # ---- maps as channels ---------------------------------------------------------------------------

    def over(self, tensor: Tensor, dims: Sequence[int]) -> Tensor:
        """The labels of a tensor along its other axes, `dims` kept with length 1.

        Raises:
            NotUnderstood: they differ along `dims`, other than by padding of one value.
        """
        labels = self[tensor]
        if not dims or labels.numel() == 0:
            return labels
        top = labels.amax(tuple(dims), keepdim=True)
        padding = (labels == NEUTRAL) & (top != NEUTRAL)
        if not ((labels == top) | padding).all():
            raise NotUnderstood
        if padding.any() and not one_value(tensor.cpu()[padding]):
            raise NotUnderstood
        return top

    def channels(self, tensor: Tensor, spatial: int) -> Tensor:
        """The labels of the channels (C,) of a map ([N,] C, *size) with `spatial` axes.

        Raises:
            NotUnderstood: the labels of a channel differ over space, or from image to image.
        """
        labels = self.over(tensor, range(tensor.dim() - spatial, tensor.dim()))
        labels = labels.reshape(-1, tensor.shape[tensor.dim() - spatial - 1])
        return same_rows(labels)

    def join(self, read: Tensor, axis: Tensor) -> None:
        """A weight's `axis` (C,) reads channels `read` (C,). Channels without a label must stay in place."""
        self.ledger.relate(read, axis)
        self.ledger.freeze(axis[read == NEUTRAL])


def one_value(tensor: Tensor) -> bool:
    """Whether all values of a tensor are the same."""
    return tensor.numel() < 2 or bool((tensor == tensor.flatten()[0]).all())


def same_rows(labels: Tensor) -> Tensor:
    """The row (n,) that all rows of (m, n) are equal to.

    Raises:
        NotUnderstood: they are not.
    """
    if not (labels == labels[:1]).all():
        raise NotUnderstood
    return labels[0]


def _spread(labels: Tensor | int, tensor: Tensor) -> Tensor:
    """Labels of the shape and strides of `tensor`."""
    held = torch.empty_like(tensor, dtype=torch.long, device="cpu")
    return held.copy_(labels) if isinstance(labels, Tensor) else held.fill_(labels)
