"""What the readers of the layouts share: how networks are told apart by the shapes of their arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from octavize.errors import InputError
from octavize.published.joining import Pieces

DEPTHS: dict[tuple[int, ...], int] = {
    (2, 2, 2, 2): 26,
    (3, 4, 6, 3): 50,
    (3, 4, 23, 3): 101,
    (3, 8, 36, 3): 152,
    (3, 24, 36, 3): 200,
}
"""Of ResNets, by the blocks of their stages."""


@dataclass(frozen=True)
class Network:
    """A network of ours: its name, that of its classifier, and arguments of `create_model`."""

    model: str
    classifier: str = "fc"
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"downsample": "pool_always"})


def depth_of(blocks: Iterable[tuple[int, int]]) -> int:
    """The depth of a ResNet with these stages and blocks.

    Raises:
        InputError: no ResNet has so many.
    """
    stages: dict[int, int] = {}
    for stage, block in blocks:
        stages[stage] = max(stages.get(stage, 0), block + 1)
    counts = tuple(stages[stage] for stage in sorted(stages))
    if counts not in DEPTHS:
        raise InputError(
            f"checkpoint is of a ResNet with {counts} blocks: known are {', '.join(map(str, DEPTHS))}"
        )
    return DEPTHS[counts]


def norm_of(conv: str) -> str:
    """`layer1.0.bn2` for `layer1.0.conv2`, `….downsample.1` for `….downsample.0`."""
    return re.sub(r"conv(\d)$", r"bn\1", re.sub(r"downsample\.0$", "downsample.1", conv))


def width_of(pieces: Pieces, stem: str) -> dict[str, Any]:
    """The argument `width` of a MobileNet, by the channels of its stem."""
    channels = len(pieces.arrays[stem]) if stem in pieces.arrays else 32
    return {} if channels == 32 else {"width": channels / 32}
