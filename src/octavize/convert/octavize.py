"""octavize(): plan, then swap the layers. The network's own forward does the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import nn

from octavize.convert.inputs import Example
from octavize.convert.order import apply_order
from octavize.convert.planner import Alpha, Planner, Way, check_plan
from octavize.convert.restructuring import guard
from octavize.convert.swap import swap
from octavize.convert.trace import check_network, copied
from octavize.errors import InputError
from octavize.plans.deciding import DEFAULT_ALPHA
from octavize.plans.plan import Plan
from octavize.plans.planning import check_alone, least_low, warn_if_nothing

Network = TypeVar("Network", bound=nn.Module)


def octavize(
    model: Network,
    alpha_or_plan: Alpha | Plan = DEFAULT_ALPHA,
    *,
    exchange: Way | None = None,
    downsample: Way | None = None,
    min_low: int | None = None,
    example: Example | None = None,
    strict: bool | None = None,
    inplace: bool = False,
) -> Network:
    """Make a CNN octave: its convolutions become octave convolutions, its own forward does the rest.

    The state dict stays that of the vanilla network: vanilla checkpoints load before or after. `plan` takes
    the same arguments and tells what happens to which layer, and why.

    Args:
        model: the network; unchanged unless `inplace`. If it is octave already, it gets the new α, and its
            layers keep their exchange and downsample unless others are given.
        alpha_or_plan: share of low output channels: a number, a mapping from name patterns to numbers, or a
            function of (name, module), see `octavize.plan`. Or a plan of `plan`, `tune` or `calibrate`,
            edited or not, which is applied as it is.
        exchange, downsample, min_low, example: see `octavize.plan`. A plan has its own.
        strict: the network refuses functions without an octave rule instead of using the dense map. Default:
            what a layer that is octave already does, else no.
        inplace: convert `model` itself instead of a copy.

    Returns:
        The octave network, on the same device, in the same mode, with the same hooks and frozen parameters.
        With a plan of `calibrate`, its state dict is that of a vanilla network that computes the same as
        `model`, with its channels in another order. The order belongs to the weights on which it was found;
        a network that is already in this order keeps it.

    Raises:
        InputError: see `octavize.plan`; or the plan is for another network, or has the other argument itself.

    Examples:
        >>> net = octavize(torchvision.models.resnet50(weights="DEFAULT"), {"*": 0.5, "layer4.*": 0})
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
    if not inplace:
        model = copied(model)
    if isinstance(alpha_or_plan, Plan):
        plan = alpha_or_plan
    else:
        min_low = least_low(min_low, alpha_or_plan)
        planner = Planner(model, exchange=exchange, downsample=downsample, min_low=min_low, example=example)
        plan = planner.plan(alpha_or_plan)
        warn_if_nothing(type(model).__name__, plan, alpha_or_plan)
    if plan.permutation is not None:
        apply_order(model, plan.permutation)
    swap(model, plan.decisions, strict=strict)
    guard(model)
    return model
