"""What a file may say about how a network is built: a file must not decide which code runs.

Builders take arguments that load other files, or fetch code and weights (`checkpoint_path`, `pretrained`),
and names that do (`hf-hub:`). So files may give arguments from this list only, as plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavize.errors import InputError, shown

ARGUMENTS = frozenset(
    {
        *("num_classes", "in_chans", "width", "exchange", "downsample", "octave_bias"),
        *("output_stride", "global_pool", "img_size", "num_features", "channels", "width_mult"),
        *("cardinality", "base_width", "block_reduce_first", "down_kernel_size", "avg_down", "pad_type"),
        *("stem_width", "stem_type", "stem_size", "fix_stem", "replace_stem_pool"),
        *("act_layer", "norm_layer", "aa_layer", "zero_init_last"),
        *("drop_rate", "drop_path_rate", "drop_block_rate", "dropout", "stochastic_depth_prob"),
    }
)
"""Arguments of builders that only give a network its form."""


def arguments_of_file(path: str | Path, arguments: Any) -> dict[str, Any]:
    """The arguments of a builder as a file gives them, without `pretrained`: the weights are in the file.

    Raises:
        InputError: one of them is not in the list, or no plain value.
    """
    if not isinstance(arguments, Mapping):
        raise InputError(f"file {path}: the arguments of its network are {shown(arguments)}: write it again")
    wanted = {name: value for name, value in arguments.items() if name != "pretrained"}
    for name, value in wanted.items():
        if name not in ARGUMENTS or not _is_plain(value):
            raise InputError(
                f"file {path} builds its network with {name}={shown(value)}, which a file may not decide: "
                "build the network in Python, and load the weights into it"
            )
    return wanted


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))
