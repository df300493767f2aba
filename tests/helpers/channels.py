"""Channels that change places, set by set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octavize.calibration.coupling import Coupling
from octavize.calibration.reorder import permutation_of
from octavize.convert.order import apply_order


def permute(model: nn.Module, coupling: Coupling, orders: Sequence[Tensor]) -> None:
    """Let blocks change places: for each of `coupling.sets`, which block comes to each block's place."""
    source = torch.arange(len(coupling.block))
    for members, order in zip(coupling.sets, orders, strict=True):
        source[members] = members[order]
    apply_order(model, permutation_of(model, coupling, source))


def movable(coupling: Coupling, name: str, dim: int) -> list[int]:
    """How many places each channel of an axis may take, its own included; none if the run did not use it."""
    labels = coupling.axes.get((name, dim))
    return [] if labels is None else coupling.partners()[labels].tolist()
