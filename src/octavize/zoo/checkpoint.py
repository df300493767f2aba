"""Networks of runs from their weights, and the state to resume from. Reading executes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octavize.errors import InputError
from octavize.files import KEY, arguments_of_file, completed
from octavize.zoo.initialize import add_path_biases
from octavize.zoo.models import create_model
from octavize.zoo.weights import load_weights, read_metadata

REMEDY = "delete it to train this run from the start"


def load_checkpoint(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network that a weights file describes and load its weights.

    Args:
        path: a `best.safetensors`.

    Returns:
        The network in evaluation mode on the CPU, and its facts: `model`, `alpha`, `classes`, `mean`,
        `std`, `normalize`, `size` (pixels), `in_chans`, `epoch`, `val_accuracy`, `version`, …

    Raises:
        InputError: the file is missing, cut short, not ours, or does not fit its own network.
    """
    facts = read_metadata(path)
    try:
        arguments = arguments_of_file(path, facts["arguments"])
        model = build_model(
            facts["model"], facts["alpha"], len(facts["classes"]), facts["in_chans"], arguments
        )
    except KeyError as error:
        raise InputError(
            f"checkpoint {path} does not name its {error}: it was not written by octavize"
        ) from None
    load_weights(path, model)
    return model.eval(), {**facts, "arguments": arguments}


def build_model(
    name: str, alpha: float, classes: int, in_chans: int, arguments: Mapping[str, Any]
) -> nn.Module:
    """`create_model` with the arguments of a recipe, see `Recipe.arguments_of`."""
    rest = {k: v for k, v in arguments.items() if k != "octave_bias"}
    if in_chans != 3:
        rest["in_chans"] = in_chans
    model = create_model(name, alpha=alpha, num_classes=classes, **rest)
    if arguments.get("octave_bias", False):
        add_path_biases(model)
    return model


def check_resumable(path: Path, identity: Mapping[str, Any]) -> int:
    """Make sure that training can go on from `path`, before anything is built on it.

    Args:
        path: a `last.ckpt`.
        identity: what the run says about itself; the checkpoint has to say the same.

    Returns:
        Epochs finished.

    Raises:
        InputError: cut short, of another program, or of another run.
    """
    state = read_state(path)
    told = completed(state[KEY], identity)
    if told != dict(identity):
        changed = [k for k, v in identity.items() if told.get(k) != v]
        raise InputError(f"checkpoint {path} belongs to another run (other {', '.join(changed)}): {REMEDY}")
    return state["epoch"] + 1


def read_state(path: Path) -> dict[str, Any]:
    """What a `last.ckpt` holds.

    Raises:
        InputError: it was cut short, or is of another program.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds here, all of which mean "not a readable checkpoint"
        kind = type(error).__name__
        raise InputError(f"checkpoint {path} is cut short or not ours ({kind}): {REMEDY}") from None
    if not isinstance(state, dict) or not isinstance(state.get(KEY), dict):
        raise InputError(f"checkpoint {path} was not written by octavize: {REMEDY}")
    return state
