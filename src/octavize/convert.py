"""`plan()` and `octavize()`: any CNN in octaves, without rewriting it.

A convolution becomes octave by changing its class: an `OctConv2d` is a `Conv2d` plus the number α. So
weights, hooks, device, training mode and sharing are not carried over; they are left where they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from .conv import OCTAVE_CLASS, OctConv, geometry_problem
from .errors import InputError
from .split import check_alpha, default_octave_dims, low_channels
from .trace import CONVOLUTIONS, Layer, Trace, example_shape, to_meta, trace

DEFAULT_ALPHA = 0.5
Alpha = float | Mapping[str, float] | Callable[[str, nn.Module], float]


@dataclass(frozen=True)
class Decision:
    """What becomes of one convolution.

    `alpha` is None where the layer stays vanilla. MACs are of one traced batch.
    """

    name: str
    kind: str
    alpha: float | None
    reason: str
    macs_before: int = 0
    macs_after: int = 0


@dataclass(frozen=True)
class Plan:
    """The decisions on every convolution of a network; `print` shows them as a table.

    MACs are of the whole network, for a batch of `input_shape`.
    """

    decisions: list[Decision]
    input_shape: tuple[int, ...]
    macs_before: int
    macs_after: int

    def __str__(self) -> str:
        rows = [("layer", "kind", "alpha", "MACs before", "MACs after", "reason")]
        for d in self.decisions:
            alpha = "–" if d.alpha is None else f"{d.alpha:g}"
            rows.append((d.name, d.kind, alpha, f"{d.macs_before:,}", f"{d.macs_after:,}", d.reason))
        ratio = f"{self.macs_after / max(self.macs_before, 1):.3f} of vanilla, input {self.input_shape}"
        rows.append(("all layers", "", "", f"{self.macs_before:,}", f"{self.macs_after:,}", ratio))
        width = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            f"{name:<{width[0]}}  {kind:<{width[1]}}  {alpha:>{width[2]}}  {before:>{width[3]}}  "
            f"{after:>{width[4]}}  {reason}"
            for name, kind, alpha, before, after, reason in rows
        ]
        rule = "─" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def plan(
    model: nn.Module,
    alpha: Alpha = DEFAULT_ALPHA,
    *,
    example: Tensor | Sequence[int] | None = None,
) -> Plan:
    """Decide, layer by layer, what `octavize` would do. The model is not touched.

    Args:
        model: a network of torch convolutions.
        alpha: share of low output channels. A number for all layers; or a mapping from name patterns to
            numbers, `{"layer4.*": 0}`, where the last pattern that matches counts and a layer without a match
            gets 0.5; or a function of (name, module).
        example: an input, or its shape (N, C, H, W), on which the network is traced without computing
            anything. Default: read off the network, see `octavize.trace.example_shape`.

    Returns:
        The plan. Vanilla stay, each with its reason: layers that read the network's input (the paper's stem),
        that see a map of one pixel (squeeze-and-excitation), that the trace does not reach, whose geometry
        cannot keep the size of both halves, and subclasses of torch's convolutions.

    Raises:
        InputError: α outside [0, 1], a pattern that matches no layer, or a network that does not run on the
            example.
    """
    shape = example_shape(model, example)
    before = trace(model, shape)
    decisions = _decide(model, alpha, before)
    swapped = to_meta(model)
    _apply(swapped, decisions, strict=False)
    after = trace(swapped, shape)
    return Plan(
        [_with_costs(d, before, after) for d in decisions],
        shape,
        macs_before=before.macs,
        macs_after=after.macs,
    )


def octavize(
    model: nn.Module,
    alpha: Alpha = DEFAULT_ALPHA,
    *,
    example: Tensor | Sequence[int] | None = None,
    strict: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Make a CNN octave: its convolutions become octave convolutions, its own forward does the rest.

    The state dict stays that of the vanilla network: vanilla checkpoints load before or after. `plan` tells
    what is done to which layer, and why; the arguments are the same.

    Args:
        model: the network. Left alone unless `inplace`.
        alpha, example: see `plan`.
        strict: the network refuses to compute a function without an octave rule on the dense map.
        inplace: convert `model` itself instead of a copy.

    Returns:
        The octave network, on the same device, in the same mode, with the same hooks and frozen parameters.

    Raises:
        InputError: as `plan`.

    Example:
        >>> net = octavize(torchvision.models.resnet50(weights="DEFAULT"), alpha={"*": 0.5, "layer4.*": 0})
    """
    decisions = _decide(model, alpha, trace(model, example_shape(model, example)))
    if not inplace:
        model = copy.deepcopy(model)
    _apply(model, decisions, strict)
    return model


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
        obstacle = _obstacle(module, wanted[name], ran.get(name))
        if obstacle is not None:
            decisions.append(Decision(name, kind, None, obstacle))
        elif module.groups == module.in_channels > 1:
            decisions.append(Decision(name, kind, wanted[name], "depthwise: keeps the split of its input"))
        elif low_channels(module.out_channels, wanted[name], module.groups) == 0:
            decisions.append(
                Decision(name, kind, wanted[name], "no low output: low input, if any, is merged")
            )
        else:
            decisions.append(Decision(name, kind, wanted[name], "octave"))
    return decisions


def _obstacle(module: nn.Module, alpha: float, layer: Layer | None) -> str | None:
    """Why a convolution stays vanilla, or None."""
    if type(module) not in (*OCTAVE_CLASS, *OCTAVE_CLASS.values()):
        return f"{type(module).__name__} is a layer of its own kind"
    if layer is None:
        return "not reached by the trace: give an example= that reaches it"
    if layer.reads_input:
        return "stem: reads the network's input"
    if all(n == 1 for n in layer.input[0][2:]):
        return "sees a single pixel: there is no frequency to split"
    assert isinstance(module, CONVOLUTIONS)
    return geometry_problem(module, default_octave_dims(len(module.kernel_size)))


def _alphas(alpha: Alpha, convolutions: Mapping[str, nn.Module]) -> dict[str, float]:
    """α of every convolution, by name."""
    if isinstance(alpha, Mapping):
        for pattern, value in alpha.items():
            check_alpha(value)
            if not any(fnmatchcase(name, pattern) for name in convolutions):
                raise InputError(
                    f"alpha: the pattern {pattern!r} matches no convolution; names are such as "
                    f"{', '.join(list(convolutions)[:3])}"
                )
        patterns = list(alpha.items())[::-1]
        return {
            name: next((value for pattern, value in patterns if fnmatchcase(name, pattern)), DEFAULT_ALPHA)
            for name in convolutions
        }
    if callable(alpha):
        return {name: check_alpha(alpha(name, module)) for name, module in convolutions.items()}
    return dict.fromkeys(convolutions, check_alpha(alpha))


def _apply(model: nn.Module, decisions: Sequence[Decision], strict: bool) -> None:
    for decision in decisions:
        if decision.alpha is not None:
            layer = model.get_submodule(decision.name)
            layer.__class__ = OCTAVE_CLASS.get(type(layer), type(layer))  # an octave layer gets a new α
            assert isinstance(layer, OctConv)
            layer.become_octave(decision.alpha, strict=strict)


def _with_costs(decision: Decision, before: Trace, after: Trace) -> Decision:
    def macs(run: Trace) -> int:
        return next((layer.macs for layer in run.layers if layer.name == decision.name), 0)

    return Decision(decision.name, decision.kind, decision.alpha, decision.reason, macs(before), macs(after))
