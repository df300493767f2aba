"""The names of the paper's own code in Symbol, of its ablation study, turned into those of its Gluon code.

A layer of a block is `L2_B01_conv1_conv-h2h_weight`, its batch norm `L2_B01_conv1_bn-h_gamma`. Stages are
counted from 2 on and blocks from 1 on; `L3_Trans_conv_…` leads into a stage of a DenseNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from octavize.published.joining import Arrays

OUTSIDE = {"conv1_conv": "conv1.0", "conv1_bn": "conv1.1", "tail_bn": "tail.0", "classifier": "classifer"}
EXCITATION = {"fc1-h2h": "conv1_h", "fc1-l2h": "conv1_l", "fc2-h2h": "conv2_h", "fc2-h2l": "conv2_l"}
"""Gluon has one `conv1`, which reads both halves."""
BLOCK = r"L(?P<stage>\d)_(?:B(?P<place>\d+)|Trans)"
LAYER = r"conv(?P<n>\d?)_(?P<kind>conv|bn)-(?P<path>[hl2]+)"


def as_gluon(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays under the names of the Gluon code; those that have none there keep theirs."""
    dense = any("_Trans_" in key for key in arrays)
    made: Arrays = {}
    for key, array in arrays.items():
        name = _renamed(key, dense)
        excites = ".se_block." in name and array.ndim == 2
        made[f"a second {name}" if name in made else name] = array[:, :, None, None] if excites else array
    return made


def _renamed(key: str, dense: bool) -> str:
    dotted = re.sub(r"_moving_(mean|var)$", r".running_\1", key)
    layer, _, leaf = re.sub(r"_(weight|bias|gamma|beta)$", r".\1", dotted).rpartition(".")
    if layer in OUTSIDE:
        return f"{OUTSIDE[layer]}.{leaf}"
    match = re.fullmatch(f"{BLOCK}_(?:{LAYER}|se_(?P<fc>.*))", layer)
    if match is None:
        return key
    stage = int(match["stage"]) - 1
    after_transition = int(dense and stage > 1)
    place = int(match["place"]) - 1 + after_transition if match["place"] else 0
    if match["fc"]:
        return f"L{stage}_B{place}.se_block.{EXCITATION.get(match['fc'], match['fc'])}.{leaf}"
    return f"L{stage}_B{place}.{match['kind']}{match['n']}.{match['kind']}_{match['path']}.{leaf}"
