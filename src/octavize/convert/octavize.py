"""octavize(): plan, then swap. The network's own forward does the rest."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from octavize.convert.planner import DEFAULT_ALPHA, Alpha, check_plan
from octavize.convert.planner import plan as make_plan
from octavize.convert.swap import swap
from octavize.convert.trace import check_network
from octavize.errors import InputError
from octavize.plan import Plan


def octavize(
    model: nn.Module,
    alpha: Alpha = DEFAULT_ALPHA,
    *,
    budget: float | None = None,
    target: str | None = None,
    plan: Plan | None = None,
    calibrate: Iterable[Any] | None = None,
    downsample: str | None = None,
    example: Tensor | Sequence[int] | None = None,
    strict: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Make a CNN octave: its convolutions become octave convolutions, its own forward does the rest.

    The state dict stays that of the vanilla network: vanilla checkpoints load before or after. `plan` tells
    what is done to which layer, and why; the arguments are the same.

    Args:
        model: the network. Left alone unless `inplace`.
        alpha, budget, target, example: see `octavize.plan`.
        downsample: how layers of stride 2 reach their high output, see `OctConv2d`. Default: `pool`, as in
            the paper, but `stride` with `calibrate`, since trained weights keep more by it.
        plan: a plan to apply as it is, perhaps edited; it takes the place of the five.
        calibrate: for trained networks: batches of prepared images, such as a DataLoader. The channels that
            lose least by it become low, instead of the last ones, see `octavize.calibrate`. Its state dict is
            that of a vanilla network that computes the same as `model`, in another order of channels.
        strict: the network refuses to compute a function without an octave rule on the dense map.
        inplace: convert `model` itself instead of a copy.

    Returns:
        The octave network, on the same device, in the same mode, with the same hooks and frozen parameters.

    Raises:
        InputError: as `octavize.plan`, or a plan for another network.

    Example:
        >>> net = octavize(torchvision.models.resnet50(weights="DEFAULT"), alpha={"*": 0.5, "layer4.*": 0})
    """
    if plan is not None and not isinstance(plan, Plan):
        raise InputError(f"plan={plan!r}: give an octavize.Plan, such as Plan.load(path)")
    check_network(model)
    if not inplace:
        model = copy.deepcopy(model)
    made: dict[str, Any] = {"budget": budget, "example": example}
    if downsample is not None:
        made["downsample"] = downsample
    if target is not None and plan is None:
        # Whether layers of stride 2 pool is the one thing that calibration prefers otherwise.
        ways = {"downsample": "stride"} if calibrate is not None else {}
        plan = make_plan(model, alpha, target=target, **{**ways, **made})
        made = {"example": example}
    if calibrate is not None:
        from octavize.calibration.calibrate import calibrate as put_in_order

        decided, _ = put_in_order(model, calibrate, alpha, plan=plan, **made)
    elif plan is not None:
        check_plan(plan, model)
        decided = plan
    else:
        decided = make_plan(model, alpha, **made)
    if plan is None:
        _warn_if_nothing(model, decided, alpha)
    swap(model, decided.alphas, strict=strict, downsample=decided.downsample)
    return model


def _warn_if_nothing(model: nn.Module, plan: Plan, alpha: Alpha) -> None:
    wanted = alpha.values() if isinstance(alpha, Mapping) else [alpha]
    if any(wanted) and plan.macs_after == plan.macs_before:
        reasons = sorted({d.reason for d in plan.decisions if not d.alpha})
        warnings.warn(
            f"octavize changed no layer of {type(model).__name__}: "
            f"{'; '.join(reasons) or f'alpha={alpha} is too small for any channel'}",
            UserWarning,
            stacklevel=3,
        )
