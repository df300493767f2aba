"""octavize(): plan, then swap the layers. The network's own forward does the rest."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

from paddle import nn

from octavize.errors import InputError
from octavize.paddle.inputs import Example
from octavize.paddle.planner import Alpha, Planner, Way, check_plan
from octavize.paddle.swap import swap
from octavize.paddle.trace import check_network
from octavize.plans.deciding import DEFAULT_ALPHA
from octavize.plans.plan import Plan
from octavize.plans.planning import check_alone, least_low, warn_if_nothing

Network = TypeVar("Network", bound=nn.Layer)


def octavize(
    model: Network,
    alpha_or_plan: Alpha | Plan = DEFAULT_ALPHA,
    *,
    exchange: Way | None = None,
    downsample: Way | None = None,
    min_low: int | None = None,
    example: Example | None = None,
    strict: bool = False,
    inplace: bool = False,
) -> Network:
    """Make a CNN octave: its convolutions become octave convolutions, its own forward does the rest.

    The state dict stays that of the vanilla network: vanilla checkpoints load before or after. `plan` takes
    the same arguments and tells what happens to which layer, and why.

    Args:
        model: the network; unchanged unless `inplace`. If it is octave already, it gets the new α, and its
            layers keep their exchange and downsample unless others are given.
        alpha_or_plan: share of low output channels: a number, a mapping from name patterns to numbers, or a
            function of (name, layer), see `octavize.paddle.plan`. Or a plan, edited or not, which is applied
            as it is; a plan file serves both frameworks where their networks name their layers alike.
        exchange, downsample, min_low, example: see `octavize.paddle.plan`. A plan has its own.
        strict: the network refuses functions without an octave rule instead of using the dense map.
        inplace: convert `model` itself instead of a copy.

    Returns:
        The octave network, in the same mode, with the same hooks and frozen parameters.

    Raises:
        InputError: see `octavize.paddle.plan`; or the plan is for another network, or has the other argument
            itself.

    Examples:
        >>> net = octavize(paddle.vision.models.resnet50(), {"*": 0.5, "layer4.*": 0})
    """
    check_network(model)
    if alpha_or_plan is None or isinstance(alpha_or_plan, (str, Path)):
        raise InputError(
            f"alpha={alpha_or_plan!r}: give a share of low channels, such as 0.5, or an octavize.Plan, such "
            "as Plan.load(path)"
        )
    if isinstance(alpha_or_plan, Plan):
        check_alone(exchange=exchange, downsample=downsample, min_low=min_low, example=example)
        check_plan(alpha_or_plan, model)
        plan = alpha_or_plan
    else:
        min_low = least_low(min_low, alpha_or_plan)
        planner = Planner(model, exchange=exchange, downsample=downsample, min_low=min_low, example=example)
        plan = planner.plan(alpha_or_plan)
        warn_if_nothing(type(model).__name__, plan, alpha_or_plan)
    if not inplace:
        model = copy.deepcopy(model)
    swap(model, plan.decisions, strict=strict)
    return model
