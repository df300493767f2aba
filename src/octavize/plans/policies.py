"""Which layers of a named network are octave, and where its frequencies meet: by family, after the paper.

To add a family, write its function of α and register it here; `zoo/recipes.py` then only has to build it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from octavize.errors import InputError
from octavize.plans.exchanging import check_exchange_policy
from octavize.split import check_alpha

Alphas = Callable[[float], dict[str, float]]
"""From the α of a network's octave layers to α by name pattern, the form that `octavize` takes."""
SMALL = "_small"
"""Ends the name of a network with a stem for small images; the network keeps its policy."""


@dataclass(frozen=True)
class Policy:
    """What a family's layers get: α by name pattern, and where the frequencies meet.

    `ends` has the patterns of the layers that end a block or a stage, for families without residual blocks.
    """

    names: tuple[str, ...]
    alphas: Alphas
    exchange: str
    ends: Mapping[str, Sequence[str]]


_POLICIES: list[Policy] = []


def policy(
    *names: str, exchange: str = "every", ends: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Alphas], Alphas]:
    """Register a function of α for networks whose names match one of these patterns; the last match wins.

    Args:
        exchange: where the frequencies meet if nothing else is said, see `octavize.plan`.
        ends: for a family without residual blocks, the patterns of the layers in which the frequencies meet
            if they do so once a `block` or once a `stage`.
    """
    check_exchange_policy(exchange)

    def register(alphas: Alphas) -> Alphas:
        _POLICIES.append(Policy(names, alphas, exchange, ends or {}))
        return alphas

    return register


def find_policy(name: str) -> Policy:
    """The policy of a named network.

    Raises:
        InputError: no family has a network of this name.
    """
    plain = name.removesuffix(SMALL)
    for found in reversed(_POLICIES):
        if any(fnmatchcase(plain, pattern) for pattern in found.names):
            return found
    known = ", ".join(pattern for each in _POLICIES for pattern in each.names)
    raise InputError(f"model {name!r} is unknown: there are policies for {known}")


def policy_of(name: str, alpha: float) -> dict[str, float]:
    """α by name pattern for the layers of a named network, such as `{"*": 0.5, "layer4.*": 0}`.

    Raises:
        InputError: the name is unknown, or α is outside [0, 1].
    """
    return find_policy(name).alphas(check_alpha(alpha))


def exchange_of(name: str, exchange: str | None = None) -> str | dict[str, str]:
    """Where the frequencies meet in a named network: in the form that `octavize` takes.

    Args:
        exchange: see `octavize.plan`; None is the family's own.

    Raises:
        InputError: the name or the exchange is unknown.
    """
    found = find_policy(name)
    exchange = found.exchange if exchange is None else check_exchange_policy(exchange)
    where, _, paths = exchange.partition(":")
    if where not in found.ends:
        return exchange
    return {"*": "none"} | dict.fromkeys(found.ends[where], paths or "both")


@policy(
    *(f"oct_resnet{depth}" for depth in (26, 50, 101, 152, 200)),
    *("oct_wide_resnet50_2", "oct_resnext*", "oct_seresnet*", "oct_c2d_resnet50", "oct_i3d_resnet50"),
)
def _bottleneck_resnet(alpha: float) -> dict[str, float]:
    """Octave from the first block on; the last stage is vanilla, and its first layers merge (paper §3.3)."""
    return {"*": alpha, "layer4.*": 0}


@policy("oct_seresnet152_official")
def _official_seresnet152(alpha: float) -> dict[str, float]:
    """The same; its stem has several layers, all vanilla."""
    return {"*": alpha, "conv1.*": 0, "layer4.*": 0}


@policy("oct_resnet152_official")
def _official_resnet152(alpha: float) -> dict[str, float]:
    """The same; its stem has a block, too."""
    return _official_seresnet152(alpha) | {"maxpool.*": 0}


@policy("oct_resnetv2_*", "oct_resnextv2_*", "oct_seresnetv2_*")
def _resnet_v2(alpha: float) -> dict[str, float]:
    """As for those that activate afterwards (paper §3.3); the official ablation study used these."""
    return {"*": alpha, "stages.3.*": 0}


_DENSENET_ENDS = {
    "block": ("features.denseblock*.denselayer*.conv2", "features.transition[12].conv"),
    "stage": ("features.transition[12].conv",),
}


@policy("oct_densenet121_vanilla_stem", ends=_DENSENET_ENDS)
def _densenet_vanilla_stem(alpha: float) -> dict[str, float]:
    """The last dense block is vanilla, and the transition to it merges: the official Symbol code."""
    return {"*": alpha, "features.transition3.conv": 0, "features.denseblock4.*": 0}


@policy("oct_densenet121", ends=_DENSENET_ENDS)
def _densenet(alpha: float) -> dict[str, float]:
    """The same, and the 7×7 stem is octave, too: the official Gluon code; the paper does not say."""
    return _densenet_vanilla_stem(alpha) | {"features.conv0": alpha}


@policy("oct_resnet18", "oct_resnet34")
def _basic_resnet(alpha: float) -> dict[str, float]:
    """As for bottlenecks (paper §3.3), but the blocks of the first stage read and write dense maps.

    That stage has no shortcut convolution that could split the stem's dense map. Its blocks are octave
    inside, as in the paper's MobileNetV2.
    """
    return {"*": alpha, "layer1.*.conv2": 0, "layer4.*": 0}


@policy("oct_cifar_resnet*")
def _cifar_resnet(alpha: float) -> dict[str, float]:
    """As for basic blocks (paper §3.3), but all three stages are octave.

    The first stage adds to the stem's dense map, as in ResNet-18.
    """
    return {"*": alpha, "stages.0.*.conv2_kxk.*": 0}


@policy("oct_wide_resnet28_10")
def _wide_resnet28_10(alpha: float) -> dict[str, float]:
    """As for the other networks for CIFAR: all three stages are octave; the first one's shortcut splits."""
    return {"*": alpha}


@policy(
    "oct_mobilenet_v1",
    ends={
        "block": ("blocks.[12].1.conv_pw", "blocks.3.[13].conv_pw"),
        "stage": ("blocks.[12].1.conv_pw",),
    },
)
def _mobilenet_v1(alpha: float) -> dict[str, float]:
    """Blocks 2 to 11 are octave; the pointwise layer of block 11 merges (paper §4.1).

    It has no residual blocks: two pointwise layers count as one, up to the layer that merges.
    """
    return {"*": alpha, "blocks.3.5.conv_pw": 0, "blocks.4.*": 0}


@policy("oct_mobilenet_v2")
def _mobilenet_v2(alpha: float) -> dict[str, float]:
    """Blocks read and write dense maps and are octave inside, up to the last stage (paper §4.1)."""
    return {"*": 0, "blocks.[1-4].*.conv_pw": alpha, "blocks.[1-4].*.conv_dw": alpha}


@policy("oct_mobilenet_v2_official")
def _official_mobilenet_v2(alpha: float) -> dict[str, float]:
    """The same, and its first block is octave inside, too, as in the official code."""
    return {"*": 0, "blocks.[0-4].*.conv_pw": alpha, "blocks.[0-4].*.conv_dw": alpha}
