"""Networks of the paper's own code in Gluon.

Blocks are `L1_B0`, `L1_B1` …, in the order of their numbers. `conv4` of a residual block is its shortcut.
"""

from __future__ import annotations

import re

import numpy as np

from octavize.published.joining import Pieces
from octavize.published.networks import Network, depth_of, norm_of, width_of

STAGES_OF_MOBILENET_V2 = (1, 2, 3, 4, 3, 3, 1)
Blocks = list[tuple[int, int, str]]
"""Stage, place in it, and name."""


def read_gluon(pieces: Pieces) -> Network:
    """Join the layers of a ResNet (v1, v2), ResNeXt, SE-ResNet, DenseNet, MobileNetV1 or MobileNetV2."""
    matches = [match for key in pieces.arrays if (match := re.match(r"(L(\d)_B(\d+))\.", key))]
    if not matches:
        raise pieces.another("has no blocks")
    blocks = sorted({(int(m[2]), int(m[3]), m[1]) for m in matches})
    bottlenecks = pieces.has(f"{blocks[0][2]}.conv3.")
    if pieces.has("tail.0.weight"):
        return _mobilenet_v2(pieces, blocks)
    if pieces.has("tail."):
        return _resnet_v2(pieces, blocks) if bottlenecks else _densenet(pieces, blocks)
    return _resnet_v1(pieces, blocks) if bottlenecks else _mobilenet_v1(pieces, blocks)


# ---- ResNets -----------------------------------------------------------------------------------------------


def _resnet_v1(pieces: Pieces, blocks: Blocks) -> Network:
    deep = _stem_of_resnet(pieces)
    for stage, block, name in blocks:
        for n in "1234":
            if pieces.has(f"{name}.conv{n}."):
                ours = f"layer{stage}.{block}.conv{n}".replace("conv4", "downsample.0")
                _unit(pieces, ours, f"{name}.conv{n}", f"{name}.bn{n}")
        _excitation(pieces, f"layer{stage}.{block}.se", name)
    depth, excited = depth_of((stage, block) for stage, block, _ in blocks), pieces.has("L1_B0.se_block.")
    if not deep:
        return Network(f"oct_{_kind(pieces, excited)}".format(depth=depth))
    if depth != 152 or excited == pieces.has("conv2."):
        raise pieces.another("it has a deep stem, and is neither resnet152_v1f nor SE resnet152_v1e")
    return Network("oct_seresnet152_official" if excited else "oct_resnet152_official", arguments={})


def _unit(pieces: Pieces, ours: str, conv: str, norm: str) -> None:
    """A convolution and the norm after it; there may be a norm before it, without scale."""
    if not pieces.has(f"{norm}a."):
        pieces.unit(ours, norm_of(ours), conv, norm)
        return
    shortcut = ours.removesuffix("downsample.0")
    before, at, after = f"{ours}.norm", f"{ours}.conv", norm_of(ours)
    if shortcut != ours:
        before, at, after = (f"{shortcut}downsample.{n}" for n in range(3))
    pieces.norm_without_scale(before, f"{norm}a")
    pieces.unit(at, after, conv, norm)


def _stem_of_resnet(pieces: Pieces) -> bool:
    """Whether it is deep: three 3 × 3, and perhaps a block in the place of max-pooling."""
    if not pieces.has("conv1.3."):
        pieces.plain_unit("conv1", "bn1", "conv1.0", "conv1.1")
        return False
    for n in (0, 3, 6):
        pieces.plain_unit(f"conv1.{n}", "bn1" if n == 6 else f"conv1.{n + 1}", f"conv1.{n}", f"conv1.{n + 1}")
    for n in "1234":
        if pieces.has(f"conv2.conv{n}."):
            ours = f"maxpool.conv{n}".replace("conv4", "downsample.0")
            pieces.plain_unit(ours, norm_of(ours), f"conv2.conv{n}", f"conv2.bn{n}")
    return True


def _kind(pieces: Pieces, excited: bool, generation: str = "") -> str:
    """`resnet{depth}`, `resnext{depth}_32x4d` or `seresnet{depth}`, by the width of the first 3 × 3."""
    outputs = (pieces.arrays.get(f"L1_B0.conv2.conv_h2{half}.weight") for half in "hl")
    width = sum(len(rows) for rows in outputs if rows is not None)
    if width != 64 and excited:
        raise pieces.another("it is a ResNeXt with squeeze-and-excitation")
    se = "se" if excited else ""
    return f"{se}resnet{generation}{{depth}}" if width == 64 else f"resnext{generation}{{depth}}_32x4d"


def _excitation(pieces: Pieces, ours: str, name: str) -> None:
    """Squeeze-and-excitation reads and scales both halves; `conv1_h` and `conv1_l` are of the Symbol code."""
    theirs = f"{name}.se_block"
    pieces.linear(f"{ours}.fc1", [f"{theirs}.{conv}" for conv in ("conv1", "conv1_h", "conv1_l")], axis=1)
    pieces.linear(f"{ours}.fc2", [f"{theirs}.{conv}" for conv in ("conv2_h", "conv2_l")], axis=0)


def _resnet_v2(pieces: Pieces, blocks: Blocks) -> Network:
    """Every reader of a stage's map is a norm: these take in the biases of its shortcut convolution."""
    pieces.plain_unit("stem.conv", "stem.norm", "conv1.0", "conv1.1")
    shift = None
    for stage, block, name in blocks:
        ours = f"stages.{stage - 1}.blocks.{block}"
        norm, conv = (".conv1.norm", ".conv1.conv") if block == 0 else (".norm1", ".conv1")
        pieces.norm(f"{ours}{norm}", f"{name}.bn1", shift=shift)
        pieces.conv(f"{ours}{conv}", f"{name}.conv1")
        for n in "23":
            pieces.norm(f"{ours}.norm{n}", f"{name}.bn{n}")
            pieces.conv(f"{ours}.conv{n}", f"{name}.conv{n}")
        _excitation(pieces, f"{ours}.drop_path.se", name)
        if block == 0:
            pieces.norm(f"{ours}.downsample.norm", f"{name}.bn4", shift=shift)
            shift = pieces.conv(f"{ours}.downsample.conv", f"{name}.conv4")
    pieces.plain_norm("norm", "tail.0", shift)
    depth, excited = depth_of((stage, block) for stage, block, _ in blocks), pieces.has("L1_B0.se_block.")
    return Network(f"oct_{_kind(pieces, excited, 'v2_')}_official".format(depth=depth), "head.fc")


# ---- DenseNet ----------------------------------------------------------------------------------------------


def _densenet(pieces: Pieces, blocks: Blocks) -> Network:
    """Theirs has all high channels before all low ones; ours those of one layer after those of another."""
    octave_stem = pieces.has("conv1.conv_")
    if octave_stem:
        pieces.unit("features.conv0", "features.norm0", "conv1", "bn1")
    else:
        pieces.plain_unit("features.conv0", "features.norm0", "conv1.0", "conv1.1")
    kept, layers = [_outputs(pieces, "features.conv0")], dict.fromkeys(range(10), 0)
    for stage, _, name in blocks:
        if pieces.has(f"{name}.conv."):
            ours = f"features.transition{stage - 1}"
            pieces.norm(f"{ours}.norm", f"{name}.bn", _order(kept))
            pieces.conv(f"{ours}.conv", f"{name}.conv", _order(kept))
            kept = [_outputs(pieces, f"{ours}.conv")]
            continue
        layers[stage] += 1
        ours = f"features.denseblock{stage}.denselayer{layers[stage]}"
        pieces.norm(f"{ours}.norm1", f"{name}.bn1", _order(kept))
        pieces.conv(f"{ours}.conv1", f"{name}.conv1", _order(kept))
        pieces.norm(f"{ours}.norm2", f"{name}.bn2")
        pieces.conv(f"{ours}.conv2", f"{name}.conv2")
        kept.append(_outputs(pieces, f"{ours}.conv2"))
    pieces.plain_norm("features.norm5", "tail.0")
    return Network("oct_densenet121" if octave_stem else "oct_densenet121_vanilla_stem", "classifier")


def _outputs(pieces: Pieces, conv: str) -> tuple[int, int]:
    """High and low output channels of a layer."""
    weight, low = pieces.made.get(f"{conv}.weight"), pieces.low.get(conv, 0)
    return (0 if weight is None else len(weight) - low), low


def _order(kept: list[tuple[int, int]]) -> np.ndarray:
    """Where their channels are, layer by layer, high before low."""
    high, low = 0, sum(count for count, _ in kept)
    places: list[np.ndarray] = []
    for highs, lows in kept:
        places += [np.arange(high, high + highs), np.arange(low, low + lows)]
        high, low = high + highs, low + lows
    return np.concatenate(places)


# ---- MobileNets --------------------------------------------------------------------------------------------


def _mobilenet_v1(pieces: Pieces, blocks: Blocks) -> Network:
    pieces.plain_unit("stem.conv", "stem.bn", "conv1.0", "conv1.1")
    for number, (_, _, name) in enumerate(blocks):
        for n in "12":
            ours = f"blocks.{number}.conv{n}", f"blocks.{number}.bn{n}"
            pieces.unit(*ours, f"{name}.conv{n}", f"{name}.bn{n}")
    width = width_of(pieces, "conv1.0.weight")
    return Network("oct_mobilenet_v1", arguments={"downsample": "pool_always", **width})


def _mobilenet_v2(pieces: Pieces, blocks: Blocks) -> Network:
    places = [f"blocks.{s}.{b}" for s, count in enumerate(STAGES_OF_MOBILENET_V2) for b in range(count)]
    if len(blocks) != len(places):
        raise pieces.another(f"it has {len(blocks)} blocks, and MobileNetV2 {len(places)}")
    pieces.plain_unit("conv_stem", "bn1", "conv1.0", "conv1.1")
    for ours, (_, _, name) in zip(places, blocks, strict=True):
        for n, conv in enumerate(("conv_pw", "conv_dw", "conv_pwl"), 1):
            pieces.unit(f"{ours}.{conv}", f"{ours}.bn{n}", f"{name}.conv{n}", f"{name}.bn{n}")
    pieces.plain_unit("conv_head", "bn2", "tail.0", "tail.1")
    arguments = {"downsample": "pool_always", **width_of(pieces, "conv1.0.weight")}
    return Network("oct_mobilenet_v2_official", "classifier", arguments)
