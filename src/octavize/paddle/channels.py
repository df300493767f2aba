"""Tensors with one entry per channel: split into high and low channels, and merged again.

A part without channels is None: Paddle Inference and ONNX have no maps without channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, concat, index_select

from octavize.split import ChannelLayout, high_indices, logical_order, low_indices


def split_channels(
    values: Tensor, layout: ChannelLayout, dim: int = 0
) -> tuple[Tensor | None, Tensor | None]:
    """Split `values`, which has one entry per channel along `dim`, into its (high, low) parts.

    With the usual layout of two counts both parts are slices, which share their memory with `values` unless a
    program is built.
    """
    return take_channels(values, high_indices(layout), dim), take_channels(values, low_indices(layout), dim)


def merge_channels(high: Tensor | None, low: Tensor | None, layout: ChannelLayout, dim: int = 1) -> Tensor:
    """The inverse of `split_channels`: bring two parts of equal size into logical channel order."""
    if high is None or low is None:
        only = low if high is None else high
        assert only is not None  # a map has channels
        return only
    both = concat([high, low], dim)
    if len(layout) == 2:
        return both
    merged = take_channels(both, logical_order(layout), dim)
    assert merged is not None
    return merged


def take_channels(values: Tensor | None, index: Sequence[int], dim: int) -> Tensor | None:
    """The entries of `values` at `index` along `dim`: a slice where they are neighbors, None without any."""
    if values is None or len(index) == 0:
        return None
    dim %= values.ndim
    start, end = index[0], index[0] + len(index)
    if tuple(index) != tuple(range(start, end)):
        if paddle.in_dynamic_mode():
            return index_select(values, paddle.to_tensor(index, "int64"), dim)
        # OpenVINO 2026.4 computes wrong numbers for a gather over channels in front of a convolution.
        return concat([_part(values, stretch[0], len(stretch), dim) for stretch in _stretches(index)], dim)
    if start == 0 and end == values.shape[dim]:
        return values
    return _part(values, start, len(index), dim)


def _part(values: Tensor, start: int, length: int, dim: int) -> Tensor:
    return values[(*[slice(None)] * dim, slice(start, start + length))]


def _stretches(index: Sequence[int]) -> list[list[int]]:
    """The index in pieces of neighbors."""
    pieces: list[list[int]] = []
    for i in index:
        if pieces and pieces[-1][-1] + 1 == i:
            pieces[-1].append(i)
        else:
            pieces.append([i])
    return pieces
