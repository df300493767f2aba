"""The arms of `compress`: ways to make a trained network cheaper, and how far they have to go."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize.bench.contenders import Contender
from octavize.bench.ratios import time_group
from octavize.bench.runtimes import Setting, choose_runtimes
from octavize.errors import InputError
from octavize.study.arms import RUNTIME_ROUNDS, nearest, sizes_up_to

Shape = tuple[int, int, int, int]
MOST_PRUNED = 0.8
STEP = 0.02
"""Of the share of channels that are pruned."""
ROUND_TO = 8
"""Channels that remain come in multiples of it, which runtimes like."""


@dataclass(frozen=True)
class Arm:
    """A way to make the network cheaper. `exchange` is that of an octave network; `matched` is what is turned
    until the arm takes as long as the octave network that exchanges once a block."""

    name: str
    slug: str
    exchange: str | None = None
    matched: Literal["size", "ratio"] | None = None


ARMS = (
    Arm("vanilla", "vanilla"),
    Arm("octave, every layer", "octave-every", "every"),
    Arm("smaller images", "smaller", matched="size"),
    Arm("pruned", "pruned", matched="ratio"),
    Arm("octave, once a block", "octave-block", "block:high_to_low"),
)


@dataclass(frozen=True)
class Matched:
    """Side of the smaller images and share of channels pruned, and each one's time as a share of the octave
    network's; and that of vanilla."""

    size: int
    size_time: float
    ratio: float
    ratio_time: float
    vanilla_time: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


class Smaller(nn.Module):
    """A network that gets its images at another size, resized without the jaggies of leaving pixels out."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) → what the network makes of (N, 3, size, size)."""
        size = (self.size, self.size)
        return self.net(F.interpolate(x, size, mode="bilinear", antialias=True))


def pruned(model: nn.Module, shape: Shape, ratio: float) -> nn.Module:
    """A copy without this share of its channels, those whose groups have the smallest weights (DepGraph).

    Raises:
        InputError: Torch-Pruning is not installed.
    """
    try:
        import torch_pruning as tp
    except ImportError:
        raise InputError("torch_pruning is not installed: run `pip install torch-pruning`") from None
    model = copy.deepcopy(model).eval()
    classifier = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(shape),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=MOST_PRUNED,
        ignored_layers=[classifier],
        round_to=ROUND_TO,
    )
    pruner.step()
    return model


class Clock:
    """Times networks against the octave one in OpenVINO, float32, one image, one thread.

    Args:
        octave: the network whose time is to be reached.
        shape: of its input.
        folder: for exported files.
    """

    def __init__(self, octave: nn.Module, shape: Shape, folder: str) -> None:
        self.octave, self.shape, self.folder = octave, shape, Path(folder)

    def ratio(self, name: str, model: nn.Module, side: int) -> float:
        """Time of a network on images of a side, as a share of the octave network's."""
        networks = [Contender("octave", self.octave, self.shape[1:], macs=1)]
        networks.append(Contender(name, model, (self.shape[1], side, side), macs=1))
        setting = Setting(1, 1, "cpu", self.folder)
        return time_group(networks, choose_runtimes(["openvino"]), setting, RUNTIME_ROUNDS)[-1]["time_ratio"]

    def size(self, vanilla: nn.Module) -> tuple[int, float]:
        """Side of the images on which vanilla takes as long, and the ratio that it reaches."""
        sizes = [{"size": size} for size in sizes_up_to(self.shape[-1])]
        found, ratio = nearest(sizes, lambda s: self.ratio(f"size {s['size']}", vanilla, s["size"]))
        return found["size"], ratio

    def pruning(self, vanilla: nn.Module) -> tuple[float, float]:
        """Share of the channels to prune, and the ratio that it reaches."""

        def ratio(of: Mapping[str, Any]) -> float:
            model = pruned(vanilla, self.shape, of["ratio"])
            return self.ratio(f"ratio {of['ratio']}", model, self.shape[-1])

        ratios = [{"ratio": round(STEP * n, 2)} for n in range(round(MOST_PRUNED / STEP), 0, -1)]
        found, reached = nearest(ratios, ratio)
        return found["ratio"], reached


def match_arms(octave: nn.Module, vanilla: nn.Module, shape: Shape) -> Matched:
    """Smaller images, and pruned channels, at which vanilla takes as long as the octave network."""
    with TemporaryDirectory() as folder:
        clock = Clock(octave, shape, folder)
        plain = clock.ratio("vanilla", vanilla, shape[-1])
        return Matched(*clock.size(vanilla), *clock.pruning(vanilla), plain)


def match_ratio(octave: nn.Module, vanilla: nn.Module, shape: Shape) -> tuple[float, float]:
    """See `Clock.pruning`."""
    with TemporaryDirectory() as folder:
        return Clock(octave, shape, folder).pruning(vanilla)
