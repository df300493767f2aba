"""Networks that others published, from their files: built by name, and given their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from octavize.errors import InputError
from octavize.nn.conv import OctConv
from octavize.published.layouts import Published, recognize
from octavize.published.mxnet import is_archive, read_mxnet
from octavize.published.pdparams import read_pdparams
from octavize.zoo.models import create_model
from octavize.zoo.weights import read_state, save_weights

READERS = {".params": read_mxnet, ".pdparams": read_pdparams}
"""By suffix; all others are read as PyTorch's."""


def load_published(path: str | Path, alpha: float | None = None) -> nn.Module:
    """The octave network of a file that others published, with its weights.

    Read are files of d-li14's PyTorch code (ResNet-26/50/101/152/200, MobileNetV1), of the article's
    PaddlePaddle code (the same), and of the paper's own code: Gluon (ResNet-50 and ResNeXt-50 v1b and v2b,
    SE-ResNet-50 v1b, ResNet-152 v1f and SE v1e, DenseNet-121, MobileNetV1 and V2) and Symbol (ResNet v2
    26/50/101/152/200, SE-ResNet-50, ResNeXt-50/101, DenseNet-121). They are recognized by the names of their
    arrays, and read as plain arrays: nothing in a file is executed.

    Args:
        path: a .pth, .pth.tar or .safetensors file, Paddle's .pdparams, or MXNet's .params, also in a .tar
            archive.
        alpha: share of low channels; by default that of the first octave layer.

    Returns:
        The network in evaluation mode, on the CPU. It computes what the original does, up to rounding: where
        a layer of stride 2 reads and writes plain maps, it averages first (`downsample="pool_always"`).

    Raises:
        InputError: the file is missing, cut short, holds more than arrays, or is of another network.
    """
    return build(read_published(path), alpha)


def read_published(path: str | Path) -> Published:
    """The network in a file, as arrays; see `load_published`."""
    path = Path(path)
    read = read_mxnet if is_archive(path) else READERS.get(path.suffix, _arrays_of_torch)
    return recognize(read(path))


def import_published(path: str | Path, to: str | Path, alpha: float | None = None) -> dict[str, Any]:
    """Write the network of a file that others published as a checkpoint of ours.

    `octavize.zoo.checkpoint.load_checkpoint` reads it.

    Args:
        path, alpha: see `load_published`.
        to: a .safetensors file.

    Returns:
        What the checkpoint says of itself: `model`, `alpha`, `classes` (numbers: files have no names),
        `arguments`, `size`, `published_by`, and `mean` and `std` where they are known.

    Raises:
        InputError: see `load_published`; or `to` is no .safetensors file.
    """
    to = Path(to)
    if to.suffix != ".safetensors" or not to.parent.is_dir():
        raise InputError(f"to={to}: give a .safetensors file in a folder that exists")
    published = read_published(path)
    net = build(published, alpha)
    facts = {
        "model": published.model,
        "alpha": published.alpha if alpha is None else alpha,
        "classes": [str(number) for number in range(published.classes)],
        "in_chans": 3,
        "size": 224,
        "arguments": {**published.arguments},
        "published_by": published.layout,
        **published.input,
    }
    save_weights(to, net, facts)
    return facts


def build(published: Published, alpha: float | None = None) -> nn.Module:
    """The network with its weights; see `load_published`."""
    alpha = published.alpha if alpha is None else alpha
    net = create_model(published.model, alpha, num_classes=published.classes, **published.arguments)
    names = _mobilenet_names(net) if published.model == "oct_mobilenet_v1" else {}
    state = {}
    for key, array in published.arrays.items():
        name, _, leaf = key.rpartition(".")
        state[f"{names.get(name, name)}.{leaf}"] = torch.from_numpy(np.array(array, np.float32))
    if "head.fc.weight" in state:  # a convolution
        state["head.fc.weight"] = state["head.fc.weight"][:, :, None, None]
    own = {key: v for key, v in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    wrong = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        raise InputError(
            f"checkpoint is like {published.layout} of {published.model}, but {wrong[0]} and "
            f"{len(wrong) - 1} more differ: it is of another network"
        )
    layers = dict(net.named_modules())
    for name, low in published.low.items():
        _check_low(name, low, layers[names.get(name, name)], alpha)
    net.load_state_dict(state, strict=False)  # without the counts of batches
    return net.eval()


def _arrays_of_torch(path: Path) -> dict[str, np.ndarray]:
    state = read_state(path)
    return {
        key: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for key, tensor in state.items()
    }


def _mobilenet_names(net: Any) -> Mapping[str, str]:
    """timm's names of the layers of MobileNetV1 by those of `published`."""
    names = {"stem.conv": "conv_stem", "stem.bn": "bn1", "fc": "classifier"}
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(net.blocks) for b in range(len(stage))]
    for number, place in enumerate(places):
        for n, conv in enumerate(("conv_dw", "conv_pw"), 1):
            names[f"blocks.{number}.conv{n}"] = f"{place}.{conv}"
            names[f"blocks.{number}.bn{n}"] = f"{place}.bn{n}"
    return names


def _check_low(name: str, low: int, layer: nn.Module, alpha: float) -> None:
    """Check that the layer has as many low outputs; a depthwise one follows its input."""
    own = layer.octave.out_layout[1] if isinstance(layer, OctConv) else 0
    if low != own and not (isinstance(layer, OctConv) and layer.octave.depthwise):
        raise InputError(
            f"checkpoint has {low} low channels in {name}, where α = {alpha:g} gives {own}: give the alpha "
            "that it was trained with"
        )
