"""Tensors with one entry per channel: split into high and low channels, and merged again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavize.split import ChannelLayout, high_indices, logical_order, low_indices, segments

_FEW = 8  # up to so many segments, concatenation is cheaper than indexing


def split_channels(values: Tensor, layout: ChannelLayout, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Split `values`, which has one entry per channel along `dim`, into its (high, low) parts.

    With the usual layout of two counts both parts are views: writing into them writes into `values`.
    """
    if len(layout) == 2:
        high, low = values.split_with_sizes(layout, dim)  # narrow()'s backward adds two full-size gradients
        return high, low
    if len(layout) > _FEW:
        return take_channels(values, high_indices(layout), dim), take_channels(
            values, low_indices(layout), dim
        )
    high = [values.narrow(dim, s.start, s.count) for s in segments(layout) if not s.is_low]
    low = [values.narrow(dim, s.start, s.count) for s in segments(layout) if s.is_low]
    empty = values.narrow(dim, 0, 0)
    return torch.cat(high or [empty], dim), torch.cat(low or [empty], dim)


def merge_channels(high: Tensor, low: Tensor, layout: ChannelLayout, dim: int = 1) -> Tensor:
    """The inverse of `split_channels`: bring two parts of equal size into logical channel order."""
    if len(layout) == 2:
        return high if layout[1] == 0 else low if layout[0] == 0 else torch.cat((high, low), dim)
    if len(layout) > _FEW:
        return take_channels(torch.cat((high, low), dim), logical_order(layout), dim)
    parts = [(low if s.is_low else high).narrow(dim, s.half_start, s.count) for s in segments(layout)]
    return torch.cat(parts, dim)


def take_channels(values: Tensor, index: Sequence[int], dim: int, *, copy: bool = False) -> Tensor:
    """The entries of `values` at `index` along `dim`: a view where they are neighbors, unless `copy`."""
    start = index[0] if index else 0
    if tuple(index) == tuple(range(start, start + len(index))):
        part = values.narrow(dim, start, len(index))
        return part.clone() if copy else part
    return values.index_select(dim, torch.tensor(index, dtype=torch.long, device=values.device))
