"""How a plan is made, for any framework: what a run of a network tells, the arguments, and the planner.

A framework runs its networks and tells what ran as a `Trace`; its planner says how (`Planner`).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octavize.errors import InputError, shown, whole
from octavize.plans.deciding import (
    DEFAULT_ALPHA,
    DEFAULT_MIN_LOW,
    LayerInfo,
    decide,
    merge,
    per_layer,
    settle,
)
from octavize.plans.exchanging import Block, by_layer, check_exchange_policy, needs_blocks, places_of
from octavize.plans.geometry import check_downsample
from octavize.plans.plan import Decision, Plan
from octavize.split import check_alpha

Shape = tuple[int, ...]

# ---- a run of a network ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One convolution or fully connected layer as it ran.

    Shapes are (high, low), where low is None for a plain tensor. A layer that runs several times has one
    entry, with the shapes of its first run and the sum of its MACs.
    """

    name: str
    kind: str
    reads_input: bool  # it reads the network's input, or no convolution ran before it
    input: tuple[Shape, Shape | None]
    output: tuple[Shape, Shape | None]
    params: int
    macs: int


@dataclass(frozen=True)
class Fallback:
    """A call that was computed on dense maps, and the octave layers that made the OctTensors it read."""

    function: str
    sources: frozenset[str]
    line: str = ""  # of the network's code

    @property
    def reason(self) -> str:
        """Why the maps have to be dense."""
        return f"{self.function} needs the dense map{self.line and f', at {self.line}'}"


class TraceError(InputError):
    """The network does not run. `fallbacks` are those before the error."""

    fallbacks: list[Fallback]


@dataclass(frozen=True)
class Trace:
    layers: list[Layer]
    macs: int  # of the whole network on one batch of the traced shape
    fallbacks: list[Fallback]
    returned: frozenset[str]  # the octave layers that made the OctTensors in the network's output

    def __getitem__(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)


# ---- arguments ------------------------------------------------------------------------------------------


def check_one_of(alpha: object, budget: float | None) -> None:
    """Check that α and a budget are not both given, and that α is no plan.

    Raises:
        InputError: both are given, or α is a plan.
    """
    if isinstance(alpha, Plan):
        raise InputError("alpha is an octavize.Plan: give it to octavize(model, plan), which applies it")
    if alpha is not None and budget is not None:
        raise InputError(
            f"alpha={shown(alpha)} and budget={shown(budget)}: give one of them, a budget chooses alpha"
        )


def least_low(min_low: int | None, alpha: object) -> int:
    """Low channels that an octave layer has at least.

    Args:
        min_low: as given; None is the default.
        alpha: as given; who names layers or decides on each wants them, however narrow they are.

    Raises:
        InputError: it is no whole number from 0 on.
    """
    if min_low is not None:
        return whole("min_low", min_low, 0)
    return 0 if isinstance(alpha, Mapping) or callable(alpha) else DEFAULT_MIN_LOW


def check_alone(**given: object) -> None:
    """Check that no argument is given that the plan has itself.

    Raises:
        InputError: one is given.
    """
    for name, value in given.items():
        if value is not None:
            told = f"{name}={value!r}" if isinstance(value, (str, float)) else name
            raise InputError(f"{told} and a plan are both given: leave it out, the plan has its own")


def warn_if_nothing(network: str, plan: Plan, alpha: Any) -> None:
    """Warn if a plan changes no layer although α asks for it."""
    wanted = alpha.values() if isinstance(alpha, Mapping) else [alpha]
    if any(wanted) and plan.macs_after == plan.macs_before:
        reasons = sorted({d.reason for d in plan.decisions if not d.alpha})
        warnings.warn(
            f"octavize changed no layer of {network}: "
            f"{'; '.join(reasons) or f'alpha={alpha} is too small for any channel'}",
            UserWarning,
            stacklevel=3,
        )


# ---- the planner ----------------------------------------------------------------------------------------


class Planner(ABC):
    """Makes plans for one network, whose vanilla form was traced once.

    Args:
        network: the name of its class, for messages.
        layers: its convolutions as numbers, by name, in the order in which they ran.
        modules: the same convolutions, which functions of (name, module) get.
        before: the run of the vanilla network, on an input of `shape`.
        exchange, downsample, min_low: see `octavize.plan`; `least_low` gives `min_low` its default.

    Raises:
        InputError: see `octavize.plan`.
    """

    def __init__(
        self,
        network: str,
        layers: Mapping[str, LayerInfo],
        modules: Mapping[str, Any],
        before: Trace,
        shape: Shape,
        *,
        exchange: Any = None,
        downsample: Any = None,
        min_low: int = 0,
    ) -> None:
        self.network, self.layers, self.modules = network, layers, modules
        self.before, self.shape, self.min_low = before, shape, min_low
        exchanges = {name: layer.exchange for name, layer in layers.items()}
        downsamples = {name: layer.downsample for name, layer in layers.items()}
        meeting = per_layer("exchange", exchange, modules, check_exchange_policy, exchanges)
        self.exchanges = by_layer(meeting, self._places(meeting))
        self.downsamples = per_layer("downsample", downsample, modules, check_downsample, downsamples)

    @abstractmethod
    def blocks(self) -> Sequence[Block]:
        """The residual blocks of the vanilla network, in the order in which they run."""

    @abstractmethod
    def run(self, decisions: Sequence[Decision]) -> Trace:
        """Run a copy of the network with these layers octave.

        Raises:
            TraceError: it does not run, perhaps by an impossible fallback, such as a change in place.
        """

    def hidden(self, decisions: Sequence[Decision]) -> Sequence[Fallback]:
        """The calls that need dense maps, though a run of the network with these layers octave shows none.

        Raises:
            InputError: there are such calls, and no layer that made the maps is known.
        """
        return ()

    def _places(self, meeting: Mapping[str, str]) -> dict[str, str]:
        """What each layer ends, a block or a stage, if any layer's exchange depends on it."""
        asked = [exchange for exchange in meeting.values() if needs_blocks(exchange)]
        blocks = self.blocks() if asked else []
        if asked and not blocks:
            warnings.warn(
                f"exchange={asked[0]!r}: {self.network} has no residual block that can be told, "
                "so every layer exchanges as in the paper; name the layers that shall, such as "
                "exchange={'*': 'none', 'features.8': 'both'}",
                UserWarning,
                stacklevel=5,
            )
        return places_of(blocks)

    def plan(self, alpha: Any) -> Plan:
        """The plan for this α."""
        default = dict.fromkeys(self.modules, DEFAULT_ALPHA)
        alphas = per_layer("alpha", alpha, self.modules, check_alpha, default)
        named = alpha if isinstance(alpha, Mapping) else ()
        wanted = decide(self.layers.values(), alphas, self.exchanges, self.downsamples, self.min_low, named)
        decisions, after = self._merge_where_dense(wanted)
        macs_after = {layer.name: layer.macs for layer in after.layers}
        dense = frozenset(layer.name for layer in after.layers if layer.input[1] is None)
        return Plan(
            settle(decisions, self.layers, macs_after, dense),
            self.shape,
            macs_before=self.before.macs,
            macs_after=after.macs,
            fallbacks=dict(Counter(fallback.function for fallback in after.fallbacks)),
        )

    def _merge_where_dense(self, decisions: list[Decision]) -> tuple[list[Decision], Trace]:
        """Set α = 0 for layers whose output the octave network would make dense, and trace the result.

        A layer with α = 0 may reveal the next one, such as along a chain of residual blocks: hence the loop.
        It ends because each turn takes at least one layer.
        """
        while True:
            after, fallbacks = self._tried(decisions)
            merged = merge(decisions, _reasons(fallbacks))
            if merged == decisions and isinstance(after, TraceError):
                raise after
            if merged == decisions:
                merged = merge(decisions, _reasons(self.hidden(decisions)))
            if merged == decisions and isinstance(after, Trace):
                return decisions, after
            decisions = merged

    def _tried(self, decisions: list[Decision]) -> tuple[Trace | TraceError, list[Fallback]]:
        """The run of the octave network or its error, and the calls that read dense maps."""
        try:
            after = self.run(decisions)
        except TraceError as failed:
            return failed, failed.fallbacks
        return after, [*after.fallbacks, Fallback("the network's output", after.returned)]


def _reasons(fallbacks: Iterable[Fallback]) -> dict[str, str]:
    """Why layers have to write dense maps, by name."""
    return {name: fallback.reason for fallback in fallbacks for name in fallback.sources}
