"""Whose octave network a file holds, recognized by the names of its arrays, and that network under our names.

* d-li14's PyTorch code: `layer1.0.conv1.conv.conv_h2h.weight`, `features.1.0.conv.conv_h2h.weight`.
* The article's PaddlePaddle code: the same, with `_mean` and `_variance`, and a bias a path.
* The paper's own code in Gluon: `L1_B0.conv1.conv_h2h.weight`.
* The paper's own code in Symbol: `L2_B01_conv1_conv-h2h_weight`.

All of them average before a layer of stride 2 even where it reads and writes plain maps, which
`downsample="pool_always"` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from octavize.errors import InputError
from octavize.published.gluon import read_gluon
from octavize.published.joining import Arrays, Layout, Pieces
from octavize.published.peers import read_peer
from octavize.published.symbol import as_gluon

_TORCH = {name: name for name in ("weight", "bias", "running_mean", "running_var")}
_WEIGHT, _NORM = "{unit}.conv.conv_{path}.weight", "{unit}.bn_{half}.{leaf}"
PYTORCH = Layout("d-li14's PyTorch code", _WEIGHT, _NORM, _TORCH)
_PADDLE = _TORCH | {"running_mean": "_mean", "running_var": "_variance"}
ARTICLE = Layout("the article's Paddle code", _WEIGHT, _NORM, _PADDLE, transposed_classifier=True)
_SCORED = {"mean": [123.68, 116.779, 103.939], "std": [58.393, 57.12, 57.375]}
GLUON = Layout(
    "the paper's Gluon code",
    weight="{unit}.conv_{path}.weight",
    norm="{unit}.bn_{half}.{leaf}",
    leaves=_TORCH | {"weight": "gamma", "bias": "beta"},
    classifier="classifer",
    input={key: [value / 255 for value in values] for key, values in _SCORED.items()},
)
SYMBOL = replace(
    GLUON,
    name="the paper's Symbol code",
    epsilon=1e-4,
    input={"mean": [124 / 255, 117 / 255, 104 / 255], "std": [1 / (0.0167 * 255)] * 3},
)
"""After `as_gluon`."""
REMEDY = "octavize reads those of d-li14 (PyTorch), of the article (Paddle), and of the paper (Gluon, Symbol)"


@dataclass(frozen=True)
class Published:
    """A network that somebody published.

    Attributes:
        layout: whose it is, for people.
        model: its name, as `create_model` takes it.
        alpha: share of low channels, that of the first layer which has any.
        classes: how many.
        arguments: further ones of `create_model`, such as `downsample` and `width`.
        arrays: under torchvision's names for ResNets (`layer1.0.conv1.weight`, `layer1.0.bn1.running_mean`,
            `fc.weight`); for MobileNetV1 `stem.conv`, `stem.bn`, `blocks.0.conv1`, `blocks.0.bn1` … and `fc`;
            for the other networks under timm's names.
        low: low outputs of each convolution, by the same names.
        input: `mean` and `std` of the images, where they are known.
    """

    layout: str
    model: str
    alpha: float
    classes: int
    arguments: Mapping[str, Any]
    arrays: Arrays
    low: Mapping[str, int]
    input: Mapping[str, Any]


def recognize(arrays: Mapping[str, np.ndarray]) -> Published:
    """The network that a file holds.

    Raises:
        InputError: it is none of the four, or has arrays that its network has not.
    """
    arrays = {key.removeprefix("module."): array for key, array in arrays.items()}
    arrays = {key: array for key, array in arrays.items() if not key.endswith("num_batches_tracked")}
    layout = _layout_of(arrays)
    pieces = Pieces(as_gluon(arrays) if layout is SYMBOL else arrays, layout)
    network = read_gluon(pieces) if layout in (GLUON, SYMBOL) else read_peer(pieces)
    _classifier(pieces, network.classifier)
    shares = (low / len(pieces.made[f"{conv}.weight"]) for conv, low in pieces.low.items() if low)
    classes = len(pieces.made[f"{network.classifier}.bias"])
    alpha, made = next(shares, 0.0), (pieces.made, pieces.low, layout.input)
    return Published(layout.name, network.model, alpha, classes, network.arguments, *made)


def _classifier(pieces: Pieces, ours: str) -> None:
    """Take the classifier, the last that a file may have: (classes, channels), wherever its code has it."""
    layout, name = pieces.layout, pieces.layout.classifier
    weight, bias = pieces.arrays.get(f"{name}.weight"), pieces.take(f"{name}.bias", 1)
    pieces.left.discard(f"{name}.weight")
    if weight is None or bias is None or pieces.left:
        odd = sorted(pieces.left)[0] if pieces.left else f"no {name}.weight or no {name}.bias"
        raise pieces.another(f"has {odd}")
    if weight.size == 0 or weight.ndim < 2 or weight.size != weight.shape[0] * weight.shape[1]:
        raise pieces.another(f"{name}.weight has the shape {weight.shape}")
    weight = weight.reshape(weight.shape[:2])
    weight = np.ascontiguousarray(weight.T if layout.transposed_classifier else weight)
    pieces.made |= {f"{ours}.weight": weight, f"{ours}.bias": bias}


def _layout_of(arrays: Iterable[str]) -> Layout:
    keys = list(arrays)
    if any(re.match(r"L\d_B\d+\..*conv_[hl]2[hl]\.weight", key) for key in keys):
        return GLUON
    if any(re.match(r"L\d_B\d+_conv\d_conv-[hl]2[hl]_weight", key) for key in keys):
        return SYMBOL
    if any(re.search(r"\.conv\.conv_[hl]2[hl]\.weight", key) for key in keys):
        return ARTICLE if any(key.endswith("._mean") for key in keys) else PYTORCH
    raise InputError(
        f"checkpoint holds no octave network that is known, by the names of its arrays: {REMEDY}"
    )
