"""How a plan is made, and checked against a network: what becomes of each convolution, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from octavize.convert.swap import handler_of, swap
from octavize.convert.trace import (
    CONVOLUTIONS,
    Fallback,
    Layer,
    Shape,
    Trace,
    TraceError,
    check_network,
    example_shape,
    to_meta,
    trace,
)
from octavize.errors import InputError
from octavize.geometry import check_downsample
from octavize.nn.conv import geometry_of, is_depthwise
from octavize.plan import Decision, Plan, fit_budget, some
from octavize.split import check_alpha, default_octave_dims, low_channels

DEFAULT_ALPHA = 0.5
Alpha = float | Mapping[str, float] | Callable[[str, nn.Module], float]


def plan(
    model: nn.Module,
    alpha: Alpha = DEFAULT_ALPHA,
    *,
    budget: float | None = None,
    target: str | None = None,
    downsample: str = "pool",
    example: Tensor | Sequence[int] | None = None,
) -> Plan:
    """Decide, layer by layer, what `octavize` would do. The model is not touched.

    Args:
        model: a network of torch convolutions.
        alpha: share of low output channels. A number for all layers; or a mapping from name patterns to
            numbers, `{"layer4.*": 0}`, where the last pattern that matches counts and a layer without a match
            gets 0.5; or a function of (name, module).
        budget: instead of alpha, the octave network's MACs as a share of the vanilla network's; the smallest
            α for all layers, in steps of 1/64, that fits it.
        target: beside a budget, the runtime in which the network shall be fast: `onnxruntime`, `openvino` or
            `compile`. α is then chosen by stage, from times measured on this machine, which takes minutes;
            see `deploy/fastest.py`.
        downsample: how layers of stride 2 reach their high output, see `OctConv2d`.
        example: an input, or its shape (N, C, H, W), on which the network is traced without computing
            anything. Default: read off the network, see `octavize.convert.trace.example_shape`.

    Returns:
        The plan. Vanilla stay, each with its reason: layers that read the network's input (the paper's stem),
        that see a map of one pixel (squeeze-and-excitation), that the trace does not reach, whose geometry
        cannot keep the size of both halves, and subclasses of torch's convolutions without a handler. Layers
        whose output would have to be made dense at once, because a function without an octave rule, a dense
        map or the network's caller reads it, get α = 0: they merge the two frequencies themselves, as
        do layers that write a map of one pixel. A depthwise layer keeps the split of its input, and gets
        α = 0 if that is dense.

    Raises:
        InputError: α outside [0, 1], a pattern that matches no layer, a budget out of reach, a target
            without a budget or not installed, or a network that does not run on the example.
    """
    planner = Planner(model, downsample=downsample, example=example)
    if budget is None:
        if target is not None:
            raise InputError(f"target={target!r} without a budget: give one, such as budget=0.6")
        return planner.plan(alpha)
    check_one_of(alpha, budget)
    if target is not None:
        from octavize.bench.tune import Tuner

        return Tuner(planner, target).plan(budget)
    return fit_budget(budget, planner.plan)


def check_one_of(alpha: Alpha, budget: float) -> None:
    """Check that α is not given beside a budget.

    Raises:
        InputError: it is.
    """
    if alpha != DEFAULT_ALPHA:
        raise InputError(f"alpha={alpha!r} and budget={budget!r}: give one of them, a budget chooses alpha")


class Planner:
    """Makes plans for one network, which it traces once.

    Args, Raises:
        See `plan`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        downsample: str = "pool",
        example: Tensor | Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.downsample = check_downsample(downsample)
        self.shape = example_shape(model, example)
        self.before = trace(model, self.shape)

    def plan(self, alpha: Alpha) -> Plan:
        """The plan of this α."""
        decisions = _decide(self.model, alpha, self.before)
        decisions, after = _merge_where_dense(self.model, decisions, self.shape, self.downsample)
        decisions = [_nothing_to_keep(d, self.model, self.before, after) for d in decisions]
        return Plan(
            [_with_costs(d, self.before, after) for d in decisions],
            self.shape,
            macs_before=self.before.macs,
            macs_after=after.macs,
            downsample=self.downsample,
            fallbacks=dict(Counter(fallback.function for fallback in after.fallbacks)),
        )


def check_plan(plan: Plan, model: nn.Module) -> None:
    """Check that a plan is for this model.

    Raises:
        InputError: it names a layer that the model does not have, or has of another kind or geometry.
    """
    check_network(model)
    layers = dict(model.named_modules())
    for d in plan.decisions:
        if d.name not in layers:
            raise InputError(
                f"plan: it is for another network: {type(model).__name__} has no layer {d.name!r}; make one "
                "with octavize.plan(model)"
            )
        kind = type(layers[d.name]).__name__
        if d.alpha is not None and handler_of(layers[d.name]) is None:
            raise InputError(
                f"plan: layer {d.name!r} is a {kind}, which has no handler: set its alpha to null, or "
                "register one with @octavize.oct_handler"
            )
        if d.alpha is not None and kind.removeprefix("Oct") != d.kind.removeprefix("Oct"):
            raise InputError(
                f"plan: layer {d.name!r} is a {kind} in this {type(model).__name__} and a {d.kind} in the "
                "plan; make one with octavize.plan(model)"
            )
        problem = _geometry_problem(layers[d.name])
        if d.alpha and problem is not None:
            raise InputError(f"plan: layer {d.name!r} has alpha={d.alpha:g}: {problem}; set it to 0 or null")


# ---- the decision on each layer -------------------------------------------------------------------------


def _decide(model: nn.Module, alpha: Alpha, before: Trace) -> list[Decision]:
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, CONVOLUTIONS)}
    if not convolutions:
        raise InputError(f"{type(model).__name__} has no convolution: octavize converts CNNs")
    wanted = _alphas(alpha, convolutions)
    ran = {layer.name: layer for layer in before.layers}
    in_order = sorted(convolutions, key=lambda name: list(ran).index(name) if name in ran else len(ran))
    decisions = []
    for name in in_order:
        module = convolutions[name]
        kind = type(module).__name__
        obstacle = _obstacle(module, ran.get(name))
        if obstacle is not None:
            decisions.append(Decision(name, kind, None, obstacle))
        elif is_depthwise(module):
            decisions.append(Decision(name, kind, wanted[name], "depthwise: keeps the split of its input"))
        elif _single_pixel(module, ran[name].output):
            decisions.append(
                Decision(name, kind, 0.0, "merges: writes a single pixel, no frequency to split")
            )
        elif low_channels(module.out_channels, wanted[name], module.groups) == 0:
            decisions.append(
                Decision(name, kind, wanted[name], "no low output: low input, if any, is merged")
            )
        else:
            decisions.append(Decision(name, kind, wanted[name], "octave"))
    return decisions


def _obstacle(module: nn.Module, layer: Layer | None) -> str | None:
    """Why a convolution stays vanilla, or None."""
    if handler_of(module) is None:
        return f"{type(module).__name__} is a layer of its own kind, without an @oct_handler"
    if layer is None:
        return "not reached by the trace: give an example= that reaches it"
    if layer.reads_input:
        return "stem: reads the network's input"
    if _single_pixel(module, layer.input):
        return "sees a single pixel: there is no frequency to split"
    return _geometry_problem(module)


def _single_pixel(module: nn.Module, shapes: tuple[Shape, Shape | None]) -> bool:
    """Whether a map has one pixel, over all time in video."""
    assert isinstance(module, CONVOLUTIONS)
    return all(n == 1 for n in shapes[0][-default_octave_dims(len(module.kernel_size)) :])


def _geometry_problem(module: nn.Module) -> str | None:
    """Why the geometry of a convolution cannot be octave, or None."""
    assert isinstance(module, CONVOLUTIONS)
    return geometry_of(module).problem(default_octave_dims(len(module.kernel_size)))


def _alphas(alpha: Alpha, convolutions: Mapping[str, nn.Module]) -> dict[str, float]:
    """α of every convolution, by name."""
    if isinstance(alpha, Mapping):
        for pattern, value in alpha.items():
            check_alpha(value)
            if not isinstance(pattern, str):
                raise InputError(f"alpha: the pattern {pattern!r} is no text: give names of layers, or '*'")
            if not any(fnmatchcase(name, pattern) for name in convolutions):
                raise InputError(
                    f"alpha: the pattern {pattern!r} matches no convolution; names are such as "
                    f"{some(convolutions)}"
                )
        patterns = list(alpha.items())[::-1]
        return {
            name: check_alpha(
                next((value for pattern, value in patterns if fnmatchcase(name, pattern)), DEFAULT_ALPHA)
            )
            for name in convolutions
        }
    if callable(alpha):
        return {name: check_alpha(alpha(name, module)) for name, module in convolutions.items()}
    return dict.fromkeys(convolutions, check_alpha(alpha))


# ---- no dense fallback if a layer can do it -------------------------------------------------------------


def _merge_where_dense(
    model: nn.Module, decisions: list[Decision], shape: tuple[int, ...], downsample: str
) -> tuple[list[Decision], Trace]:
    """Set α = 0 for the layers whose output the octave network would make dense, and trace the result.

    One layer turned dense may show the next one, such as along a chain of residual blocks: hence the loop,
    which ends since each turn takes at least one layer.
    """
    while True:
        octave = to_meta(model)  # anew: what a handler returned may have no handler itself
        alphas = {d.name: d.alpha for d in decisions if d.alpha is not None}
        with torch.device("meta"):  # for handlers that make new layers
            swap(octave, alphas, strict=False, downsample=downsample)
        try:
            after, error = trace(octave, shape), None
            fallbacks = [*after.fallbacks, Fallback("the network's output", after.returned)]
        except TraceError as failed:  # it may be for a fallback that cannot be, such as a change in place
            after, error, fallbacks = None, failed, failed.fallbacks
        readers: dict[str, str] = {}
        for fallback in fallbacks:
            readers |= dict.fromkeys(fallback.sources, fallback.function)
        merged = [
            replace(d, alpha=0.0, reason=f"merges: {readers[d.name]} needs the dense map")
            if d.name in readers and d.alpha
            else d
            for d in decisions
        ]
        if merged != decisions:
            decisions = merged
        elif after is not None:
            return decisions, after
        else:
            assert error is not None
            raise error


def _nothing_to_keep(decision: Decision, model: nn.Module, before: Trace, after: Trace) -> Decision:
    """Say of a depthwise layer on dense maps that it is not octave: there is no split that it could keep."""
    ran = after.get(decision.name)
    dense = ran is not None and ran.input[1] is None and ran.macs == before[decision.name].macs
    if decision.alpha and dense and is_depthwise(model.get_submodule(decision.name)):
        return replace(decision, alpha=0.0, reason="depthwise: reads a dense map, which has no split to keep")
    return decision


def _with_costs(decision: Decision, before: Trace, after: Trace) -> Decision:
    def macs(run: Trace) -> int:
        ran = run.get(decision.name)
        return 0 if ran is None else ran.macs

    return replace(decision, macs_before=macs(before), macs_after=macs(after))
