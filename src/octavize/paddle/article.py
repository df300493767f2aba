"""Checkpoints of the article's own code, in Paddle: its four weights and two biases an output become ours.

The article's layer keeps `conv_h2h`, `conv_h2l`, `conv_l2h` and `conv_l2l` apart; ours has one weight, whose
rows are the outputs, high before low, and whose columns are the inputs. Each of its four has a bias, so an
output gets two. A batch norm follows every layer, and takes them in: with mean μ, normalizing y + b is
normalizing y with mean μ − b.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle.nn.functional as F
from paddle import nn
from paddle.vision import models

from octavize.errors import InputError, one_line
from octavize.paddle.conv import OctConv
from octavize.paddle.trace import check_network
from octavize.paddle.weights import put

Arrays = dict[str, np.ndarray]
_PATHS = (("h2h", "l2h"), ("h2l", "l2l"))
"""By output (high, low) and input (high, low), as the article calls them: from what to what."""
_OF_LOW = ("h2l", "l2h", "l2l")
_NORM = ("weight", "bias", "_mean", "_variance")


def from_article(model: nn.Layer, source: str | Path | Mapping[str, Any]) -> None:
    """Load a checkpoint of the article's Oct-ResNet or Oct-MobileNetV1.

    Its outputs are the article's in evaluation. In training, a batch norm takes its batch's own mean, so the
    biases that it took in are of no effect, as in the article. There the vanilla layers of an octave network
    average before a stride too: those of the model get stride 1 and a pooling before them.

    Args:
        model: the same network of `octavize.paddle.create_model`, with the article's α.
        source: a .pdparams file, of which only arrays are read and nothing is executed; or its state dict.

    Raises:
        InputError: the file is missing, unreadable, or of another network or another α.
    """
    check_network(model)
    state = read_pdparams(source) if isinstance(source, (str, Path)) else _as_arrays(source)
    layers, own, reader = dict(model.named_sublayers()), model.state_dict(), _Reader(state)
    made: Arrays = {}
    pooled: list[Any] = []
    for unit in _units(model, state):
        made |= reader.folded(unit, layers.get(unit.conv))
        if unit.plain is None and not any(f"{unit.name}.conv.conv_{p}.weight" in state for p in _OF_LOW):
            pooled.append(layers.get(unit.conv))
    for key in own.keys() - made.keys():
        if (array := reader.take(key)) is not None:
            made[key] = array
    wrong = sorted(own.keys() ^ made.keys() | reader.left) or sorted(
        k for k in own if tuple(own[k].shape) != made[k].shape
    )
    if wrong:
        raise InputError(
            f"checkpoint does not fit {type(model).__name__}: see {wrong[0]} and {len(wrong) - 1} more; "
            "build the network that it is of, octavize.paddle.create_model(name, num_classes=…)"
        )
    for key, array in made.items():
        put(own[key], array)
    for layer in pooled:
        _pool_first(layer)


def _pool_first(layer: Any) -> None:
    """Let a layer of stride 2 average its input, and convolve it with stride 1."""
    if list(layer._stride) != [2, 2]:
        return
    layer._stride = [1, 1]
    if isinstance(layer, OctConv):
        layer.become_octave()

    def pool(layer: Any, args: tuple[Any, ...]) -> Any:
        return F.avg_pool2d(args[0], 2, 2)

    layer.register_forward_pre_hook(pool)


def read_pdparams(path: str | Path) -> Arrays:
    """The arrays of a file of `paddle.save(net.state_dict(), path)`; nothing in it is executed.

    Raises:
        InputError: it is missing, cut short, or holds more than arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist: give the path of a .pdparams file")
    try:
        with path.open("rb") as file:
            state = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # pickle raises many kinds, all of which mean "no file of plain arrays"
        raise InputError(
            f"checkpoint {path} cannot be read as plain arrays ({one_line(error)}): save the state dict with "
            "paddle.save(net.state_dict(), path)"
        ) from None
    return _as_arrays(state)


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays and containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        if name == "_reconstruct" and re.fullmatch(r"numpy\._?core\.multiarray", module):
            return np.empty(0).__reduce__()[0]  # wherever this NumPy has it
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _encoded(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, by which older pickles hold bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it wants the encoding {encoding!r}")
    return text.encode("latin1")


_HARMLESS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("_codecs", "encode"): _encoded,
}


def _as_arrays(state: Any) -> Arrays:
    """A state dict of tensors or arrays, or of (name, array), as Paddle writes a single tensor."""
    if not isinstance(state, Mapping):
        raise InputError(f"checkpoint holds a {type(state).__name__}: save net.state_dict()")
    found: Arrays = {}
    for key, value in state.items():
        if key == "StructuredToParameterName@@":
            continue
        value = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        value = value.numpy() if hasattr(value, "numpy") else value
        if not isinstance(value, np.ndarray):
            raise InputError(f"checkpoint has a {type(value).__name__} at {key!r}: save net.state_dict()")
        found[key] = value
    return found


# ---- from the article's layers to ours ------------------------------------------------------------------


class _Unit(NamedTuple):
    """A convolution and the batch norm after it, by the article's name and by ours; the stem is plain."""

    name: str
    conv: str
    norm: str
    plain: tuple[str, str] | None = None


def _units(model: nn.Layer, state: Arrays) -> list[_Unit]:
    names = sorted(
        {found[1] for key in state if (found := re.fullmatch(r"(.+)\.conv\.conv_\w+\.weight", key))}
    )
    if not isinstance(model, models.MobileNetV1):
        return [_Unit("", "conv1", "bn1", ("conv1", "bn1")), *(_Unit(n, n, _norm_of(n)) for n in names)]
    blocks = [name for name, _ in model.named_children() if re.fullmatch(r"conv\d(_\d)?", name)][1:]
    parts = ("_depthwise_conv", "_pointwise_conv")
    places = {f"features.{i}.{j}": f"{block}.{part}" for i, block in enumerate(blocks, 1)
              for j, part in enumerate(parts)}  # fmt: skip
    units = [_Unit(name, f"{places[name]}.0", f"{places[name]}.1") for name in names if name in places]
    return [_Unit("", "conv1.0", "conv1.1", ("features.0.0", "features.0.1")), *units]


def _norm_of(conv: str) -> str:
    """`layer1.0.bn2` for `layer1.0.conv2`, `….downsample.1` for `….downsample.0`."""
    return re.sub(r"conv(\d)$", r"bn\1", re.sub(r"downsample\.0$", "downsample.1", conv))


class _Reader:
    """A state dict that knows what was not asked for."""

    def __init__(self, state: Arrays) -> None:
        self.state, self.left = state, set(state)

    def take(self, key: str) -> np.ndarray | None:
        self.left.discard(key)
        return self.state.get(key)

    def folded(self, unit: _Unit, layer: Any) -> Arrays:
        """Our weight and statistics of a unit."""
        if unit.plain is not None:
            conv, norm = unit.plain
            halves = [(self.take(f"{conv}.weight"), self.take(f"{conv}.bias"), norm)]
        else:
            outputs = zip(_PATHS, "hl", strict=True)
            halves = [(*self._paths(unit.name, paths), f"{unit.name}.bn_{half}") for paths, half in outputs]
            _check_low(unit.name, halves[1][0], layer)
        made: dict[str, list[np.ndarray]] = {}
        for weight, bias, norm in halves:
            if weight is not None:
                parts = {leaf: self.take(f"{norm}.{leaf}") for leaf in _NORM}
                if bias is not None and parts["_mean"] is not None:
                    parts["_mean"] = parts["_mean"] - bias
                for key, array in {f"{unit.conv}.weight": weight, **_below(unit.norm, parts)}.items():
                    made.setdefault(key, []).append(array)
        return {key: np.concatenate(arrays) for key, arrays in made.items()}

    def _paths(self, unit: str, paths: tuple[str, str]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The weight and the bias of the high or of the low outputs; None without such outputs."""
        weights = [self.take(f"{unit}.conv.conv_{path}.weight") for path in paths]
        biases = [b for path in paths if (b := self.take(f"{unit}.conv.conv_{path}.bias")) is not None]
        weights = [weight for weight in weights if weight is not None]
        weight = np.concatenate(weights, axis=1) if weights else None
        return weight, np.sum(biases, axis=0) if biases else None


def _below(norm: str, parts: Mapping[str, np.ndarray | None]) -> Arrays:
    return {f"{norm}.{leaf}": array for leaf, array in parts.items() if array is not None}


def _check_low(unit: str, weight: np.ndarray | None, layer: Any) -> None:
    """Check that the layer has as many low outputs; a depthwise one follows its input."""
    low = 0 if weight is None else len(weight)
    octave = isinstance(layer, OctConv)
    if layer is None or (octave and layer._settings.depthwise):
        return
    own = layer._settings.out_layout[1] if octave else 0
    if low != own:
        raise InputError(
            f"checkpoint has {low} low channels in {unit}, and the network {own}: build it with the "
            "checkpoint's alpha, create_model(name, alpha)"
        )
