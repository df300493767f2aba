"""How a torch network gets its plan: from its convolutions as numbers and from runs without values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from octavize.convert.blocks import residual_blocks
from octavize.convert.inputs import Example, Inputs
from octavize.convert.order import check_order
from octavize.convert.recorded import Recorder
from octavize.convert.swap import handler_of, swap
from octavize.convert.trace import (
    CONVOLUTIONS,
    TraceError,
    check_network,
    example_inputs,
    to_meta,
    trace,
)
from octavize.errors import InputError
from octavize.nn.conv import OctConv, geometry_of
from octavize.nn.dispatch import ASKED
from octavize.plans import planning
from octavize.plans.deciding import DEFAULT_ALPHA, OCTAVE_REASONS, LayerInfo
from octavize.plans.deciding import check_plan as check_decisions
from octavize.plans.exchanging import Block
from octavize.plans.plan import Decision, Plan, fit_budget
from octavize.plans.planning import Fallback, Layer, Trace, check_one_of, least_low
from octavize.split import default_octave_dims

Alpha = float | Mapping[str, float] | Callable[[str, nn.Module], float]
"""A share of low channels for all layers, by name pattern, or by a function of (name, module)."""
Way = str | Mapping[str, str] | Callable[[str, nn.Module], str]
"""An `exchange` or `downsample`, in the same three forms."""


def plan(
    model: nn.Module,
    alpha: Alpha | None = None,
    *,
    budget: float | None = None,
    exchange: Way | None = None,
    downsample: Way | None = None,
    min_low: int | None = None,
    example: Example | None = None,
) -> Plan:
    """Decide, layer by layer, what `octavize` would do. The model is not changed.

    Args:
        model: a network of torch convolutions.
        alpha: share of low output channels; 0.5 if there is no budget. A number for all layers; or a
            mapping from name patterns to numbers, `{"layer4.*": 0}`, where the last pattern that matches
            counts and a layer without a match gets 0.5; or a function of (name, module).
        budget: instead of alpha, the octave network's MACs as a share of the vanilla network's. All layers
            get the smallest α, in steps of 1/256, that fits it.
        exchange: where the frequencies meet, in the same three forms: in `every` layer (the paper), once a
            `block` (in its last convolution), or once a `stage` (in its last block); with both paths or one,
            as in `block:high_to_low`. Or the paths of layers themselves, see `OctConv2d`. Layers outside of
            residual blocks exchange as in the paper. Default: that of a layer that is octave already, else
            `both`.
        downsample: how layers of stride 2 reach their high output, see `OctConv2d`, in the same three forms.
            Default: that of a layer that is octave already, else `pool`, as in the paper. Trained weights
            lose less with `stride`.
        min_low: layers that would have fewer low channels stay dense: they fill no vector of the processor,
            and cost more time than they save. Default: 16, or 0 where α is given by name or by a function.
        example: an input, or its shape (N, C, H, W), on which the network is traced without computing
            anything; or several inputs `(a, b)`, or inputs by name `{"image": x}`, which keep their dtypes.
            Default: derived from the network, see `octavize.convert.trace.example_inputs`.

    Returns:
        The plan. These layers stay vanilla, each with its reason: those that read the network's input (the
        paper's stem; unless α is given under their full name, not by a pattern), that see a map of one pixel
        (squeeze-and-excitation), that the trace does not reach, whose geometry cannot keep the size of both
        halves, and subclasses without a handler. Layers whose output would have to be made dense at once,
        because a function without an octave rule, a dense map or the network's caller reads it, get α = 0:
        they merge the two frequencies themselves. So do layers that write a map of one pixel. A depthwise
        layer keeps the split of its input, and gets α = 0 if that is dense.

    Raises:
        InputError: α and a budget are both given, α is outside [0, 1], exchange or downsample is unknown, a
            pattern matches no layer, the budget is out of reach, or the network does not run on the example.
    """
    check_one_of(alpha, budget)
    min_low = least_low(min_low, alpha)
    planner = Planner(model, exchange=exchange, downsample=downsample, min_low=min_low, example=example)
    if budget is not None:
        return fit_budget(budget, planner.plan)
    return planner.plan(DEFAULT_ALPHA if alpha is None else alpha)


class Planner(planning.Planner):
    """Makes plans for one torch network, and traces the vanilla network once.

    Args, Raises:
        See `plan`; `least_low` gives `min_low` its default.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        exchange: Way | None = None,
        downsample: Way | None = None,
        min_low: int = 0,
        example: Example | None = None,
    ) -> None:
        self.model = model
        self.inputs = example_inputs(model, example)
        shape = self.inputs.shape if isinstance(self.inputs, Inputs) else self.inputs
        modules = convolutions(model)
        if not modules:
            raise InputError(f"{type(model).__name__} has no convolution: octavize converts CNNs")
        self.vanilla = _as_vanilla(model)
        before = trace(self.vanilla, self.inputs)
        self.recorder = Recorder(self.vanilla, self.inputs)
        ways: dict[str, Any] = {"exchange": exchange, "downsample": downsample, "min_low": min_low}
        super().__init__(type(model).__name__, layer_infos(model, before), modules, before, shape, **ways)

    def blocks(self) -> list[Block]:
        return residual_blocks(self.vanilla, self.inputs)

    def run(self, decisions: Sequence[Decision]) -> Trace:
        return trace(_octave(self.model, decisions), self.inputs)

    def hidden(self, decisions: Sequence[Decision]) -> list[Fallback]:
        if not self.recorder.functions:  # most networks have none, and are not built once more
            return []
        return self.recorder.hidden(_octave(self.model, decisions))


def check_plan(plan: Plan, model: nn.Module) -> None:
    """Check that a plan is for this model.

    Raises:
        InputError: the model lacks a layer of the plan, has it with another kind or geometry, or has one that
            the plan lacks; the plan's order of channels is not for this model; or an α, perhaps raised by
            hand, would lose gradients or make the forward take another way.
    """
    check_network(model)
    check_decisions(plan, layer_infos(model), type(model).__name__)
    if plan.permutation is not None:
        check_order(model, plan.permutation)
    _check_maps(plan, model)


def _check_maps(plan: Plan, model: nn.Module) -> None:
    """Check what planning checks, too: that the network does with octave maps what it does with dense ones.

    Autograd has to see all that it sees in the vanilla network, and a forward that asks whether a map is a
    tensor has to get one.
    """
    recorder = Recorder(_as_vanilla(model), plan.input_shape)
    by_hand = [d.name for d in plan.decisions if d.alpha and not d.reason.startswith(OCTAVE_REASONS)]
    if recorder.failed and by_hand:
        warnings.warn(
            f"plan: alpha of layer {by_hand[0]!r} was given by hand, and whether the network then does the "
            f"same, and loses no gradients, cannot be told: {recorder.failed}",
            UserWarning,
            stacklevel=4,
        )
    if recorder.failed:
        return
    octave = _octave(model, plan.decisions)
    calls = [(call, ", or it goes another way") for call in _asked(octave, plan.input_shape)]
    if recorder.functions:
        calls += [(call, ", or layers get no gradient") for call in recorder.hidden(octave)]
    for call, why in calls:
        name = min(call.sources)
        raise InputError(
            f"plan: layer {name!r} has alpha={plan.alphas[name]:g}, but {call.reason}{why}: set it to 0"
        )


def _asked(octave: nn.Module, shape: tuple[int, ...]) -> list[Fallback]:
    """The lines of a network that ask whether an octave map is a tensor."""
    try:
        found = trace(octave, shape).fallbacks
    except TraceError as failed:  # as every run of the network will
        found = failed.fallbacks
    return [call for call in found if call.function == ASKED and call.sources]


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions of a network, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, CONVOLUTIONS)}


def layer_infos(model: nn.Module, run: Trace | None = None) -> dict[str, LayerInfo]:
    """The convolutions of a network as numbers, by name, in the order in which they ran.

    Args:
        run: a run of the network, for their inputs and outputs; without it, no layer counts as reached.
    """
    ran = {layer.name: layer for layer in run.layers} if run is not None else {}
    found = convolutions(model)
    in_order = [*(name for name in ran if name in found), *(name for name in found if name not in ran)]
    return {name: _info(name, found[name], ran.get(name)) for name in in_order}


def _info(name: str, module: nn.Module, ran: Layer | None) -> LayerInfo:
    assert isinstance(module, CONVOLUTIONS)
    octave = isinstance(module, OctConv)
    return LayerInfo(
        name,
        type(module).__name__,
        geometry_of(module),
        module.octave_dims if octave else default_octave_dims(len(module.kernel_size)),
        has_handler=handler_of(module) is not None,
        reached=ran is not None,
        reads_input=ran is not None and ran.reads_input,
        input_size=() if ran is None else ran.input[0][2:],
        output_size=() if ran is None else ran.output[0][2:],
        macs=0 if ran is None else ran.macs,
        exchange=module.exchange if octave else "both",
        downsample=module.downsample if octave else "pool",
    )


def _octave(model: nn.Module, decisions: Sequence[Decision]) -> nn.Module:
    """The octave network without values."""
    octave = to_meta(model)  # a new copy: a handler's layer may have no handler
    with torch.device("meta"):  # for handlers that make new layers
        swap(octave, decisions, strict=False)
    return octave


def _as_vanilla(model: nn.Module) -> nn.Module:
    """The network, or a copy without values whose octave layers are vanilla."""
    octave = [(name, m) for name, m in model.named_modules() if isinstance(m, OctConv) and m.alpha]
    if not octave:
        return model
    vanilla = to_meta(model)
    swap(vanilla, [Decision(name, type(layer).__name__, None, "") for name, layer in octave], strict=False)
    return vanilla
