"""Checkpoints as the article's own code in Paddle writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import nn


def as_the_article(net: nn.Layer, biases: np.random.Generator) -> dict[str, np.ndarray]:
    """The state dict of a ResNet, its octave layers as the article has them."""
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    seen: dict[str, Any] = {}
    for name, layer in net.named_sublayers():
        if hasattr(layer, "_settings"):
            layer.register_forward_post_hook(
                lambda _, args, y, n=name: seen.__setitem__(n, (args[0], y)) or None
            )
    net(paddle.randn([1, 3, 64, 64]))
    for name, (x, y) in seen.items():
        (high_in, _), (high_out, _) = (v.counts if hasattr(v, "counts") else (v.shape[1], 0) for v in (x, y))
        weight = state.pop(f"{name}.weight")
        norm = name.replace("downsample.0", "downsample.1") if "down" in name else name.replace("conv", "bn")
        for j, target in enumerate("hl"):
            rows = (weight[:high_out], weight[high_out:])[j]
            if not len(rows):
                continue
            mean = 0
            for i, source in enumerate("hl"):
                part = (rows[:, :high_in], rows[:, high_in:])[i]
                if part.shape[1]:
                    bias = biases.standard_normal(len(part)).astype("float32")
                    state[f"{name}.conv.conv_{source}2{target}.weight"] = part
                    state[f"{name}.conv.conv_{source}2{target}.bias"] = bias
                    mean = mean + bias
            for leaf in ("weight", "bias", "_mean", "_variance"):
                whole = state[f"{norm}.{leaf}"]
                half = (whole[:high_out], whole[high_out:])[j]
                state[f"{name}.bn_{target}.{leaf}"] = half + mean if leaf == "_mean" else half
        for leaf in ("weight", "bias", "_mean", "_variance"):
            del state[f"{norm}.{leaf}"]
    return state
