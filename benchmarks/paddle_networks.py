"""Pairs of one network in torch and in Paddle with the same weights, for the comparisons of both backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import torch
from paddle import nn as paddle_nn
from paddle.vision import models as paddle_models
from torch import nn
from torchvision import models as torch_models

from octavize.paddle.weights import from_torch

SIDES = {"alexnet": 224, "inception_v3": 139}
"""Pixels; the other networks get 64, which leaves 2 × 2 at their end."""
NOT_SHARED = {
    "googlenet": "torchvision's has batch norms, Paddle's has none",
    "shufflenet_v2_x2_0": "Paddle's has 224, 488, 976 channels, torchvision's 244, 488, 976",
}
ALIGNED = {
    "mobilenet_v1": "timm's cuts activations off at 6",
    "alexnet": "Paddle's dropouts scale in evaluation",
    "squeezenet1_0": "Paddle's dropout scales in evaluation; its poolings round sizes down",
    "squeezenet1_1": "Paddle's dropout scales in evaluation; its poolings round down, and its stem pads",
    "mobilenet_v3_small": "Paddle's hard sigmoid has the slope 0.1666667 instead of a sixth",
    "mobilenet_v3_large": "Paddle's hard sigmoid has the slope 0.1666667 instead of a sixth",
    "inception_v3": "Paddle's dropout scales in evaluation, its batch norms have ε = 1e-5; no auxiliary head",
}
"""Where the two libraries' networks differ, and torch's was made to compute what Paddle's does."""


@dataclass(frozen=True)
class Pair:
    name: str
    in_torch: Callable[[], nn.Module]
    in_paddle: Callable[[], paddle_nn.Layer]

    @property
    def side(self) -> int:
        return SIDES.get(self.name, 64)

    def build(self) -> tuple[nn.Module, paddle_nn.Layer]:
        """Both, with torch's initial weights and without dropout, in float32.

        Paddle holds the ε of a batch norm in float32, so torch's gets the same number.
        """
        torch.manual_seed(0)
        ours, theirs = self.in_torch(), self.in_paddle()
        for module in ours.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.BatchNorm2d):
                module.eps = float(np.float32(module.eps))
        for layer in theirs.sublayers():
            if isinstance(layer, paddle_nn.Dropout):
                layer.p, layer.mode = 0.0, "upscale_in_train"
        from_torch(theirs, {key: value.numpy() for key, value in ours.state_dict().items()})
        return ours, theirs


class PaddleHardsigmoid(nn.Module):
    """With the slope of Paddle's, which is a rounded sixth in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * float(np.float32(0.1666667)) + 0.5).clamp(0, 1)


def pairs() -> list[Pair]:
    """Every network that torchvision and `paddle.vision.models` have both, and timm's MobileNetV1."""
    shared = [name for name in paddle_models.__all__ if name.islower()]
    names = [n for n in shared if n in torch_models.list_models(torch_models) and n not in NOT_SHARED]
    return [Pair("mobilenet_v1", _timm, lambda: paddle_models.mobilenet_v1(num_classes=10))] + [
        Pair(name, lambda name=name: _torchvision(name), lambda name=name: _paddle(name)) for name in names
    ]


def _timm() -> nn.Module:
    import timm

    return timm.create_model("mobilenetv1_100", num_classes=10, act_layer="relu")


def _paddle(name: str) -> paddle_nn.Layer:
    return getattr(paddle_models, name)(num_classes=10)


def _torchvision(name: str) -> nn.Module:
    extra: dict[str, Any] = {}
    if name == "inception_v3":
        extra = {"aux_logits": False, "init_weights": True}
    net: Any = torch_models.get_model(name, weights=None, num_classes=10, **extra)
    if name == "inception_v3":
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-5
    if name.startswith("squeezenet"):
        for module in net.modules():
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = False
    if name.startswith("mobilenet_v3"):
        for module in net.modules():
            if hasattr(module, "scale_activation"):
                module.scale_activation = PaddleHardsigmoid()
    if name == "squeezenet1_1":
        net.features[0].padding = (1, 1)
    return net


def one_thread() -> None:
    """Both frameworks compute on one thread."""
    torch.set_num_threads(1)
    paddle.set_device("cpu")
