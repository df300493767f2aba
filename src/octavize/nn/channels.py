"""Tensors with one entry a channel, parted into those of the high and the low channels, and joined again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavize.split import Runs, channels_of, logical_order, segments

_FEW = 8  # so many pieces are cheaper to concatenate than to index


def cut(values: Tensor, runs: Runs, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Cut `values`, which has one entry a channel along `dim`, into its (high, low) parts.

    For the usual two runs both parts are views, so writing into them writes into `values`.
    """
    if len(runs) == 2:
        high, low = values.split(list(runs), dim)  # not narrow(): its backward fills and adds whole weights
        return high, low
    if len(runs) > _FEW:
        return take(values, channels_of(runs, False), dim), take(values, channels_of(runs, True), dim)
    high = [values.narrow(dim, s.start, s.count) for s in segments(runs) if not s.is_low]
    low = [values.narrow(dim, s.start, s.count) for s in segments(runs) if s.is_low]
    empty = values.narrow(dim, 0, 0)
    return torch.cat(high or [empty], dim), torch.cat(low or [empty], dim)


def uncut(high: Tensor, low: Tensor, runs: Runs, dim: int = 1) -> Tensor:
    """The inverse of `cut`: bring two parts of equal size into logical channel order."""
    if runs[1] == 0 and len(runs) == 2:
        return high
    if len(runs) > _FEW:
        return take(torch.cat([high, low], dim), logical_order(runs), dim)
    parts = [(low if s.is_low else high).narrow(dim, s.half_start, s.count) for s in segments(runs)]
    return torch.cat(parts, dim)


def take(values: Tensor, index: Sequence[int], dim: int) -> Tensor:
    """The entries of `values` at `index` along `dim`: a view where they are neighbors."""
    start = index[0] if index else 0
    if tuple(index) == tuple(range(start, start + len(index))):
        return values.narrow(dim, start, len(index))
    return values.index_select(dim, torch.tensor(index, dtype=torch.long, device=values.device))
