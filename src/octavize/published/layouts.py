"""Whose octave network a file holds, recognized by the names of its arrays, and that network under our names.

* d-li14's PyTorch code: `layer1.0.conv1.conv.conv_h2h.weight`, `features.1.0.conv.conv_h2h.weight`.
* The article's PaddlePaddle code: the same, with `_mean` and `_variance`, and a bias a path.
* The paper's own code in Gluon: `L1_B0.conv1.conv_h2h.weight`.

All of them average before a layer of stride 2 even where it reads and writes plain maps, which
`downsample="pool_always"` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavize.errors import InputError
from octavize.published.joining import Arrays, Joined, Layout, Pieces, Unit

_TORCH = {name: name for name in ("weight", "bias", "running_mean", "running_var")}
_WEIGHT, _NORM = "{unit}.conv.conv_{path}.weight", "{unit}.bn_{half}.{leaf}"
PYTORCH = Layout("d-li14's PyTorch code", _WEIGHT, _NORM, _TORCH)
_PADDLE = _TORCH | {"running_mean": "_mean", "running_var": "_variance"}
ARTICLE = Layout("the article's Paddle code", _WEIGHT, _NORM, _PADDLE, transposed_classifier=True)
GLUON = Layout(
    "the paper's Gluon code",
    weight="{unit}.conv_{path}.weight",
    norm="{unit}.bn_{half}.{leaf}",
    leaves=_TORCH | {"weight": "gamma", "bias": "beta"},
    input={"mean": [124 / 255, 117 / 255, 104 / 255], "std": [1 / (0.0167 * 255)] * 3},
)
DEPTHS: dict[tuple[int, ...], int] = {
    (2, 2, 2, 2): 26,
    (3, 4, 6, 3): 50,
    (3, 4, 23, 3): 101,
    (3, 8, 36, 3): 152,
    (3, 24, 36, 3): 200,
}
"""Of ResNets, by the blocks of their stages."""
REMEDY = "octavize reads those of d-li14 (PyTorch), of the article (Paddle) and of the paper's Gluon code"


@dataclass(frozen=True)
class Published:
    """A network that somebody published.

    Attributes:
        layout: whose it is, for people.
        model: its name, as `create_model` takes it.
        alpha: share of low channels, that of the first layer which has any.
        classes: how many.
        arguments: further ones of `create_model`.
        arrays: under torchvision's names for ResNets (`layer1.0.conv1.weight`, `layer1.0.bn1.running_mean`,
            `fc.weight`); for MobileNetV1 `stem.conv`, `stem.bn`, `blocks.0.conv1`, `blocks.0.bn1` … and `fc`.
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
        InputError: it is none of the three, or has arrays that its network has not.
    """
    arrays = {key.removeprefix("module."): array for key, array in arrays.items()}
    arrays = {key: array for key, array in arrays.items() if not key.endswith("num_batches_tracked")}
    layout = _layout_of(arrays)
    pieces, joined = Pieces(arrays, layout), Joined()
    units, model, arguments = _network(arrays, layout)
    for unit in units:
        pieces.join(unit, joined)
    classifier = "classifer" if layout is GLUON else "fc"
    weight, bias = (pieces.take(f"{classifier}.{leaf}") for leaf in ("weight", "bias"))
    if weight is None or bias is None or pieces.left:
        odd = sorted(pieces.left)[0] if pieces.left else f"no {classifier}.weight or no {classifier}.bias"
        raise InputError(
            f"checkpoint is like one of {layout.name}, but has {odd}: it is of another network; {REMEDY}"
        )
    weight = weight.T if layout.transposed_classifier else weight.reshape(weight.shape[0], -1)
    joined.arrays |= {"fc.weight": np.ascontiguousarray(weight), "fc.bias": bias}
    shares = (low / len(joined.arrays[f"{conv}.weight"]) for conv, low in joined.low.items() if low)
    alpha = next(shares, 0.0)
    found = (len(bias), arguments, joined.arrays, joined.low, layout.input)
    return Published(layout.name, model, alpha, *found)


def _layout_of(arrays: Iterable[str]) -> Layout:
    keys = list(arrays)
    if any(re.match(r"L\d_B\d+\..*conv_[hl]2[hl]\.weight", key) for key in keys):
        return GLUON
    if any(re.search(r"\.conv\.conv_[hl]2[hl]\.weight", key) for key in keys):
        return ARTICLE if any(key.endswith("._mean") for key in keys) else PYTORCH
    raise InputError(
        f"checkpoint holds no octave network that is known, by the names of its arrays: {REMEDY}"
    )


def _network(arrays: Mapping[str, np.ndarray], layout: Layout) -> tuple[list[Unit], str, dict[str, Any]]:
    """The units of the network, its name, and its further arguments."""
    if layout is GLUON:
        return _gluon(arrays)
    return _mobilenet(arrays) if any(key.startswith("features.") for key in arrays) else _resnet(arrays)


# ---- PyTorch and the article -------------------------------------------------------------------------------


def _resnet(arrays: Mapping[str, np.ndarray]) -> tuple[list[Unit], str, dict[str, Any]]:
    pattern = r"(layer(\d)\.(\d+)\.(?:conv\d|downsample\.0))\.conv\.conv_..."
    found = {m[1]: (int(m[2]), int(m[3])) for key in arrays if (m := re.match(pattern, key))}
    units = [Unit("conv1", "bn1", "conv1", "bn1", plain=True)]
    units += [Unit(name, _norm_of(name), name, name) for name in found]
    return units, f"oct_resnet{_depth(found.values())}", {}


def _norm_of(conv: str) -> str:
    """`layer1.0.bn2` for `layer1.0.conv2`, `….downsample.1` for `….downsample.0`."""
    return re.sub(r"conv(\d)$", r"bn\1", re.sub(r"downsample\.0$", "downsample.1", conv))


def _depth(blocks: Iterable[tuple[int, int]]) -> int:
    stages: dict[int, int] = {}
    for stage, block in blocks:
        stages[stage] = max(stages.get(stage, 0), block + 1)
    counts = tuple(stages[stage] for stage in sorted(stages))
    if counts not in DEPTHS:
        raise InputError(
            f"checkpoint is of a ResNet with {counts} blocks: known are {', '.join(map(str, DEPTHS))}"
        )
    return DEPTHS[counts]


def _mobilenet(arrays: Mapping[str, np.ndarray]) -> tuple[list[Unit], str, dict[str, Any]]:
    units = [Unit("stem.conv", "stem.bn", "features.0.0", "features.0.1", plain=True)]
    for block in range(13):
        for part in range(2):
            theirs = f"features.{block + 1}.{part}"
            units.append(
                Unit(f"blocks.{block}.conv{part + 1}", f"blocks.{block}.bn{part + 1}", theirs, theirs)
            )
    return units, "oct_mobilenet_v1", _width(arrays, "features.0.0.weight")


def _width(arrays: Mapping[str, np.ndarray], stem: str) -> dict[str, Any]:
    channels = len(arrays[stem]) if stem in arrays else 32
    return {} if channels == 32 else {"width": channels / 32}


# ---- Gluon -------------------------------------------------------------------------------------------------


def _gluon(arrays: Mapping[str, np.ndarray]) -> tuple[list[Unit], str, dict[str, Any]]:
    pattern = r"(L(\d)_B(\d+))\.conv(\d)\.conv_...\.weight"
    found = [match for key in arrays if (match := re.match(pattern, key))]
    kinds = {m[4] for m in found}
    blocks = sorted({(int(m[2]), int(m[3]), m[1]) for m in found})
    if kinds == {"1", "2"} and "tail.0.gamma" not in arrays:
        units = [Unit("stem.conv", "stem.bn", "conv1.0", "conv1.1", plain=True)]
        units += [
            Unit(f"blocks.{i}.conv{n}", f"blocks.{i}.bn{n}", f"{name}.conv{n}", f"{name}.bn{n}")
            for i, (_, _, name) in enumerate(blocks)
            for n in (1, 2)
        ]
        return units, "oct_mobilenet_v1", _width(arrays, "conv1.0.weight")
    plain = any(key.startswith(("tail.", "conv1.3.", "L1_B0.se_block", "L1_B0.bn1a")) for key in arrays)
    if kinds != {"1", "2", "3", "4"} or plain:
        raise InputError(
            "checkpoint is of the paper's Gluon code, and of none of the networks that are read: ResNet-50 "
            "and ResNeXt-50 (v1b), MobileNetV1"
        )
    units = [Unit("conv1", "bn1", "conv1.0", "conv1.1", plain=True)]
    for stage, block, name in blocks:
        for n in "1234":
            if any(key.startswith(f"{name}.conv{n}.") for key in arrays):
                ours = f"layer{stage}.{block}.conv{n}".replace("conv4", "downsample.0")
                units.append(Unit(ours, _norm_of(ours), f"{name}.conv{n}", f"{name}.bn{n}"))
    depth = _depth((stage, block) for stage, block, _ in blocks)
    outputs = (f"L1_B0.conv2.conv_h2{half}.weight" for half in "hl")
    width = sum(len(arrays[key]) for key in outputs if key in arrays)
    return units, f"oct_resnet{depth}" if width == 64 else f"oct_resnext{depth}_32x4d", {}
