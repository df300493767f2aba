"""How a Paddle network gets its plan: from its convolutions as numbers and from runs on one input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paddle import nn

from octavize.errors import InputError
from octavize.paddle.blocks import residual_blocks
from octavize.paddle.conv import OctConv
from octavize.paddle.geometry import CONVOLUTIONS, geometry_of
from octavize.paddle.inputs import Example
from octavize.paddle.swap import handler_of, swap
from octavize.paddle.trace import check_network, clean_copy, example_inputs, trace
from octavize.plans import planning
from octavize.plans.deciding import DEFAULT_ALPHA, LayerInfo
from octavize.plans.deciding import check_plan as check_decisions
from octavize.plans.exchanging import Block
from octavize.plans.plan import Decision, Plan, fit_budget
from octavize.plans.planning import Layer, Trace, check_one_of, least_low
from octavize.split import default_octave_dims

Alpha = float | Mapping[str, float] | Callable[[str, nn.Layer], float]
"""A share of low channels for all layers, by name pattern, or by a function of (name, layer)."""
Way = str | Mapping[str, str] | Callable[[str, nn.Layer], str]
"""An `exchange` or `downsample`, in the same three forms."""


def plan(
    model: nn.Layer,
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
        model: a network of Paddle convolutions.
        alpha: share of low output channels; 0.5 if there is no budget. A number for all layers; or a
            mapping from name patterns to numbers, `{"layer4.*": 0}`, where the last pattern that matches
            counts and a layer without a match gets 0.5; or a function of (name, layer).
        budget: instead of alpha, the octave network's MACs as a share of the vanilla network's. All layers
            get the smallest α, in steps of 1/256, that fits it.
        exchange: where the frequencies meet, in the same three forms: in `every` layer (the paper), once a
            `block` (in its last convolution), or once a `stage` (in its last block); with both paths or one,
            as in `block:high_to_low`. Or the paths of layers themselves, see `OctConv2D`. Layers outside of
            residual blocks exchange as in the paper. Default: that of a layer that is octave already, else
            `both`.
        downsample: how layers of stride 2 reach their high output, see `OctConv2D`, in the same three forms.
            Default: that of a layer that is octave already, else `pool`, as in the paper.
        min_low: layers that would have fewer low channels stay dense. Default: 16, or 0 where α is given by
            name or by a function.
        example: an input, or its shape (N, C, H, W), on which the network runs a few times; several of them,
            `(a, b)`; or a mapping by name, `{"image": (1, 3, 224, 224)}`, for arguments of these names or for
            a network that takes a dict. Default: derived from the network, see
            `octavize.paddle.trace.example_inputs`.

    Returns:
        The plan; which layers stay vanilla or get α = 0, and why, is as in `octavize.plan`.

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
    """Makes plans for one Paddle network, and runs the vanilla network once.

    Args, Raises:
        See `plan`; `least_low` gives `min_low` its default.
    """

    def __init__(
        self,
        model: nn.Layer,
        *,
        exchange: Way | None = None,
        downsample: Way | None = None,
        min_low: int = 0,
        example: Example | None = None,
    ) -> None:
        self.model = model
        self.inputs, modules = example_inputs(model, example), convolutions(model)
        if not modules:
            raise InputError(f"{type(model).__name__} has no convolution: octavize converts CNNs")
        self.vanilla = _as_vanilla(model)
        before = trace(self.vanilla, self.inputs)
        ways: dict[str, Any] = {"exchange": exchange, "downsample": downsample, "min_low": min_low}
        layers = layer_infos(model, before)
        super().__init__(type(model).__name__, layers, modules, before, self.inputs.shape, **ways)

    def blocks(self) -> list[Block]:
        return residual_blocks(self.vanilla, self.inputs)

    def run(self, decisions: Sequence[Decision]) -> Trace:
        octave = clean_copy(self.model)
        swap(octave, decisions, strict=False)
        return trace(octave, self.inputs)


def check_plan(plan: Plan, model: nn.Layer) -> None:
    """Check that a plan is for this model.

    Raises:
        InputError: the model lacks a layer of the plan, or has it with another kind or geometry; or the plan
            has an order of channels, which is found with torch.
    """
    check_network(model)
    check_decisions(plan, layer_infos(model), type(model).__name__)
    if plan.permutation is not None:
        raise InputError("plan: it puts channels in an order, which octavize.paddle cannot do yet: plan anew")


def convolutions(model: nn.Layer) -> dict[str, nn.Layer]:
    """The convolutions of a network, by name."""
    named = model.named_sublayers(include_self=True)
    return {name: layer for name, layer in named if isinstance(layer, CONVOLUTIONS)}


def layer_infos(model: nn.Layer, run: Trace | None = None) -> dict[str, LayerInfo]:
    """The convolutions of a network as numbers, by name, in the order in which they ran.

    Args:
        run: a run of the network, for their inputs and outputs; without it, no layer counts as reached.
    """
    ran = {layer.name: layer for layer in run.layers} if run is not None else {}
    found = convolutions(model)
    in_order = [*(name for name in ran if name in found), *(name for name in found if name not in ran)]
    return {name: _info(name, found[name], ran.get(name)) for name in in_order}


def _info(name: str, layer: Any, ran: Layer | None) -> LayerInfo:
    octave = isinstance(layer, OctConv)
    return LayerInfo(
        name,
        type(layer).__name__,
        geometry_of(layer),
        layer.octave_dims if octave else default_octave_dims(len(layer._kernel_size)),
        has_handler=handler_of(layer) is not None,
        reached=ran is not None,
        reads_input=ran is not None and ran.reads_input,
        input_size=() if ran is None else ran.input[0][2:],
        output_size=() if ran is None else ran.output[0][2:],
        macs=0 if ran is None else ran.macs,
        exchange=layer.exchange if octave else "both",
        downsample=layer.downsample if octave else "pool",
    )


def _as_vanilla(model: nn.Layer) -> nn.Layer:
    """The network, or a copy whose octave layers are vanilla."""
    octave = [(name, m) for name, m in convolutions(model).items() if isinstance(m, OctConv) and m.alpha]
    if not octave:
        return model
    vanilla = clean_copy(model)
    swap(vanilla, [Decision(name, type(layer).__name__, None, "") for name, layer in octave], strict=False)
    return vanilla
