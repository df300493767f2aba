"""Arrays of a run on disk, with what they are, as safetensors: reading one executes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from octavize.errors import InputError, one_line
from octavize.files import KEY

PADDLE = "PaddlePaddle"
"""As files of trained runs name their framework."""


def write_state(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write a file whole or not at all.

    Args:
        about: what JSON can hold.
    """
    part = path.with_name(path.name + ".part")
    save_file(dict(arrays), part, metadata={KEY: json.dumps(dict(about), ensure_ascii=False)})
    os.replace(part, path)


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file of `write_state`, and what it says of them.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"checkpoint {path} is damaged ({one_line(error, kind=True)}): delete its folder to train that "
            "run again"
        ) from None
