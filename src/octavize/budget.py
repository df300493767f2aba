"""α from a budget of arithmetic: one for all layers, or low the channels that lose least by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from octavize.errors import InputError

if TYPE_CHECKING:
    from octavize.plan import Plan

STEPS = 64


def check_budget(budget: float) -> float:
    """Return the budget as a float.

    Raises:
        InputError: it is not a number above 0 and up to 1.
    """
    if isinstance(budget, bool) or not isinstance(budget, Real) or not 0 < budget <= 1:
        raise InputError(
            f"budget={budget!r}: give the octave network's share of the vanilla network's MACs, such as 0.6"
        )
    return float(budget)


def fit_budget(budget: float, make: Callable[[float], Plan]) -> Plan:
    """The first of the plans `make(0)`, `make(1/64)` … `make(1)`, ever cheaper, that fits the budget.

    Args:
        budget: MACs of the octave network as a share of the vanilla network's.
        make: a plan, from a number between 0 (vanilla) and 1 (everything low that can be).

    Raises:
        InputError: even `make(1)` does not fit.
    """
    budget = check_budget(budget)
    cheapest = make(1.0)
    if cheapest.macs_ratio > budget:
        raise InputError(
            f"budget={budget:g} cannot be reached: with every channel low that can be, this network takes "
            f"{cheapest.macs_ratio:.3f} of the vanilla MACs; give at least that"
        )
    fits, too_dear, best = STEPS, -1, cheapest
    while fits - too_dear > 1:
        middle = (fits + too_dear) // 2
        tried = make(middle / STEPS)
        if tried.macs_ratio <= budget:
            fits, best = middle, tried
        else:
            too_dear = middle
    return best


def alphas_by_cost(
    families: Mapping[str, int], cost: Mapping[int, Tensor], saving: Mapping[int, float], level: float
) -> dict[str, float]:
    """α of each layer when the share `level` of all channels is low: those that lose least for their MACs.

    Args:
        families: for each layer, the family of layers whose outputs are added up and so share their α.
        cost: for each family, what each of its channels loses by being low, (C,).
        saving: for each family, the MACs of one of its channels.
        level: share of all channels that are low, from 0 to 1.
    """
    if not cost:
        return {}
    price = {family: values / max(saving[family], 1.0) for family, values in cost.items()}
    every = torch.cat(list(price.values())).sort().values
    count = round(level * len(every))
    threshold = every[count - 1] if count else torch.tensor(-1.0)
    alpha = {family: float((values <= threshold).double().mean()) for family, values in price.items()}
    return {name: alpha[family] for name, family in families.items()}
