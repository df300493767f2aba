"""How a network starts, where a recipe departs from its builder: initial weights, and biases of octave paths.

The article's framework draws a convolution's weights from a normal distribution of deviation
√(2 / (k² · C_in)), which is He's for an ordinary layer. It ignores groups, so a depthwise layer starts far
too small; and an octave layer is four layers to it, each with the fan-in of its own path.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from octavize.convert.trace import CONVOLUTIONS, Layer, example_shape, trace
from octavize.nn.conv import geometry_of


class PathSum(nn.Module):
    """A bias that is the sum of two, one for each path into the output."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(C,) and (C,) to (C,)."""
        return first + second

    def right_inverse(self, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The two, out of a bias to start from."""
        return bias, torch.zeros_like(bias)


def add_path_biases(model: nn.Module) -> None:
    """Give every convolution of an octave network a bias for each path into its outputs, all of them zero.

    In the article the vanilla layers of an octave network are octave layers of one path, so they have one
    bias a channel; as have depthwise layers, and those whose input is all high. A vanilla network is left
    alone.
    """
    ran = _convolutions(model)
    if not any(found.output[1] is not None for _, found in ran):
        return
    for layer, found in ran:
        if layer.bias is not None:
            continue
        layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_channels))
        if found.input[1] is not None and not geometry_of(layer).depthwise:
            parametrize.register_parametrization(layer, "bias", PathSum())


def initialize(model: nn.Module, ordinary: str, depthwise: str) -> None:
    """Draw the weights of the convolutions anew; `builder` leaves those it is given for alone.

    Args:
        ordinary, depthwise: which way, for layers of either kind; see `Recipe.initializer`.
    """
    if ordinary == depthwise == "builder":
        return
    with torch.no_grad():
        for layer, found in _convolutions(model):
            _draw(layer, found, depthwise if geometry_of(layer).depthwise else ordinary)


def _draw(layer: Any, found: Layer, way: str) -> None:
    weight: Tensor = layer.weight
    if way == "torch":
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    elif way == "he":
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    elif way == "framework":
        weight.normal_()
        fans = [shape[1] for shape in found.input if shape is not None]
        # Depthwise, the channels of either half are rows of the weight; otherwise they are its columns.
        if geometry_of(layer).depthwise:
            rows = layer.out_channels // layer.in_channels
            parts = weight.split([rows * fan for fan in fans], dim=0)
        else:
            fans = [fan // layer.groups for fan in fans]
            parts = weight.split(fans, dim=1)
        for part, fan in zip(parts, fans, strict=True):
            if fan:
                part.mul_(math.sqrt(2 / (fan * math.prod(layer.kernel_size))))


def _convolutions(model: nn.Module) -> list[tuple[Any, Layer]]:
    """The convolutions in the order in which they run, with the shapes of what they read."""
    layers = dict(model.named_modules())
    ran = trace(model, example_shape(model)).layers
    return [(layers[found.name], found) for found in ran if isinstance(layers[found.name], CONVOLUTIONS)]
