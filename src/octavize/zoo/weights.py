"""Weights as safetensors files that say what they are. Reading one executes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from octavize.convert.order import mark_order
from octavize.errors import InputError
from octavize.files import KEY


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
        text = _said_by(path)
    except (SafetensorError, OSError) as error:
        reason = f"is cut short or not a safetensors file ({error})"
        raise InputError(f"checkpoint {path} {reason}: train again or copy it again") from None
    if text is None:
        raise InputError(f"checkpoint {path} was not written by octavize: give a best.safetensors of a run")
    return json.loads(text)


def _said_by(path: Path) -> str | None:
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get(KEY)


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Load a weights file into a network that has the same layers, and note their order of channels.

    Raises:
        InputError: cut short, not ours, or made for other layers.
    """
    order = read_metadata(path).get("order", "")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} is cut short ({error}): train again or copy it again") from None
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"checkpoint {path} does not fit its network ({reason}): train again") from None
    mark_order(model, order)


def load_state(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights into a network that has the same layers; nothing in the file is executed.

    Wrappers such as {"state_dict": …} and the prefix "module." of parallel training are taken off. Weights of
    a converted network may be in a plan's order of channels: the network then knows it, see `convert.order`.

    Raises:
        InputError: the file is missing, unreadable, or of another network.
    """
    path = Path(path)
    state = read_state(path)
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or sorted(k for k in own if own[k].shape != state[k].shape)
    if wrong:
        where = "lacks" if wrong[0] not in state else "has" if wrong[0] not in own else "has another shape of"
        raise InputError(
            f"weights {path} do not fit {type(model).__name__}: the file {where} {wrong[0]} and "
            f"{len(wrong) - 1} more differ; give the weights of this network (and --num-classes)"
        )
    model.load_state_dict(state)
    said = _said_by(path) if path.suffix == ".safetensors" else None
    mark_order(model, json.loads(said or "{}").get("order", ""))


def check_file(path: str | Path) -> None:
    """Raises InputError where there is no such file of weights."""
    if not Path(path).is_file():
        raise InputError(f"weights {path} do not exist: give the path of a .safetensors or .pth file")


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of weights, without wrappers and prefix, see `load_state`.

    Raises:
        InputError: the file is missing, unreadable, or holds more than tensors.
    """
    check_file(path)
    try:
        ours = path.suffix == ".safetensors"
        state: Any = load_file(path) if ours else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise many kinds, all of which mean "not readable weights"
        raise InputError(
            f"weights {path} cannot be read as plain tensors ({type(error).__name__}): save the state dict "
            "with torch.save(model.state_dict(), path) or as .safetensors"
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"weights {path} hold no state dict: save model.state_dict()")
    parallel = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if parallel else key: value for key, value in state.items()}
