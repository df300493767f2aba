"""tune(): the fastest network within a budget of MACs: α by stage, from times measured on this machine.

Octave layers of equal arithmetic take unequal time: it depends on their channels, the size of the map and the
runtime. So layers are grouped in stages: those that write maps of one size. Each stage alone is made octave
at every level of α, and timed in turns with the vanilla network. The savings of the stages add up well enough
to find the best combinations. Those are timed as whole networks, and so is one α for all layers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from octavize.bench.contenders import VANILLA, Contender
from octavize.bench.environment import told_once
from octavize.bench.ratios import time_group
from octavize.bench.runtimes import EXPORTED, Setting, check_precisions, choose_runtimes
from octavize.convert.inputs import Example, Inputs
from octavize.convert.octavize import octavize
from octavize.convert.planner import Planner, Way
from octavize.errors import InputError, whole
from octavize.plans.plan import Plan, check_budget, fit_budget
from octavize.plans.planning import least_low
from octavize.report.progress import steps

logger = logging.getLogger(__name__)
RUNTIMES = (*EXPORTED, "compile")
LEVELS = (0.25, 0.5, 0.75)
"""α that a stage may get. Quarters keep the channels of the usual widths multiples of a vector's length."""
MARGIN = 0.02
"""How far below its budget a network may stay: with less arithmetic it would be faster, but also do less."""
FINALISTS = 3
Stage = tuple[str, ...]


def tune(
    model: nn.Module,
    budget: float,
    runtime: str,
    *,
    batch: int = 1,
    threads: int | None = None,
    rounds: int = 15,
    precision: str = "float32",
    exchange: Way | Sequence[Way] | None = None,
    downsample: Way | None = None,
    min_low: int | None = None,
    example: Example | None = None,
) -> Plan:
    """Plan the fastest octave network within a budget: α by stage, from times measured on this machine.

    It takes minutes; leave the machine idle meanwhile. `octavize(model, plan)` applies the plan, and
    `calibrate(model, images, plan=plan)` also chooses which channels become low.

    Args:
        model: a network of torch convolutions. It is not changed.
        budget: the octave network's MACs as a share of the vanilla network's. The plan takes no more, and at
            most 0.02 less.
        runtime: the runtime to tune for: `onnxruntime`, `openvino` or `compile`; on the CPU.
        batch: images per call.
        threads: threads per call; None is one per core.
        rounds: timed calls of each network.
        precision: `float32`; or of exported files `bf16` or `int8`, if the runtime has it.
        exchange: see `octavize.plan`; or a list, of which the fastest is chosen.
        downsample, min_low, example: see `octavize.plan`.

    Returns:
        The plan. As measured, its network is never slower than that of one α for all layers; where no other
        is near enough to the budget, as with a large `min_low`, it is that one, which may take less. Accuracy
        is not considered.

    Raises:
        InputError: the runtime is unknown, not installed or lacks the precision, the budget is out of reach,
            or batch, threads or rounds is below 1; see also `octavize.plan`.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime={runtime!r}: give one of {', '.join(RUNTIMES)}")
    check_budget(budget)
    check_precisions([precision], [runtime])
    how: Any = {"batch": batch, "threads": threads, "rounds": rounds, "precision": precision}
    exchanges: list[Any] = list(exchange) if isinstance(exchange, (list, tuple)) else [exchange]
    if not exchanges:
        raise InputError("exchange=[]: give at least one, such as 'every'")
    tuners: dict[str, Tuner] = {}
    for each in exchanges:
        planner = Planner(
            model, exchange=each, downsample=downsample, min_low=least_low(min_low, None), example=example
        )
        tuners[str(each)] = Tuner(planner, runtime, **how)
    with told_once():
        plans = {told: tuner.plan(budget) for told, tuner in tuners.items()}
        if len(plans) == 1:
            return next(iter(plans.values()))
        ratios = next(iter(tuners.values())).ratios(plans)
    return plans[min(ratios, key=ratios.__getitem__)]


@dataclass(frozen=True)
class Choice:
    """α of some stages, and what they save of the vanilla network's arithmetic and time, as shares."""

    alphas: tuple[float, ...]
    macs_saved: float
    time_saved: float


class Tuner:
    """Finds the fastest plans of one network in one runtime, for any number of budgets.

    Args, Raises:
        See `tune`; `planner` is of the network.
    """

    def __init__(
        self,
        planner: Planner,
        runtime: str,
        *,
        batch: int = 1,
        threads: int | None = None,
        rounds: int = 15,
        precision: str = "float32",
    ) -> None:
        self.rounds, self.batch = whole("rounds", rounds, 1), whole("batch", batch, 1)
        self.threads = (os.cpu_count() or 1) if threads is None else whole("threads", threads, 1)
        self.planner, self.precision = planner, precision
        self.runtimes = choose_runtimes([runtime])

    def plan(self, budget: float) -> Plan:
        """The plan of the fastest network of a budget, see `tune`.

        The first call takes minutes: three networks a stage are brought into the runtime.

        Raises:
            InputError: a budget out of reach.
        """
        candidates = {"one α": fit_budget(budget, self.planner.plan)}
        for choice, plan in self._finalists(budget):
            candidates[f"α by stage {', '.join(f'{alpha:g}' for alpha in choice.alphas)}"] = plan
        ratios = self.ratios(candidates)
        for name, ratio in ratios.items():
            logger.info(f"{name}: {candidates[name].macs_ratio:.3f} of the MACs, {ratio:.3f} of the time")
        return candidates[min(ratios, key=ratios.__getitem__)]

    @cached_property
    def options(self) -> dict[Stage, list[Choice]]:
        """What each stage alone saves at each level of α; staying vanilla is one of the choices."""
        found = stages(self.planner)
        return {stage: self._measured(stage) for stage in steps(found, "trying stages")}

    def ratios(self, plans: Mapping[str, Plan]) -> dict[str, float]:
        """For each plan its network's time as a share of the vanilla network's, the median of all rounds."""
        every = {VANILLA: self.planner.plan(0.0), **plans}
        networks = [self._network(name, plan) for name, plan in every.items()]
        with TemporaryDirectory() as folder:
            setting = Setting(self.batch, self.threads, "cpu", Path(folder))
            rows = time_group(networks, self.runtimes, setting, self.rounds, [self.precision])
        return {row["network"]: row["time_ratio"] for row in rows if row["network"] in plans}

    def _measured(self, stage: Stage) -> list[Choice]:
        plans = {f"{stage[0]} {level:g}": plan_of(self.planner, {stage: level}) for level in LEVELS}
        ratios = self.ratios(plans)
        choices = [Choice((0.0,), 0.0, 0.0)]
        for level, (name, plan) in zip(LEVELS, plans.items(), strict=True):
            choices.append(Choice((level,), 1 - plan.macs_ratio, 1 - ratios[name]))
        saved = ", ".join(f"{c.alphas[0]:g}: {c.macs_saved:.1%} {c.time_saved:.1%}" for c in choices[1:])
        logger.info(f"from {stage[0]} on, {len(stage)} layers; α: MACs and time saved: {saved}")
        return choices

    def _finalists(self, budget: float) -> list[tuple[Choice, Plan]]:
        """The combinations that should be fastest; counted anew, since stages interact at their borders."""
        options, found = self.options, []
        for choice in sorted(combine(options.values()), key=lambda c: -c.time_saved):
            if abs(1 - choice.macs_saved - budget) < 2 * MARGIN:
                plan = plan_of(self.planner, dict(zip(options, choice.alphas, strict=True)))
                if budget - MARGIN <= plan.macs_ratio <= budget:
                    found.append((choice, plan))
            if len(found) == FINALISTS:
                break
        return found

    def _network(self, name: str, plan: Plan) -> Contender:
        model = octavize(self.planner.model, plan).cpu().float().eval()
        given = self.planner.inputs
        example = given if isinstance(given, Inputs) else None
        return Contender(name, model, self.planner.shape[1:], plan.macs_after, example=example)


def stages(planner: Planner) -> list[Stage]:
    """The names of the layers that can be octave, together where they write maps of one size, in order."""
    found: dict[tuple[int, ...], list[str]] = {}
    for name in planner.plan(max(LEVELS)).alphas:
        found.setdefault(planner.layers[name].output_size, []).append(name)
    return [tuple(names) for names in found.values()]


def plan_of(planner: Planner, alphas: Mapping[Stage, float]) -> Plan:
    """The plan with these α; layers of no stage get 0."""
    by_name = {name: alpha for stage, alpha in alphas.items() for name in stage}
    return planner.plan(lambda name, module: by_name.get(name, 0.0))


def combine(options: Iterable[Sequence[Choice]]) -> list[Choice]:
    """Combinations of one choice a stage: of those that save about as much arithmetic, the fastest."""
    best = [Choice((), 0.0, 0.0)]
    for choices in options:
        fastest: dict[int, Choice] = {}
        for a in best:
            for b in choices:
                macs, seconds = a.macs_saved + b.macs_saved, a.time_saved + b.time_saved
                near = round(400 * macs)
                if near not in fastest or seconds > fastest[near].time_saved:
                    fastest[near] = Choice(a.alphas + b.alphas, macs, seconds)
        best = list(fastest.values())
    return best
