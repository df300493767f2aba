"""Checkpoints of the article's own code, in Paddle, loaded into our networks: see `octavize.published`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle import nn
from paddle.vision import models

from octavize.errors import InputError
from octavize.paddle.conv import OctConv
from octavize.paddle.trace import check_network
from octavize.paddle.weights import put
from octavize.published.layouts import recognize
from octavize.published.pdparams import as_arrays, read_pdparams

_LEAVES = {"running_mean": "_mean", "running_var": "_variance"}


def from_article(model: nn.Layer, source: str | Path | Mapping[str, Any]) -> None:
    """Load a checkpoint of the article's Oct-ResNet or Oct-MobileNetV1.

    Its outputs are the article's in evaluation. In training, a batch norm takes its batch's own mean, so the
    biases that it took in are of no effect, as in the article. There the vanilla layers of an octave network
    average before a stride, too: those of the model do so from now on (`downsample="pool_always"`).

    Args:
        model: the same network of `octavize.paddle.create_model`, with the article's α.
        source: a .pdparams file, of which only arrays are read and nothing is executed; or its state dict.

    Raises:
        InputError: the file is missing, unreadable, or of another network or another α.
    """
    check_network(model)
    given = read_pdparams(source) if isinstance(source, (str, Path)) else as_arrays(source)
    published, own = recognize(given), model.state_dict()
    rename = _mobilenet_names(model) if isinstance(model, models.MobileNetV1) else {}
    made = {}
    for key, array in published.arrays.items():
        name, _, leaf = key.rpartition(".")
        array = array.T if name == "fc" and leaf == "weight" else array
        made[f"{rename.get(name, name)}.{_LEAVES.get(leaf, leaf)}"] = array
    wrong = sorted(own.keys() ^ made.keys()) or sorted(k for k in own if tuple(own[k].shape) != made[k].shape)
    if wrong:
        raise InputError(
            f"checkpoint does not fit {type(model).__name__}: see {wrong[0]} and {len(wrong) - 1} more; "
            f"build the network that it is of, octavize.paddle.create_model({published.model!r}, "
            f"{published.alpha:g}, num_classes={published.classes})"
        )
    octave = {name: layer for name, layer in model.named_sublayers() if isinstance(layer, OctConv)}
    for theirs, low in published.low.items():
        _check_low(theirs, low, octave.get(rename.get(theirs, theirs)))
    for key, array in made.items():
        put(own[key], array)
    for layer in octave.values():
        layer.become_octave(downsample="pool_always")


def _mobilenet_names(model: nn.Layer) -> dict[str, str]:
    """Paddle's names of the layers of MobileNetV1 by those of `published`."""
    stem, *blocks = [name for name, layer in model.named_children() if name.startswith("conv")]
    names = {"stem.conv": f"{stem}.0", "stem.bn": f"{stem}.1"}
    for number, block in enumerate(blocks):
        for n, part in enumerate(("_depthwise_conv", "_pointwise_conv"), 1):
            names[f"blocks.{number}.conv{n}"] = f"{block}.{part}.0"
            names[f"blocks.{number}.bn{n}"] = f"{block}.{part}.1"
    return names


def _check_low(name: str, low: int, layer: Any) -> None:
    """Check that the layer has as many low outputs; a depthwise one follows its input."""
    own = 0 if layer is None else layer._settings.out_layout[1]
    if low != own and not (layer is not None and layer._settings.depthwise):
        raise InputError(
            f"checkpoint has {low} low channels in {name}, and the network {own}: build it with the "
            "checkpoint's alpha, create_model(name, alpha)"
        )
