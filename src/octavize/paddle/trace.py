"""One run of a network on one input: the layers, their order, their shapes and their costs.

Paddle has no tensors without values, so the run computes. Multiply–accumulates are those of convolutions and
fully connected layers, as the literature counts a network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

import paddle
from paddle import Tensor, nn

from octavize.errors import InputError, one_line
from octavize.paddle.conv import OctConv
from octavize.paddle.costs import convolution_macs, octave_macs
from octavize.paddle.dispatch import ASKED, Octave, observe_calls, octave_values, unannounced
from octavize.paddle.geometry import CONVOLUTIONS, geometry_of
from octavize.paddle.inputs import Example, Inputs, inputs_of
from octavize.paddle.lines import LINES
from octavize.paddle.tensor import OctTensor
from octavize.plans.planning import Fallback, Layer, Shape, Trace, TraceError


class _Sources:
    """Follows octave values through a network: which layers made their channels."""

    def __init__(self) -> None:
        self.fallbacks: list[Fallback] = []
        self._known: dict[int, tuple[Octave, frozenset[str]]] = {}  # keeps the value: ids are reused

    def of(self, *values: Any) -> frozenset[str]:
        none: tuple[Any, frozenset[str]] = (None, frozenset())
        found = (self._known.get(id(x), none)[1] for x in octave_values(values))
        return frozenset().union(*found)

    def add(self, value: Any, sources: frozenset[str]) -> None:
        for x in octave_values(value):
            self._known[id(x)] = (x, self.of(x) | sources)

    def watch(self, name: str, operands: Sequence[Any], result: Any, dense: bool) -> None:
        sources = self.of(*operands)
        if dense and (name != ASKED or LINES.asks_for_a_tensor()):
            self.fallbacks.append(Fallback(name, sources, LINES.of_call()))
        self.add(result, sources)


def check_network(model: Any) -> None:
    """Check that a model is a network, and not a name or a state dict.

    Raises:
        InputError: it is not a paddle.nn.Layer.
    """
    if not isinstance(model, nn.Layer):
        told = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise InputError(f"model is {told}, no paddle.nn.Layer: build the network first, then give it")


def example_inputs(model: nn.Layer, example: Example | Inputs | None = None) -> Inputs:
    """The inputs to run a network with, as tensors or as shapes.

    Without an example it is (1, C, H, W), where C is that of the first convolution, and H and W are 224.
    Video networks get 8 frames of 112 pixels.

    Raises:
        InputError: the network has no convolution, or is not a network; or `example` is not a shape.
    """
    check_network(model)
    if example is not None:
        return inputs_of(model, example)
    first = next((m for m in model.sublayers(include_self=True) if isinstance(m, CONVOLUTIONS)), None)
    if first is None:
        raise InputError(f"{type(model).__name__} has no convolution: octavize converts CNNs")
    geometry = geometry_of(first)
    axes = len(geometry.kernel_size)
    size = (8, 112, 112) if axes == 3 else (224,) * axes
    return Inputs(((1, geometry.in_channels, *size),))


def dtype_of(model: nn.Layer) -> Any:
    """The dtype of the first floating-point parameter; float32 if there is none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), paddle.float32)


def clean_copy(model: nn.Layer) -> nn.Layer:
    """A copy of the network without users' hooks, in evaluation mode."""
    copied = copy.deepcopy(model)
    for layer in copied.sublayers(include_self=True):
        layer._forward_pre_hooks.clear()
        layer._forward_post_hooks.clear()
    copied.eval()
    return copied


def shapes_of(value: Any) -> tuple[Shape, Shape | None]:
    """Shapes of the two halves of a map, without channels where there are none; low is None for a tensor."""
    if not isinstance(value, OctTensor):
        return tuple(value.shape), None
    low = value.low
    high = (value.shape[0], value.counts[0], *value.spatial_shape)
    return high, (value.shape[0], 0) if low is None else tuple(low.shape)


def trace(model: nn.Layer, example: Example | Inputs) -> Trace:
    """Run a copy of a network and record its convolutions and fully connected layers.

    Args:
        example: an input, its shape (N, C, H, W), or several inputs, see `inputs_of`.

    Raises:
        TraceError: the network does not run on such an input.
    """
    net = clean_copy(model)
    inputs = inputs_of(model, example).made(dtype_of(net))
    recorder = _Recorder(net, inputs)
    sources = recorder.sources
    try:
        with explained(model, inputs), paddle.no_grad(), unannounced(), _watched(sources):
            output = inputs.call(net)
    except TraceError as failed:
        failed.fallbacks = [*sources.fallbacks, *LINES.failed_on(failed.__cause__, sources.of)]
        raise
    layers = list(recorder.found.values())
    return Trace(layers, sum(layer.macs for layer in layers), sources.fallbacks, sources.of(_plain(output)))


@contextmanager
def _watched(sources: _Sources) -> Iterator[None]:
    """Inside, `sources` follows the calls on octave maps, and the questions whether they are tensors.

    `isinstance(x, paddle.static.Variable)` is True of every tensor and looks at its type alone, so that an
    octave map does not hear of it: Paddle's answer is listened to.
    """
    kind: Any = type(paddle.static.Variable)
    answer = vars(kind)["__instancecheck__"]

    def ask(cls: Any, value: Any) -> bool:
        if isinstance(value, Octave):
            sources.watch(ASKED, (value,), None, True)
        return answer.__get__(None, cls)(value)

    kind.__instancecheck__ = ask
    try:
        with observe_calls(sources.watch):
            yield
    finally:
        kind.__instancecheck__ = answer


class _Recorder:
    """What the hooks of a run write down."""

    def __init__(self, net: nn.Layer, inputs: Inputs) -> None:
        self.sources, self.found = _Sources(), dict[str, Layer]()
        self._inputs = inputs.tensors
        for name, layer in net.named_sublayers(include_self=True):
            if isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
                self._follow(name, layer)

    def _follow(self, name: str, layer: Any) -> None:
        def after(layer: Any, args: Any, kwargs: Any, output: Any) -> None:
            value = args[0] if args else kwargs.get("x", kwargs.get("input"))
            self._note(name, layer, value, output, _macs(layer, value, output))

        layer.register_forward_post_hook(after, with_kwargs=True)

    def _note(self, name: str, layer: Any, value: Any, output: Any, macs: int) -> None:
        if isinstance(output, OctTensor):  # a depthwise layer only passes on its input's split
            depthwise = isinstance(layer, OctConv) and geometry_of(layer).depthwise
            self.sources.add(output, self.sources.of(value) if depthwise else frozenset([name]))
        reads_input = any(value is x for x in self._inputs)
        first = self.found.get(name)
        if first is not None:
            reads_input = first.reads_input or reads_input
            self.found[name] = replace(first, reads_input=reads_input, macs=first.macs + macs)
            return
        self.found[name] = Layer(
            name=name,
            kind=type(layer).__name__,
            reads_input=reads_input or not any(known.kind != "Linear" for known in self.found.values()),
            input=shapes_of(value),
            output=shapes_of(output),
            params=sum(prod(p.shape) for p in layer.parameters(include_sublayers=False)),
            macs=macs,
        )


def _macs(layer: Any, value: Any, output: Any) -> int:
    """Multiply–accumulates of a layer, by what it read and wrote."""
    if isinstance(layer, OctConv) and (isinstance(value, OctTensor) or isinstance(output, OctTensor)):
        return octave_macs(layer, value, output)
    if isinstance(layer, nn.Linear):
        return prod(output.shape) * layer.weight.shape[0]
    return convolution_macs(geometry_of(layer), value.shape, output.shape)


@contextmanager
def explained(
    model: nn.Layer,
    inputs: Inputs | tuple[int | None, ...],
    remedy: str = "give an example it runs on, several inputs (a, b), or inputs by name",
) -> Iterator[None]:
    """Turn an error of a network's forward into a `TraceError` that names the shape of its input."""
    try:
        yield
    except Exception as error:
        line = LINES.of_error(error)
        raise TraceError(
            f"{type(model).__name__} does not run on an input of shape {inputs}: {remedy} "
            f"({one_line(error, kind=True)}{line and f', at {line}'})"
        ) from error


def _plain(output: Any) -> Any:
    """The output of a network; an object with attributes becomes a mapping."""
    known = isinstance(output, (Octave, Tensor, Mapping, list, tuple))
    return output if known or not hasattr(output, "__dict__") else vars(output)
