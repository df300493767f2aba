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

from octavize.errors import InputError, one_line, shown
from octavize.paddle.conv import OctConv
from octavize.paddle.costs import convolution_macs, octave_macs
from octavize.paddle.dispatch import Octave, observe_calls, octave_values, unannounced
from octavize.paddle.geometry import CONVOLUTIONS, geometry_of
from octavize.paddle.tensor import OctTensor
from octavize.planning import Fallback, Layer, Shape, Trace, TraceError

Example = Tensor | Sequence[int] | Mapping[str, Any]
"""An input of the network or its shape; or a dict of them, for networks that take one."""


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
        if dense:
            self.fallbacks.append(Fallback(name, sources))
        self.add(result, sources)


def check_network(model: Any) -> None:
    """Check that a model is a network, and not a name or a state dict.

    Raises:
        InputError: it is not a paddle.nn.Layer.
    """
    if not isinstance(model, nn.Layer):
        told = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise InputError(f"model is {told}, no paddle.nn.Layer: build the network first, then give it")


def example_shapes(model: nn.Layer, example: Example | None = None) -> Shape | dict[str, Any]:
    """The input shape to run a network with, or the entries of its dict: tensors, and shapes of tensors.

    Without an example it is (1, C, H, W), where C is that of the first convolution, and H and W are 224.
    Video networks get 8 frames of 112 pixels.

    Raises:
        InputError: the network has no convolution, or is not a network; or `example` is not a shape.
    """
    check_network(model)
    if isinstance(example, Mapping):
        return {name: entry if _is_value(entry) else _shape(entry) for name, entry in example.items()}
    if example is not None:
        return tuple(example.shape) if isinstance(example, Tensor) else _shape(example)
    first = next((m for m in model.sublayers(include_self=True) if isinstance(m, CONVOLUTIONS)), None)
    if first is None:
        raise InputError(f"{type(model).__name__} has no convolution: octavize converts CNNs")
    geometry = geometry_of(first)
    axes = len(geometry.kernel_size)
    size = (8, 112, 112) if axes == 3 else (224,) * axes
    return (1, geometry.in_channels, *size)


def _is_value(entry: Any) -> bool:
    return isinstance(entry, Tensor) or not isinstance(entry, Sequence) or isinstance(entry, str)


def _shape(example: Any) -> Shape:
    if isinstance(example, str) or not isinstance(example, Sequence):
        raise InputError(
            f"example={shown(example)} is neither an input nor its shape, such as (1, 3, 224, 224)"
        )
    if not all(isinstance(n, int) and n > 0 for n in example):
        raise InputError(
            f"example={tuple(example)} is no shape: give whole numbers above 0, as (1, 3, 96, 96)"
        )
    return tuple(example)


def map_shape(shapes: Shape | Mapping[str, Any]) -> Shape:
    """The shape of the input map: of a dict's entries, that of the first of at least three dimensions.

    Raises:
        InputError: no entry is a map.
    """
    if not isinstance(shapes, Mapping):
        return shapes
    for entry in shapes.values():
        shape = tuple(entry.shape) if isinstance(entry, Tensor) else entry
        if isinstance(shape, tuple) and len(shape) >= 3:
            return shape
    raise InputError("example: no entry of the dict is a map or its shape: give 'image': (1, 3, 224, 224)")


def example_input(model: nn.Layer, shapes: Shape | Mapping[str, Any]) -> Any:
    """An input of these shapes, of zeros."""
    if isinstance(shapes, Mapping):
        return {
            name: paddle.zeros(entry, dtype_of(model)) if isinstance(entry, tuple) else entry
            for name, entry in shapes.items()
        }
    return paddle.zeros(shapes, dtype_of(model))


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


def trace(model: nn.Layer, shapes: Shape | Mapping[str, Any]) -> Trace:
    """Run a copy of a network and record its convolutions and fully connected layers.

    Args:
        shapes: shape of the input, (N, C, H, W); or the entries of its dict.

    Raises:
        TraceError: the network does not run on such an input.
    """
    net = clean_copy(model)
    x = example_input(net, shapes)
    recorder = _Recorder(net, x)
    sources = recorder.sources
    try:
        with explained(model, shapes), paddle.no_grad(), unannounced(), observe_calls(sources.watch):
            output = net(x)
    except TraceError as failed:
        failed.fallbacks = sources.fallbacks
        raise
    layers = list(recorder.found.values())
    return Trace(layers, sum(layer.macs for layer in layers), sources.fallbacks, sources.of(_plain(output)))


class _Recorder:
    """What the hooks of a run write down."""

    def __init__(self, net: nn.Layer, x: Any) -> None:
        self.sources, self.found = _Sources(), dict[str, Layer]()
        self._inputs = list(x.values()) if isinstance(x, Mapping) else [x]
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
    shapes: Any,
    remedy: str = "give an example it runs on, or a dict of them if it takes one",
) -> Iterator[None]:
    """Turn an error of a network's forward into a `TraceError` that names the shape of its input."""
    try:
        yield
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} does not run on an input of shape {shown(shapes)}: {remedy} "
            f"({one_line(error, kind=True)})"
        ) from error


def _plain(output: Any) -> Any:
    """The output of a network; an object with attributes becomes a mapping."""
    known = isinstance(output, (Octave, Tensor, Mapping, list, tuple))
    return output if known or not hasattr(output, "__dict__") else vars(output)
