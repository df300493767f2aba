"""Converted networks on disk: a folder from which the octave network can be rebuilt.

plan.yaml            α of every layer, and the order of channels, see `Plan.save`
weights.safetensors  state dict
network.json         how the vanilla network is built, and what is known of its input
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from octavize.convert.octavize import octavize
from octavize.convert.order import mark_order, order_of
from octavize.errors import InputError
from octavize.files import NETWORK, PLAN, WEIGHTS, about_network, read_about, together, write_json
from octavize.plans.plan import Plan
from octavize.zoo.find import Origin, origin_of_file
from octavize.zoo.weights import load_weights, save_weights


def save_converted(
    folder: str | Path, model: nn.Module, decided: Plan, origin: Origin, facts: Mapping[str, Any]
) -> None:
    """Write a converted network. Files of the same names are replaced, all or none.

    Args:
        model: the octave network.
        decided: the plan it follows.
        origin: how the vanilla network is built.
        facts: what is known of its input, such as `mean`, `std`, `size`, `classes`; JSON values.
    """
    about = about_network(asdict(origin), facts, order_of(model))
    with together(Path(folder), NETWORK) as part:
        decided.save(part / PLAN)
        save_weights(part / WEIGHTS, model, about)
        write_json(part / NETWORK, about)


def load_converted(folder: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """The octave network of a folder that `octavize convert` or `octavize adapt` wrote.

    Args:
        folder: holds plan.yaml, weights.safetensors and network.json.
        model: the vanilla network, trained or not. Needed if it came from `module:function`, because a file
            must not decide which code runs. It is changed in place.

    Returns:
        The network with its weights, on the CPU, in evaluation mode. `read_about(folder)` tells how its input
        is normalized.

    Raises:
        InputError: a file is missing, damaged or for another network; or `model` is needed.
    """
    folder = Path(folder)
    about = read_about(folder)
    if model is None:
        origin = origin_of_file(folder / NETWORK, about["origin"])
        if origin.kind == "function":
            raise InputError(
                f"folder {folder} holds a network made by {origin.name}, which is not run unasked: give "
                "model=, the vanilla network that it returns"
            )
        model = origin.build()
    mark_order(model, about.get("order", ""))  # the order of the weights that are loaded below
    net = octavize(model, Plan.load(folder / PLAN), inplace=True)
    load_weights(folder / WEIGHTS, net)
    return net.cpu().eval()
