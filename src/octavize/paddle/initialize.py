"""How a Paddle network starts, where a recipe departs from its builder: weights, and biases of octave paths.

Paddle draws a convolution's weights from a normal distribution of deviation √(2 / (k² · C_in)), which is He's
for an ordinary layer. It ignores groups, so a depthwise layer starts far too small. `framework` is that too,
but path by path: an octave layer is four layers to the article, each with its own fan-in.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn.initializer import KaimingNormal, KaimingUniform

from octavize.paddle.geometry import CONVOLUTIONS, geometry_of
from octavize.paddle.trace import trace
from octavize.plans.planning import Layer, Shape


class PathSum:
    """Makes a layer's bias the sum of two parameters, one for each path into the output, at every call."""

    NAMES = ("bias_0", "bias_1")

    def __init__(self, layer: nn.Layer, channels: int) -> None:
        for name in self.NAMES:
            layer.add_parameter(name, _zeros(layer, channels))
        layer._parameters.pop("bias", None)  # it has none, and is none now
        self(layer)
        hook: Any = self
        layer.register_forward_pre_hook(hook)

    def __call__(self, layer: nn.Layer, inputs: Any = None) -> None:
        layer.bias = self.of(layer)

    def of(self, layer: nn.Layer) -> paddle.Tensor:
        """The sum, (C_out)."""
        first, second = (layer._parameters[name] for name in self.NAMES)
        return first + second

    def settle(self, layer: nn.Layer) -> None:
        """Leave the layer an ordinary bias of the same value."""
        value = self.of(layer)
        for name in self.NAMES:
            del layer._parameters[name]
        del layer.bias
        layer.bias = _zeros(layer, len(value))
        layer.bias.set_value(value)


def add_path_biases(model: nn.Layer, shape: Shape) -> None:
    """Give every convolution of an octave network a bias for each path into its outputs, all of them zero.

    In the article the vanilla layers of an octave network are octave layers of one path, so they have one
    bias a channel; as have depthwise layers, and those whose input is all high. A vanilla network is left
    alone.

    Args:
        shape: (N, C, H, W) of an input.
    """
    ran = _convolutions(model, shape)
    if not any(found.output[1] is not None for _, found in ran):
        return
    for layer, found in ran:
        if layer.bias is not None:
            continue
        geometry = geometry_of(layer)
        if found.input[1] is not None and not geometry.depthwise:
            PathSum(layer, geometry.out_channels)
        else:
            layer.bias = _zeros(layer, geometry.out_channels)


def settle_path_biases(model: nn.Layer) -> None:
    """Make the two biases of `add_path_biases` one again, so that the network has no hooks."""
    for layer in model.sublayers(include_self=True):
        for key, hook in list(layer._forward_pre_hooks.items()):
            if isinstance(hook, PathSum):
                del layer._forward_pre_hooks[key]
                hook.settle(layer)


def initialize(model: nn.Layer, ordinary: str, depthwise: str, shape: Shape) -> None:
    """Draw the weights of the convolutions anew; `builder` leaves those it is given for alone.

    Args:
        ordinary, depthwise: which way, for layers of either kind; see `Recipe.initializer`.
        shape: (N, C, H, W) of an input.
    """
    if ordinary == depthwise == "builder":
        return
    for layer, found in _convolutions(model, shape):
        _draw(layer, found, depthwise if geometry_of(layer).depthwise else ordinary)


def _convolutions(model: nn.Layer, shape: Shape) -> list[tuple[Any, Layer]]:
    """The convolutions in the order in which they run, with the shapes of what they read."""
    layers = dict(model.named_sublayers(include_self=True))
    ran = trace(model, shape).layers
    return [(layers[found.name], found) for found in ran if isinstance(layers[found.name], CONVOLUTIONS)]


def _zeros(layer: nn.Layer, channels: int) -> Any:
    return layer.create_parameter([channels], is_bias=True)


def _draw(layer: Any, found: Layer, way: str) -> None:
    if way == "torch":
        KaimingUniform(negative_slope=math.sqrt(5), nonlinearity="leaky_relu")(layer.weight)
    elif way == "he":
        KaimingNormal(nonlinearity="relu")(layer.weight)
    elif way == "framework":
        values = paddle.randn(layer.weight.shape) * paddle.to_tensor(_deviations(layer, found))
        layer.weight.set_value(values.astype(layer.weight.dtype))


def _deviations(layer: Any, found: Layer) -> np.ndarray[Any, Any]:
    """Of a weight, by row or by column: each path has the fan-in of the half that it reads."""
    geometry = geometry_of(layer)
    fans = [shape[1] for shape in found.input if shape is not None]
    # Depthwise, the channels of either half are rows of the weight; otherwise they are its columns.
    if geometry.depthwise:
        rows = geometry.out_channels // geometry.in_channels
        counts = [rows * fan for fan in fans]
    else:
        fans = counts = [fan // geometry.groups for fan in fans]
    window = math.prod(geometry.kernel_size)
    deviations = [math.sqrt(2 / (fan * window)) if fan else 0.0 for fan in fans]
    by_channel = np.repeat(np.array(deviations, np.float32), counts)
    axis = 0 if geometry.depthwise else 1
    return np.expand_dims(by_channel, [i for i in range(layer.weight.ndim) if i != axis])
