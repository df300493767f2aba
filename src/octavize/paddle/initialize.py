"""How a Paddle network starts, where a recipe departs from its builder: initial weights of convolutions.

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


def initialize(model: nn.Layer, ordinary: str, depthwise: str, shape: Shape) -> None:
    """Draw the weights of the convolutions anew; `builder` leaves those it is given for alone.

    Args:
        ordinary, depthwise: which way, for layers of either kind; see `Recipe.initializer`.
        shape: (N, C, H, W) of an input.
    """
    if ordinary == depthwise == "builder":
        return
    layers = dict(model.named_sublayers(include_self=True))
    for found in trace(model, shape).layers:
        if isinstance(layers[found.name], CONVOLUTIONS):
            layer: Any = layers[found.name]
            _draw(layer, found, depthwise if geometry_of(layer).depthwise else ordinary)


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
