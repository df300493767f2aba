"""Weights between Paddle and torch, by safetensors files with torch's names. Neither side needs the other.

An octave network has the state dict of its vanilla network, so one file serves both. Three things differ
between the frameworks: Paddle calls running statistics `_mean` and `_variance`; its fully connected layers
keep their weight transposed; and some of its networks name their layers otherwise, see `torch_names.py`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn.layer.norm import _BatchNormBase, _InstanceNormBase

from octavize.errors import InputError, require_extra
from octavize.paddle.torch_names import torch_name
from octavize.paddle.trace import check_network

Names = Mapping[str, str] | Callable[[str], str]
"""torch's name of a layer by Paddle's: a mapping, in which a layer without an entry keeps its name, or a
function."""
Arrays = Mapping[str, np.ndarray]
_NORMS = (_BatchNormBase, nn.BatchNorm)
_COUNT = "num_batches_tracked"
"""torch counts the batches of a batch norm, Paddle does not."""


class _Entry(NamedTuple):
    """One tensor of a state dict, and where torch keeps it."""

    key: str
    value: Tensor
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """As torch has it."""
        return tuple(self.value.shape)[:: -1 if self.transposed else 1]


def from_torch(model: nn.Layer, source: str | Path | Arrays, *, names: Names | None = None) -> None:
    """Load the weights of torch's network into Paddle's, octave or vanilla.

    Args:
        model: a network with the layers of torch's.
        source: a .safetensors file, as `safetensors.torch.save_file(net.state_dict(), path)` writes it, or
            `octavize train`; or arrays by torch's names.
        names: torch's names of the layers, where they differ and the network is none of Paddle's own.

    Raises:
        InputError: the file is missing, unreadable, or of another network; every tensor has to fit.

    Warns:
        UserWarning: a dropout of the network scales maps in evaluation, where torch's does so in training.
    """
    check_network(model)
    load_named(model, source, names)
    _warn_of_dropout(model)


def load_named(model: nn.Layer, source: str | Path | Arrays, names: Names | None = None) -> None:
    """`from_torch` of weights that Paddle trained: its dropouts are as they should be."""
    told = str(source) if isinstance(source, (str, Path)) else "given"
    state = read_safetensors(source) if isinstance(source, (str, Path)) else source
    state = {key: value for key, value in state.items() if key.rpartition(".")[2] != _COUNT}
    if all(key.startswith("module.") for key in state):  # of parallel training
        state = {key.removeprefix("module."): value for key, value in state.items()}
    entries = {entry.key: entry for entry in _entries(model, names)}
    _check_fit(model, told, {key: entry.shape for key, entry in entries.items()}, state)
    for key, entry in entries.items():
        put(entry.value, state[key].T if entry.transposed else state[key])


def to_torch(model: nn.Layer, path: str | Path, *, names: Names | None = None) -> None:
    """Write the weights of a Paddle network under torch's names, for `load_state_dict(load_file(path))`.

    Args:
        model: the network, octave or vanilla.
        path: the .safetensors file to write.
        names: see `from_torch`.

    Raises:
        InputError: the path is no .safetensors file, two layers get one name, or a dtype is none of NumPy's.
    """
    check_network(model)
    require_extra("safetensors", "paddle")
    from safetensors.numpy import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"path={path}: give a .safetensors file, which torch reads without running anything")
    part = path.with_name(path.name + ".part")
    save_file(torch_state(model, names=names), part)
    os.replace(part, path)


def torch_state(model: nn.Layer, *, names: Names | None = None) -> dict[str, np.ndarray]:
    """The weights of a Paddle network as arrays, under torch's names and with torch's shapes.

    Raises:
        InputError: see `to_torch`.
    """
    state: dict[str, np.ndarray] = {}
    for key, value, transposed in _entries(model, names):
        if key in state:
            raise InputError(f"names give {key!r} to two tensors of {type(model).__name__}: tell them apart")
        if value.dtype == paddle.bfloat16:
            raise InputError(
                f"{key} is bfloat16, which NumPy lacks: convert it first, net.to(dtype='float32')"
            )
        array = value.numpy()
        state[key] = np.ascontiguousarray(array.T if transposed else array)
        if key.endswith("running_var"):
            state[f"{key.removesuffix('running_var')}{_COUNT}"] = np.zeros((), np.int64)
    return state


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file.

    Raises:
        InputError: it is missing, cut short, of another kind, or of a dtype that NumPy lacks.
    """
    require_extra("safetensors", "paddle")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path} do not exist: give the path of a .safetensors file")
    if path.suffix != ".safetensors":
        raise InputError(
            f"weights {path} are no .safetensors file: write one in torch, "
            "safetensors.torch.save_file(net.state_dict(), path)"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise InputError(
            f"weights {path} cannot be read ({type(error).__name__}: {error}): write them anew, as float32"
        ) from None


def put(tensor: Tensor, array: np.ndarray) -> None:
    """Write an array into a parameter or a buffer, which keeps its dtype and place."""
    tensor.set_value(paddle.to_tensor(np.ascontiguousarray(array), place=tensor.place).astype(tensor.dtype))


def _warn_of_dropout(model: nn.Layer) -> None:
    """Paddle's AlexNet, SqueezeNets and Inception have dropouts of the older kind."""
    scaling = [m for m in model.sublayers() if isinstance(m, nn.Dropout) and m.mode == "downscale_in_infer"]
    if any(layer.p for layer in scaling):
        warnings.warn(
            f"{type(model).__name__} has a Dropout with mode='downscale_in_infer', so it computes something "
            "else with torch's weights: set its mode to 'upscale_in_train', which is torch's",
            UserWarning,
            stacklevel=3,
        )


def _entries(model: nn.Layer, names: Names | None) -> list[_Entry]:
    model = model._layers if isinstance(model, paddle.DataParallel) else model
    layers: dict[str, nn.Layer] = {}
    _collect(layers, "", model)
    rename = torch_name(model) if names is None else names if callable(names) else lambda n: names.get(n, n)
    entries = []
    for key, value in model.state_dict().items():
        name, _, leaf = key.rpartition(".")
        layer = layers[name]
        transposed = isinstance(layer, nn.Linear) and leaf == "weight"
        entries.append(_Entry(f"{rename(name)}.{_leaf(layer, leaf)}".lstrip("."), value, transposed))
    return entries


def _collect(layers: dict[str, nn.Layer], name: str, layer: nn.Layer) -> None:
    """All layers by name; a layer that is used twice has both, as in a state dict."""
    layers[name] = layer
    for child, sublayer in layer._sub_layers.items():
        if sublayer is not None:
            _collect(layers, f"{name}.{child}".lstrip("."), sublayer)


def _leaf(layer: nn.Layer, leaf: str) -> str:
    """torch's name of a parameter or buffer of this layer."""
    if isinstance(layer, _NORMS):
        return {"_mean": "running_mean", "_variance": "running_var"}.get(leaf, leaf)
    if isinstance(layer, _InstanceNormBase) and leaf == "scale":
        return "weight"
    return leaf


def _check_fit(model: nn.Layer, told: str, own: Mapping[str, tuple[int, ...]], state: Arrays) -> None:
    wrong = sorted(own.keys() ^ state.keys()) or sorted(k for k in own if own[k] != state[k].shape)
    if not wrong:
        return
    where = "lack" if wrong[0] not in state else "have" if wrong[0] not in own else "have another shape of"
    raise InputError(
        f"weights {told} do not fit {type(model).__name__}: they {where} {wrong[0]} and {len(wrong) - 1} "
        "more differ; give the weights of this network, or torch's names of its layers as names="
    )
