"""Networks of d-li14's PyTorch code, and of the article's PaddlePaddle code, which names its layers alike."""

from __future__ import annotations

import re

from octavize.published.joining import Pieces
from octavize.published.networks import Network, depth_of, norm_of, width_of


def read_peer(pieces: Pieces) -> Network:
    """Join the layers of a ResNet or MobileNetV1."""
    return _mobilenet(pieces) if pieces.has("features.") else _resnet(pieces)


def _resnet(pieces: Pieces) -> Network:
    pattern = r"(layer(\d)\.(\d+)\.(?:conv\d|downsample\.0))\.conv\.conv_..."
    found = {m[1]: (int(m[2]), int(m[3])) for key in pieces.arrays if (m := re.match(pattern, key))}
    depth = depth_of(found.values())
    pieces.plain_unit("conv1", "bn1", "conv1", "bn1")
    for name in found:
        pieces.unit(name, norm_of(name), name, name)
    return Network(f"oct_resnet{depth}")


def _mobilenet(pieces: Pieces) -> Network:
    pieces.plain_unit("stem.conv", "stem.bn", "features.0.0", "features.0.1")
    for block in range(13):
        for part in range(2):
            theirs = f"features.{block + 1}.{part}"
            pieces.unit(f"blocks.{block}.conv{part + 1}", f"blocks.{block}.bn{part + 1}", theirs, theirs)
    width = width_of(pieces, "features.0.0.weight")
    return Network("oct_mobilenet_v1", arguments={"downsample": "pool_always", **width})
