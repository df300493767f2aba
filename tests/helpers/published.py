"""Octave networks as others write them: four convolutions a layer, two batch norms, pairs of maps."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor | None]


def halves(channels: int, alpha: float) -> tuple[int, int]:
    return channels - int(alpha * channels), int(alpha * channels)


class TheirConv(nn.Module):
    """Pools before a stride, always; the high input is pooled again for the low output."""

    def __init__(
        self, ins: tuple[int, int], outs: tuple[int, int], kernel: int, stride: int, groups: int, bias: bool
    ) -> None:
        super().__init__()
        self.stride, depthwise = stride, groups == sum(ins) > 1
        for source, c_in in zip("hl", ins, strict=True):
            for target, c_out in zip("hl", outs, strict=True):
                if not (c_in and c_out) or (depthwise and source != target):
                    continue
                own = c_in if depthwise else groups
                layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=own, bias=bias)
                self.add_module(f"conv_{source}2{target}", layer)

    def path(self, name: str, x: Tensor | None) -> Tensor | None:
        layer = dict(self.named_children()).get(f"conv_{name}")
        return None if layer is None or x is None else layer(x)

    def forward(self, x: Pair) -> Pair:
        high, low = x
        if self.stride == 2:
            high = F.avg_pool2d(high, 2)
        to_high, to_low = self.path("h2h", high), self.path("h2l", F.avg_pool2d(high, 2))
        from_low = self.path("l2h", low)
        if from_low is not None and to_high is not None:
            to_high = to_high + (from_low if self.stride == 2 else F.interpolate(from_low, scale_factor=2))
        kept = self.path("l2l", low if low is None or self.stride == 1 else F.avg_pool2d(low, 2))
        if kept is not None:
            to_low = kept if to_low is None else to_low + kept
        assert to_high is not None
        return to_high, to_low


class TheirUnit(nn.Module):
    """Convolution, batch norm of each half, and activation."""

    def __init__(self, c_in: int, c_out: int, kernel: int, alphas: tuple[float, float], **how: Any) -> None:
        super().__init__()
        self.act = how.pop("act", True)
        how = {"stride": 1, "groups": 1, "bias": False} | how
        ins, outs = (halves(c, alpha) for c, alpha in zip((c_in, c_out), alphas, strict=True))
        self.conv, self.bn_h = TheirConv(ins, outs, kernel, **how), nn.BatchNorm2d(outs[0])
        if outs[1]:
            self.bn_l = nn.BatchNorm2d(outs[1])

    def forward(self, x: Pair) -> Pair:
        high, low = self.conv(x)
        high, low = self.bn_h(high), None if low is None else self.bn_l(low)
        return (F.relu(high), None if low is None else F.relu(low)) if self.act else (high, low)


class TheirBlock(nn.Module):
    def __init__(
        self, c_in: int, c: int, stride: int, a_in: float, a: float, groups: int, bias: bool
    ) -> None:
        super().__init__()
        width, kind = c * (2 if groups > 1 else 1), {"bias": bias}
        self.conv1 = TheirUnit(c_in, width, 1, (a_in, a), **kind)
        self.conv2 = TheirUnit(width, width, 3, (a, a), stride=stride, groups=groups, **kind)
        self.conv3 = TheirUnit(width, 4 * c, 1, (a, a), act=False, **kind)
        self.downsample = None
        if stride == 2 or c_in != 4 * c:
            self.downsample = nn.Sequential(
                TheirUnit(c_in, 4 * c, 1, (a_in, a), stride=stride, act=False, **kind)
            )

    def forward(self, x: Pair) -> Pair:
        y = self.conv3(self.conv2(self.conv1(x)))
        kept = x if self.downsample is None else self.downsample(x)
        low = None if y[1] is None else F.relu(y[1] + kept[1])
        return F.relu(y[0] + kept[0]), low


class TheirResNet(nn.Module):
    """(N, 3, H, W) → (N, classes); sides are multiples of 64."""

    def __init__(
        self, blocks: tuple[int, ...], alpha: float, classes: int = 10, groups: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=bias)
        self.bn1, c_in, a_in = nn.BatchNorm2d(64), 64, 0.0
        for stage, count in enumerate(blocks):
            c, a = 64 * 2**stage, alpha if stage < 3 else 0.0
            layers = []
            for block in range(count):
                stride = 2 if stage and not block else 1
                layers.append(TheirBlock(c_in, c, stride, a_in, a, groups, bias))
                c_in, a_in = 4 * c, a
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps: Any = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1), None
        for stage in range(1, 5):
            maps = getattr(self, f"layer{stage}")(maps)
        return self.fc(maps[0].mean((2, 3)))


class TheirMobileNet(nn.Module):
    """(N, 3, H, W) → (N, classes); sides are multiples of 32."""

    CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, alpha: float, classes: int = 10, width: float = 1.0, bias: bool = False) -> None:
        super().__init__()
        c_in, a_in = int(32 * width), 0.0
        stem = nn.Sequential(nn.Conv2d(3, c_in, 3, 2, 1, bias=bias), nn.BatchNorm2d(c_in), nn.ReLU())
        self.features = nn.Sequential(stem)
        for i, (channels, stride) in enumerate(zip(self.CHANNELS, self.STRIDES, strict=True), 1):
            c_out, a_out = int(channels * width), alpha if i < 11 else 0.0
            first = TheirUnit(c_in, c_in, 3, (a_in, a_in), stride=stride, groups=c_in, bias=bias)
            self.features.append(nn.Sequential(first, TheirUnit(c_in, c_out, 1, (a_in, a_out), bias=bias)))
            c_in, a_in = c_out, a_out
        self.fc = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps: Any = self.features[0](x), None
        for block in list(self.features)[1:]:
            maps = block(maps)
        return self.fc(maps[0].mean((2, 3)))


def randomized(net: nn.Module) -> nn.Module:
    """With statistics and biases as of a trained network; deep ones keep their scale."""
    random = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0, generator=random)
            module.bias.data.normal_(0, 0.1, generator=random)
            module.running_mean.normal_(0, 0.1, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", generator=random)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.1, generator=random)
    return net.eval()


def write_mxnet(path: Path, arrays: Mapping[str, np.ndarray], version: int = 0xF993FAC9) -> None:
    """A .params file."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    for array in arrays.values():
        known = version in (0xF993FAC8, 0xF993FAC9)
        head = struct.pack("<Ii", version, 0) if version == 0xF993FAC9 else b""
        head = struct.pack("<I", version) if version == 0xF993FAC8 else head
        sides = struct.pack(f"<I{array.ndim}{'q' if known else 'I'}", array.ndim, *array.shape)
        number = ("<f4", "<f8", "<f2").index(array.dtype.str)
        parts += [head, sides, struct.pack("<iii", 1, 0, number), array.tobytes()]
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts += [struct.pack("<Q", len(name.encode())), name.encode()]
    path.write_bytes(b"".join(parts))
