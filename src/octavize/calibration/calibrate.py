"""Plan a trained network and put its channels in the order that the plan wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octavize.calibration.coupling import find_coupling
from octavize.calibration.energy import MAX_IMAGES, Energies, Score, check_score, measure_energy
from octavize.calibration.reorder import Channels, Reordering, reorder
from octavize.convert.planner import DEFAULT_ALPHA, Alpha, Planner, check_one_of, check_plan
from octavize.nn.conv import is_depthwise
from octavize.plan import Plan, check_budget, fit_budget
from octavize.split import low_channels


def calibrate(
    model: nn.Module,
    loader: Iterable[Any],
    alpha: Alpha = DEFAULT_ALPHA,
    *,
    budget: float | None = None,
    plan: Plan | None = None,
    downsample: str = "stride",
    example: Tensor | Sequence[int] | None = None,
    score: Score = "damage",
    max_images: int = MAX_IMAGES,
) -> tuple[Plan, Reordering]:
    """Plan a trained network and reorder its channels, in place, so that those that lose least become low.

    The network stays vanilla and computes the same, to rounding; `octavize(model, plan=plan)` makes it
    octave. `octavize(model, alpha, calibrate=loader)` does both on a copy.

    Args:
        model: a trained vanilla network.
        loader: batches of prepared images, see `calibration.energy.measure_energy`.
        alpha, example: see `octavize.plan`.
        downsample: see `OctConv2d`; trained weights keep more of what they know by `stride`.
        budget: instead of alpha, the octave network's MACs as a share of the vanilla network's. α may differ
            from layer to layer: low become the channels that lose least for the MACs they save.
        plan: a plan to follow, in place of alpha or budget.
        score: what a channel loses: "damage", the error it is predicted to make in the layers that read it,
            or "share", its own energy above half the sampling rate.
        max_images: how many images of the loader to use.

    Returns:
        The plan, and what the reordering is predicted to keep.

    Raises:
        InputError: as `octavize.plan`, a bad loader or score, or a plan for another network.
        RuntimeError: the reordered network would compute something else. The model is left as it was.
    """
    check_score(score)
    if plan is not None:
        check_plan(plan, model)
        example = plan.input_shape if example is None else example  # the network may take no other
    planner = Planner(model, downsample=downsample, example=example)
    if plan is None and budget is None:
        plan = planner.plan(alpha)  # mistakes show before the images are read, which takes longer
    elif plan is None:
        assert budget is not None
        check_one_of(alpha, budget)
        check_budget(budget)
    channels = Channels(model, find_coupling(model, planner.shape))
    energies = measure_energy(model, loader, max_images=max_images)
    if plan is None:
        assert budget is not None
        plan = fit_budget(budget, _planned_by_cost(planner, channels, energies, score))
    report = reorder(channels, energies, _low_counts(model, plan), score=score, example=planner.shape)
    return plan, report


def _low_counts(model: nn.Module, plan: Plan) -> dict[str, int]:
    """Low output channels of each layer that decides them itself; a depthwise layer keeps its input's."""
    layers: dict[str, Any] = {name: (alpha, model.get_submodule(name)) for name, alpha in plan.alphas.items()}
    return {
        name: low_channels(conv.out_channels, alpha, conv.groups)
        for name, (alpha, conv) in layers.items()
        if not is_depthwise(conv)
    }


def _planned_by_cost(
    planner: Planner, channels: Channels, energies: Energies, score: Score
) -> Callable[[float], Plan]:
    """From the share of all channels that are low, a plan with α by what low channels lose and save."""
    uniform = planner.plan(DEFAULT_ALPHA)
    made = {name: channels.made(name) for name, alpha in uniform.alphas.items() if alpha > 0}
    blocks = {name: channels.coupling.block[labels] for name, labels in made.items() if labels is not None}
    families = _families(blocks)
    cost, saving = channels.by_block(energies.scores(score)), _macs_by_block(channels, uniform)
    costs: dict[int, Tensor] = {}
    savings: dict[int, float] = {}
    for name, family in families.items():  # the layers of a family make the same channels: any will do
        costs[family] = cost[blocks[name]]
        savings[family] = float(saving[blocks[name]].mean())

    def at(level: float) -> Plan:
        alphas = alphas_by_cost(families, costs, savings, level)
        return planner.plan(lambda name, module: alphas.get(name, 0.0))

    return at


def _families(blocks: Mapping[str, Tensor]) -> dict[str, int]:
    """Layers that make a channel together belong to one family, named by its first layer's number."""
    family = {name: number for number, name in enumerate(blocks)}
    owner: dict[int, int] = {}
    for name, own in blocks.items():
        met = {owner[b] for b in own.tolist() if b in owner}
        joined = min([family[name], *met])
        for other, number in family.items():
            if number in met:
                family[other] = joined
        for b, number in owner.items():
            if number in met:
                owner[b] = joined
        family[name] = joined
        owner |= dict.fromkeys(own.tolist(), joined)
    return family


def _macs_by_block(channels: Channels, plan: Plan) -> Tensor:
    """MACs that depend on each block, half with the layer that makes it, half with those that read it."""
    total = torch.zeros(len(channels.coupling.block), dtype=torch.float64)
    for decision in plan.decisions:
        for labels in (channels.made(decision.name), channels.read(decision.name)):
            if labels is not None:
                share = torch.full((len(labels),), decision.macs_before / 2 / len(labels)).double()
                total.index_add_(0, channels.coupling.block[labels], share)
    return total


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
