"""What becomes of each convolution, and why: decided on numbers alone, without a framework.

A framework describes its convolutions as `LayerInfo`; `decide` turns them into the decisions of a plan. Two
things need a run of the octave network first: `merge` sets α = 0 where a layer's output would have to be
dense, and `settle` writes down what the layers cost.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from octavize.errors import InputError
from octavize.plans.geometry import Geometry
from octavize.plans.plan import Decision, Plan, some
from octavize.split import low_channels

DEFAULT_ALPHA = 0.5
DEFAULT_MIN_LOW = 16
"""Low channels below which a layer costs more time than it saves, where nobody asked for the layer itself."""
OCTAVE_REASONS = ("octave", "depthwise: keeps", "no low output")
"""How the reasons begin of layers that planning gives an α above 0; others got theirs by hand."""
Value = TypeVar("Value", float, str)
Layer = TypeVar("Layer")


@dataclass(frozen=True)
class LayerInfo:
    """What a decision on a convolution needs to know.

    Sizes are those of space (and time) when the layer first ran; they are empty if it did not run.
    `exchange` and `downsample` are those of a layer that is octave already.
    """

    name: str
    kind: str
    geometry: Geometry
    octave_dims: int
    has_handler: bool
    reached: bool = False
    reads_input: bool = False
    input_size: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()
    macs: int = 0
    exchange: str = "both"
    downsample: str = "pool"

    def problem(self) -> str | None:
        """Why its geometry cannot be octave, or None."""
        return self.geometry.problem(self.octave_dims)

    def is_pixel(self, size: tuple[int, ...]) -> bool:
        """Whether a map of this size has one pixel; in video, one pixel per frame."""
        return all(n == 1 for n in size[-self.octave_dims :])

    def obstacle(self, named: bool) -> str | None:
        """Why the layer stays vanilla, or None. A stem that is `named` shall be octave."""
        if not self.has_handler:
            return f"{self.kind} is a layer of its own kind, without an @oct_handler"
        if not self.reached:
            return "not reached by the trace: give an example= that reaches it"
        if self.reads_input and not named:
            return "stem: reads the network's input"
        if self.is_pixel(self.input_size):
            return "sees a single pixel: there is no frequency to split"
        return self.problem()


def per_layer(
    argument: str,
    given: Value | Mapping[str, Value] | Callable[[str, Layer], Value] | None,
    layers: Mapping[str, Layer],
    check: Callable[[Value], Value],
    default: Mapping[str, Value],
) -> dict[str, Value]:
    """The value of an argument for each layer.

    Args:
        argument: its name, for messages.
        given: a value for all layers; or a mapping from name patterns to values, where the last pattern that
            matches counts; or a function of (name, layer); or None for the default.
        layers: the layers by name; the function gets both.
        check: returns the value, or raises InputError.
        default: the values where no pattern matches or nothing is given.

    Raises:
        InputError: a value is bad, or a pattern matches no layer.
    """
    if given is None:
        return dict(default)
    if isinstance(given, Mapping):
        _check_patterns(argument, given, layers)
        last_first = [(pattern, check(value)) for pattern, value in given.items()][::-1]
        return {
            name: next((value for pattern, value in last_first if fnmatchcase(name, pattern)), default[name])
            for name in layers
        }
    if callable(given):
        return {name: check(given(name, layer)) for name, layer in layers.items()}
    return dict.fromkeys(layers, check(given))


def _check_patterns(argument: str, patterns: Iterable[object], names: Iterable[str]) -> None:
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(f"{argument}: the pattern {pattern!r} is no text: give names of layers, or '*'")
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"{argument}: the pattern {pattern!r} matches no convolution; names are such as {some(names)}"
            )


def decide(
    layers: Iterable[LayerInfo],
    alphas: Mapping[str, float],
    exchanges: Mapping[str, str],
    downsamples: Mapping[str, str],
    min_low: int,
    named: Container[str] = (),
) -> list[Decision]:
    """What becomes of each of these layers, from the wanted values by name, see `per_layer`.

    Args:
        named: layers whose α was given under their own full name, not by a pattern.
    """
    decisions = []
    for layer in layers:
        alpha, reason = _alpha_and_reason(layer, alphas[layer.name], min_low, layer.name in named)
        exchange, downsample = exchanges[layer.name], downsamples[layer.name]
        decision = Decision(layer.name, layer.kind, alpha, reason, exchange=exchange, downsample=downsample)
        decisions.append(decision)
    return decisions


def _alpha_and_reason(layer: LayerInfo, alpha: float, min_low: int, named: bool) -> tuple[float | None, str]:
    obstacle, geometry = layer.obstacle(named), layer.geometry
    if obstacle is not None:
        return None, obstacle
    if geometry.depthwise:
        return alpha, "depthwise: keeps the split of its input"
    if layer.is_pixel(layer.output_size):
        return 0.0, "merges: writes a single pixel, no frequency to split"
    low = low_channels(geometry.out_channels, alpha, geometry.groups)
    if low == 0:
        return alpha, "no low output: low input, if any, is merged"
    if low < min_low:
        return 0.0, f"narrow: {low} low channels, fewer than min_low={min_low}"
    return alpha, "octave"


def merge(decisions: Iterable[Decision], readers: Mapping[str, str]) -> list[Decision]:
    """Set α = 0 for layers whose output would be made dense at once: `readers` maps them to the reason."""
    return [
        replace(d, alpha=0.0, reason=f"merges: {readers[d.name]}") if d.name in readers and d.alpha else d
        for d in decisions
    ]


def settle(
    decisions: Iterable[Decision],
    layers: Mapping[str, LayerInfo],
    macs_after: Mapping[str, int],
    dense: frozenset[str],
) -> list[Decision]:
    """Write the costs into decisions, and set α = 0 for depthwise layers that read dense maps.

    Args:
        layers: the layers by name.
        macs_after: MACs of the layers that ran in the octave network.
        dense: names of the layers that read a plain map there.
    """
    settled = []
    for d in decisions:
        before, after = layers[d.name].macs, macs_after.get(d.name, 0)
        if d.alpha and d.name in dense and after == before and layers[d.name].geometry.depthwise:
            d = replace(d, alpha=0.0, reason="depthwise: reads a dense map, which has no split to keep")
        settled.append(replace(d, macs_before=before, macs_after=after))
    return settled


def check_plan(plan: Plan, layers: Mapping[str, LayerInfo], network: str) -> None:
    """Check that a plan is for a network with these convolutions, by name.

    Raises:
        InputError: the network lacks a layer of the plan, has it with another kind or geometry, or has one
            that the plan lacks.
    """
    for d in plan.decisions:
        if d.name not in layers:
            raise InputError(
                f"plan: it is for another network: {network} has no layer {d.name!r} that is a convolution; "
                "make one with octavize.plan(model)"
            )
        layer = layers[d.name]
        if d.alpha is None:
            continue
        if not layer.has_handler:
            raise InputError(
                f"plan: layer {d.name!r} is a {layer.kind}, which has no handler: set its alpha to null, or "
                "register one with @octavize.oct_handler"
            )
        if layer.kind.removeprefix("Oct") != d.kind.removeprefix("Oct"):
            raise InputError(
                f"plan: layer {d.name!r} is a {layer.kind} in this {network} and a {d.kind} in the plan; "
                "make one with octavize.plan(model)"
            )
        if d.alpha and layer.problem() is not None:
            raise InputError(
                f"plan: layer {d.name!r} has alpha={d.alpha:g}: {layer.problem()}; set it to 0 or null"
            )
    decided = {d.name for d in plan.decisions}
    for name in layers:
        if name not in decided:  # the plan of a smaller network, which has the same names
            raise InputError(
                f"plan: it is for another network: it lacks layer {name!r} of this {network}; make one with "
                "octavize.plan(model)"
            )
