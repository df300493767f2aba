"""Vanilla Paddle networks by name, and converted ones on disk, in the same files as torch's.

plan.yaml            α of every layer, see `Plan.save`
weights.safetensors  state dict, under torch's names: `octavize.paddle.weights.from_torch` reads it
network.json         how the vanilla network is built, and what is known of its input
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from octavize.errors import InputError, one_line, shown
from octavize.files import (
    NETWORK,
    PLAN,
    WEIGHTS,
    about_network,
    call_named,
    read_about,
    together,
    write_json,
)
from octavize.paddle.convert import octavize
from octavize.paddle.weights import load_named, put, to_torch
from octavize.paddle.zoo import build_vanilla, list_models
from octavize.plans.plan import Plan
from octavize.published.pdparams import read_pdparams

KIND, FUNCTION = "paddle", "function"


@dataclass(frozen=True)
class Origin:
    """How a vanilla network is built, in plain values."""

    kind: str
    """`paddle` (`octavize.paddle.list_models()`) or `function`."""
    name: str
    """Of the network, or `module:function`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the builder; none for a function."""

    def build(self, *, pretrained: bool = False) -> nn.Layer:
        """The vanilla network, with Paddle's own pretrained weights (downloaded) or with new ones.

        Raises:
            InputError: the name is unknown, there are no such weights, or the function makes no network.
        """
        if self.kind == FUNCTION:
            return call_named(self.name, nn.Layer)
        if not pretrained:
            return build_vanilla(self.name, **self.arguments)
        try:
            return build_vanilla(self.name, **self.arguments, pretrained=True)
        except InputError:
            raise
        except Exception as error:  # a download may fail in any way
            raise InputError(
                f"--pretrained: Paddle's weights of {self.name} cannot be had ({one_line(error)}); try again "
                "with a connection, or give --weights"
            ) from error


def find_origin(name: str, num_classes: int | None = None) -> Origin:
    """Who builds the network of this name.

    Raises:
        InputError: a number of classes is given for a function.
    """
    if ":" in name:
        if num_classes is not None:
            raise InputError(f"--num-classes is given and {name} is a function: leave it to the function")
        return Origin(FUNCTION, name)
    return Origin(KIND, name, {} if num_classes is None else {"num_classes": num_classes})


def find_vanilla(
    name: str,
    *,
    weights: Path | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
) -> tuple[Origin, nn.Layer, str]:
    """Find, build and load a vanilla network; the text says where its weights come from.

    Args:
        name: of `octavize.paddle.list_models()`, or `module:function`.
        weights: a .pdparams file, of which only arrays are read; or .safetensors with torch's names.
        pretrained: Paddle's own weights, downloaded.
        num_classes: of the classifier.

    Raises:
        InputError: nothing of this name; both kinds of weights; weights that do not fit.
    """
    if weights is not None and pretrained:
        raise InputError(f"--weights {weights} and --pretrained are both given: choose one")
    origin = find_origin(name, num_classes)
    if pretrained and origin.kind == FUNCTION:
        raise InputError(f"--pretrained is given and {name} is a function: let it load, or give --weights")
    model = origin.build(pretrained=pretrained)
    if weights is not None:
        load_weights(model, weights)
    return origin, model, "pretrained" if pretrained else str(weights) if weights else "as built"


def load_weights(model: nn.Layer, path: Path) -> None:
    """Read a state dict, .pdparams with Paddle's names or .safetensors with torch's.

    Raises:
        InputError: it is unreadable or of another network; every tensor has to fit.
    """
    if path.suffix != ".pdparams":
        return load_named(model, path)
    state, own = read_pdparams(path), model.state_dict()
    wrong = sorted(own.keys() ^ state.keys())
    wrong = wrong or sorted(key for key in own if tuple(own[key].shape) != state[key].shape)
    if wrong:
        raise InputError(
            f"weights {path} do not fit {type(model).__name__}: see {wrong[0]} and {len(wrong) - 1} more; "
            "give the weights of this network, or another --num-classes"
        )
    for key, array in state.items():
        if array.dtype == np.uint16:  # which is how Paddle keeps bfloat16 in arrays
            raise InputError(f"weights {path} are bfloat16 at {key}: save them as float32")
        put(own[key], array)
    return None


def save_converted(
    folder: str | Path, model: nn.Layer, decided: Plan, origin: Origin, facts: Mapping[str, Any]
) -> None:
    """Write a converted network. Files of the same names are replaced, all or none.

    Args:
        model: the octave network.
        decided: the plan it follows.
        origin: how the vanilla network is built.
        facts: what is known of its input, such as `mean`, `std`, `size`; JSON values.
    """
    with together(Path(folder), NETWORK) as part:
        decided.save(part / PLAN)
        to_torch(model, part / WEIGHTS)
        write_json(part / NETWORK, about_network(asdict(origin), facts))


def load_converted(folder: str | Path, *, model: nn.Layer | None = None) -> nn.Layer:
    """The octave network of a folder that `octavize convert --backend paddle` wrote.

    Args:
        folder: holds plan.yaml, weights.safetensors and network.json.
        model: the vanilla network, trained or not. Needed if it came from `module:function`, because a file
            must not decide which code runs. It is changed in place.

    Returns:
        The network with its weights, in evaluation mode.

    Raises:
        InputError: a file is missing, damaged or for another network; or `model` is needed.
    """
    folder = Path(folder)
    about = read_about(folder)
    net = octavize(_built(folder, about) if model is None else model, Plan.load(folder / PLAN), inplace=True)
    load_named(net, folder / WEIGHTS)
    net.eval()
    return net


def _built(folder: Path, about: Mapping[str, Any]) -> nn.Layer:
    """The vanilla network of a folder's `network.json`, which may name Paddle's own and no code."""
    origin = Origin(**about["origin"])
    known = origin.kind == KIND and origin.name in list_models()
    if not known or not origin.arguments.keys() <= {"num_classes"}:
        raise InputError(
            f"folder {folder} holds a network made by {shown(origin.name)} ({shown(origin.kind)}), which is "
            "not built unasked: give model=, the vanilla network"
        )
    return origin.build()
