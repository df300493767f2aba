"""How networks and runs are called: in folders, in figures, in sentences."""

from __future__ import annotations

import re


def alpha_text(alpha: float) -> str:
    """α in as few digits as tell it from every other: names go by it."""
    return repr(float(alpha)).removesuffix(".0")


def run_slug(model: str, alpha: float, seed: int) -> str:
    """Folder of one run."""
    return f"{model}-alpha{alpha_text(alpha)}-seed{seed}"


def network_name(alpha: float) -> str:
    """What tells the networks of one architecture apart."""
    return "vanilla" if alpha == 0 else f"octave α = {alpha_text(alpha)}"


def pretty(model: str) -> str:
    """`oct_resnet50_small` as people write it: ResNet-50, small stem."""
    name, small = re.subn(r"_small$", "", model.removeprefix("oct_"))
    name = re.sub(r"^resnet(\d+)", r"ResNet-\1", name)
    name = re.sub(r"^cifar_resnet(\d+)", r"CIFAR ResNet-\1", name)
    name = re.sub(r"^wide_resnet(\d+)(?:_(\d+))?", r"Wide ResNet-\1-\2", name)
    name = re.sub(r"^mobilenet_v(\d)", r"MobileNetV\1", name)
    return f"{name}, small stem" if small else name
