"""Weights as safetensors files that say what they are. Reading one executes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from octavize.convert.order import mark_order
from octavize.errors import InputError

KEY = "octavize"
"""Under this key a file says what it is: in the safetensors header and in the resume checkpoint."""


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a network's state dict with the facts needed to build it again.

    Args:
        metadata: `model`, `alpha`, `classes`, `in_chans`, `arguments` (builder arguments), and anything else
            that JSON can hold, such as `mean`, `std`, `size`.

    Raises:
        InputError: the state dict holds what is no tensor (`get_extra_state`).
    """
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for key, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{type(model).__name__} has {key!r} in its state dict, a {type(value).__name__}: only "
                "tensors can be written"
            )
        tensor = value.detach().cpu().contiguous()
        # A layer or weight used twice has two names; safetensors refuses tensors that share memory.
        storage = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={KEY: json.dumps(dict(metadata), ensure_ascii=False)})
    os.replace(part, path)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a weights file says about itself, without reading the weights.

    Raises:
        InputError: the file is missing, cut short, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist: give the path of a best.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        reason = f"is cut short or not a safetensors file ({error})"
        raise InputError(f"checkpoint {path} {reason}: train again or copy it again") from None
    if text is None:
        raise InputError(f"checkpoint {path} was not written by octavize: give a best.safetensors of a run")
    return json.loads(text)


def order_in(path: Path) -> str:
    """The key of the order of channels that a file's weights are in, see `convert.order`; empty for none."""
    if path.suffix != ".safetensors":
        return ""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get(KEY, "{}")).get("order", "")


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Load a weights file into a network that has the same layers, and note their order of channels.

    Raises:
        InputError: cut short, not ours, or made for other layers.
    """
    order = read_metadata(path).get("order", "")
    try:
        with safe_open(path, framework="pt") as file:
            model.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} is cut short ({error}): train again or copy it again") from None
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"checkpoint {path} does not fit its network ({reason}): train again") from None
    mark_order(model, order)
