"""calibrate(): a plan for a trained network that includes the order of its channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from octavize.calibration.channel_graph import components
from octavize.calibration.coupling import find_coupling
from octavize.calibration.energy import MAX_IMAGES, Energies, Score, check_score, measure_energy
from octavize.calibration.reorder import Channels, best_order
from octavize.convert.inputs import Example, Inputs
from octavize.convert.planner import Alpha, Planner, Way, check_plan
from octavize.convert.trace import check_network, example_inputs
from octavize.errors import InputError, shown
from octavize.nn.conv import OctConv
from octavize.plans.deciding import DEFAULT_ALPHA, LayerInfo
from octavize.plans.plan import Plan, check_budget, fit_budget
from octavize.plans.planning import check_alone, check_one_of, least_low
from octavize.split import low_channels


def calibrate(
    model: nn.Module,
    images: Iterable[object],
    alpha: Alpha | None = None,
    *,
    budget: float | None = None,
    plan: Plan | None = None,
    exchange: Way | None = None,
    downsample: Way | None = None,
    min_low: int | None = None,
    example: Example | None = None,
    score: Score = "output",
    max_images: int = MAX_IMAGES,
) -> Plan:
    """Plan a trained network so that the channels that lose least become low, instead of the last ones.

    The network is not changed. `octavize(model, plan)` puts its channels into the plan's order, in which the
    network computes the same up to rounding, and makes it octave.

    Args:
        model: a trained vanilla network.
        images: batches of prepared images, such as a DataLoader, see `convert.loaders.images_of`.
        alpha, exchange, min_low: see `octavize.plan`.
        example: see `octavize.plan`. Of a network of several inputs, or of whole numbers, the batches
            hold as much as it, see `images_of`; there it is needed beside a plan, too.
        budget: instead of alpha, the octave network's MACs as a share of the vanilla network's. α may differ
            from layer to layer: the channels become low that lose least for the MACs they save.
        plan: a plan to follow, such as one of `octavize.tune`, instead of the other five.
        downsample: see `octavize.plan`; trained weights lose less with `stride`.
        score: what a channel loses: "output", how far the network's outputs move, to first order; "damage",
            the predicted error in the layers that read it, which needs no gradient; or "share", the energy
            that averaging takes from it, relative to its map. With a budget only "output" compares the
            channels of different layers well.
        max_images: how many of the images to use.

    Returns:
        The plan. Its `permutation` is the order of channels, and its `reordering` predicts what this order
        keeps.

    Raises:
        InputError: see `octavize.plan`; or images or score are bad, the network is octave already, no
            gradient passes through it, or the plan is for another network or has the other argument itself.
        RuntimeError: the reordered network would not compute the same.
    """
    check_score(score)
    _check_vanilla(model)
    if plan is not None:
        if not isinstance(plan, Plan):
            raise InputError(f"plan={shown(plan)}: give an octavize.Plan, such as Plan.load(path)")
        own: dict[str, object] = {"exchange": exchange, "downsample": downsample, "min_low": min_low}
        several = example is not None and isinstance(example_inputs(model, example), Inputs)
        check_alone(alpha=alpha, budget=budget, **own, example=None if several else example)
        check_plan(replace(plan, permutation=None), model)  # a new order replaces the plan's
        example = example if several else plan.input_shape  # the network may accept no other
    check_one_of(alpha, budget)
    min_low = least_low(min_low, alpha)
    planner = Planner(model, exchange=exchange, downsample=downsample, min_low=min_low, example=example)
    if budget is not None:
        check_budget(budget)
    elif plan is None:  # reports mistakes before it reads the images, which takes longer
        plan = planner.plan(DEFAULT_ALPHA if alpha is None else alpha)
    channels = Channels(model, find_coupling(model, planner.inputs))
    energies = measure_energy(model, images, score=score, max_images=max_images, like=planner.inputs)
    if plan is None:
        assert budget is not None
        plan = fit_budget(budget, _planned_by_cost(planner, channels, energies, score))
    low = _low_counts(planner.layers, plan)
    permutation, reordering = best_order(channels, energies, low, score, planner.inputs)
    return replace(plan, permutation=permutation if permutation.key else None, reordering=reordering)


def _check_vanilla(model: nn.Module) -> None:
    check_network(model)
    octave = [name for name, m in model.named_modules() if isinstance(m, OctConv) and m.alpha]
    if octave:
        raise InputError(
            f"model: {type(model).__name__} is octave already, such as in {octave[0]!r}: calibrate the "
            "vanilla network"
        )


def _low_counts(layers: Mapping[str, LayerInfo], plan: Plan) -> dict[str, int]:
    """Low output channels of each layer that decides them itself; a depthwise layer keeps its input's."""
    geometries = {name: (alpha, layers[name].geometry) for name, alpha in plan.alphas.items()}
    return {
        name: low_channels(geometry.out_channels, alpha, geometry.groups)
        for name, (alpha, geometry) in geometries.items()
        if not geometry.depthwise
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
    price: dict[int, Tensor] = {}  # what each channel of a family loses for the MACs that it saves, (C,)
    for name, family in families.items():  # the layers of a family make the same channels: any will do
        price[family] = cost[blocks[name]] / max(float(saving[blocks[name]].mean()), 1.0)
    rank = _ranks(price)
    channels_in_all = sum(map(len, rank.values()))

    def at(level: float) -> Plan:
        count = round(level * channels_in_all)
        share = {family: float((ranks < count).double().mean()) for family, ranks in rank.items()}
        alphas = {name: share[family] for name, family in families.items()}
        return planner.plan(lambda name, module: alphas.get(name, 0.0))

    return at


def _ranks(price: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Places of all channels, from 0 for the cheapest, by family: (C,). Equal prices are shared evenly."""
    found = [torch.zeros(0, dtype=torch.float64), *price.values()]
    own = [torch.zeros(0), *(p.argsort(stable=True).argsort() / len(p) for p in price.values())]
    by_own = torch.cat(own).argsort(stable=True)
    order = by_own[torch.cat(found)[by_own].argsort(stable=True)]
    return dict(zip(price, order.argsort().split([len(p) for p in price.values()]), strict=True))


def _families(blocks: Mapping[str, Tensor]) -> dict[str, int]:
    """Layers that make a channel together belong to one family, named by its first layer's number.

    Args:
        blocks: of the channels that each layer makes, (C_out,).
    """
    if not blocks:
        return {}
    layers = torch.arange(len(blocks)).repeat_interleave(torch.tensor([len(b) for b in blocks.values()]))
    made = torch.cat([*blocks.values()]) + len(blocks)  # beside the numbers of layers
    family = components(int(made.max()) + 1, layers, made)
    return dict(zip(blocks, family.tolist(), strict=False))


def _macs_by_block(channels: Channels, plan: Plan) -> Tensor:
    """MACs that depend on each block, half with the layer that makes it, half with those that read it."""
    total = torch.zeros(len(channels.coupling.block), dtype=torch.float64)
    for decision in plan.decisions:
        for labels in (channels.made(decision.name), channels.read(decision.name)):
            if labels is not None:
                share = torch.full((len(labels),), decision.macs_before / 2 / len(labels)).double()
                total.index_add_(0, channels.coupling.block[labels], share)
    return total
