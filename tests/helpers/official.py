"""The networks of the paper's own code, written anew for tests, with the names of its Gluon code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tests.helpers.published import Pair, TheirConv, halves
from torch import Tensor, nn

Arrays = dict[str, np.ndarray]
Counts = tuple[int, int]


def each(function: Callable[[Tensor], Tensor], x: Pair) -> Pair:
    return function(x[0]), None if x[1] is None else function(x[1])


def added(x: Pair, y: Pair) -> Pair:
    assert (x[1] is None) == (y[1] is None)
    return x[0] + y[0], None if x[1] is None or y[1] is None else x[1] + y[1]


def conv(
    ins: Counts, outs: Counts, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> TheirConv:
    made = TheirConv(ins, outs, kernel, stride, groups, bias)
    for name, layer in made.named_children():  # a path has the bias of what it writes from high
        if bias and name in ("conv_l2h", "conv_l2l"):
            layer.bias = None
    return made


class Norm(nn.Module):
    def __init__(self, counts: Counts, eps: float = 1e-5) -> None:
        super().__init__()
        self.bn_h = nn.BatchNorm2d(counts[0], eps=eps)
        self.bn_l = nn.BatchNorm2d(counts[1], eps=eps) if counts[1] else None

    def forward(self, x: Pair) -> Pair:
        return self.bn_h(x[0]), None if x[1] is None or self.bn_l is None else self.bn_l(x[1])


class Excite(nn.Module):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        mid = sum(counts) // 16
        self.conv1 = nn.Conv2d(sum(counts), mid, 1)
        self.conv2_h = nn.Conv2d(mid, counts[0], 1)
        self.conv2_l = nn.Conv2d(mid, counts[1], 1) if counts[1] else None

    def forward(self, x: Pair) -> Pair:
        means = torch.cat([half.mean((2, 3), keepdim=True) for half in x if half is not None], 1)
        hidden = F.relu(self.conv1(means))
        high = x[0] * self.conv2_h(hidden).sigmoid()
        return high, None if x[1] is None else x[1] * self.conv2_l(hidden).sigmoid()  # type: ignore[misc]


class BlockV1(nn.Module):
    def __init__(
        self,
        ins: Counts,
        mid: Counts,
        outs: Counts,
        stride: int,
        groups: int,
        *,
        last: bool,
        se: bool,
        extra: bool,
    ) -> None:
        super().__init__()
        self.bn1a = Norm(ins) if extra else None
        self.conv1, self.bn1 = conv(ins, mid, 1), Norm(mid)
        self.conv2 = conv(mid, mid, 3, 1 if last else stride, groups)
        self.bn2 = Norm(mid)
        self.conv3, self.bn3 = conv(mid, outs, 1, stride if last else 1), Norm(outs)
        self.se_block = Excite(outs) if se else None
        self.conv4 = None
        if stride == 2 or ins != outs:
            self.bn4a = Norm(ins) if extra else None
            self.conv4, self.bn4 = conv(ins, outs, 1, stride), Norm(outs)

    def forward(self, x: Pair) -> Pair:
        y = x if self.bn1a is None else self.bn1a(x)
        y = each(F.relu, self.bn1(self.conv1(y)))
        y = each(F.relu, self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y = y if self.se_block is None else self.se_block(y)
        if self.conv4 is not None:
            x = self.bn4(self.conv4(x if self.bn4a is None else self.bn4a(x)))
        return each(F.relu, added(x, y))


class BlockV2(nn.Module):
    def __init__(
        self,
        ins: Counts,
        mid: Counts,
        outs: Counts,
        stride: int,
        groups: int,
        *,
        se: bool,
        bias: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.bn1, self.conv1 = Norm(ins, eps), conv(ins, mid, 1)
        self.bn2, self.conv2 = Norm(mid, eps), conv(mid, mid, 3, stride, groups)
        self.bn3, self.conv3 = Norm(mid, eps), conv(mid, outs, 1)
        self.se_block = Excite(outs) if se else None
        self.conv4 = None
        if stride == 2 or ins != outs:
            self.bn4, self.conv4 = Norm(ins, eps), conv(ins, outs, 1, stride, bias=bias)

    def forward(self, x: Pair) -> Pair:
        y = self.conv1(each(F.relu, self.bn1(x)))
        y = self.conv2(each(F.relu, self.bn2(y)))
        y = self.conv3(each(F.relu, self.bn3(y)))
        y = y if self.se_block is None else self.se_block(y)
        return added(y, x if self.conv4 is None else self.conv4(each(F.relu, self.bn4(x))))


def plain(c_in: int, c_out: int, kernel: int, stride: int = 1, eps: float = 1e-5) -> list[nn.Module]:
    layer = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(c_out, eps=eps), nn.ReLU()]


class BigLittle(nn.Module):
    """In the place of max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        (self.conv1, self.bn1), (self.conv2, self.bn2) = plain(64, 32, 1)[:2], plain(32, 32, 3, 2)[:2]
        (self.conv3, self.bn3), (self.conv4, self.bn4) = plain(32, 64, 1)[:2], plain(64, 64, 1, 2)[:2]

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.bn4(self.conv4(x)))


class Official(nn.Module):
    """(N, 3, H, W) → (N, classes); sides are multiples of 64."""

    def blocks(self) -> list[nn.Module]:
        named = [(name, block) for name, block in self.named_children() if re.match(r"L\d", name)]
        return [
            block for _, block in sorted(named, key=lambda one: [int(n) for n in re.findall(r"\d+", one[0])])
        ]

    def stem(self, x: Tensor) -> Pair:
        return F.max_pool2d(self.conv1(x), 3, 2, 1), None

    def features(self, x: Tensor) -> Tensor:
        maps = self.stem(x)
        for block in self.blocks():
            maps = block(maps)
        assert maps[1] is None
        return self.tail(maps[0]) if hasattr(self, "tail") else maps[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifer(self.features(x).mean((2, 3), keepdim=True)).flatten(1)


class OfficialResNet(Official):
    def __init__(
        self, blocks: Sequence[int], alpha: float, block: Callable[..., nn.Module], groups: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*plain(3, 64, 7, 2))
        ins = (64, 0)
        for stage, count in enumerate(blocks):
            a, c = alpha if stage < 3 else 0.0, 64 * 2**stage
            mid, outs = halves(c * (1 if groups == 1 else 2), a), halves(4 * c, a)
            for place in range(count):
                made = block(ins, mid, outs, 2 if stage and not place else 1, groups)
                self.add_module(f"L{stage + 1}_B{place}", made)
                ins = outs
        self.classifer = nn.Conv2d(2048, 10, 1)


def resnet_v1(blocks: Sequence[int], alpha: float, groups: int = 1, **how: Any) -> OfficialResNet:
    given = {"last": False, "se": False, "extra": False} | how
    return OfficialResNet(blocks, alpha, partial(BlockV1, **given), groups)


def resnet152(alpha: float, se: bool) -> OfficialResNet:
    """`resnet152_v1f`, or with squeeze-and-excitation `resnet152_v1e`."""
    net = resnet_v1((3, 8, 36, 3), alpha, last=True, se=se, extra=se)
    widths, strides = ((32, 32, 64), (2, 1, 1)) if se else ((8, 32, 64), (1, 2, 1))
    layers = [plain(a, b, 3, s) for (a, b), s in zip(pairwise((3, *widths)), strides, strict=True)]
    net.conv1 = nn.Sequential(*(layer for three in layers for layer in three))
    if not se:
        net.conv2 = BigLittle()
        net.stem = lambda x: (net.conv2(net.conv1(x)), None)
    return net


def resnet_v2(
    blocks: Sequence[int],
    alpha: float,
    groups: int = 1,
    se: bool = False,
    bias: bool = False,
    eps: float = 1e-5,
) -> OfficialResNet:
    net = OfficialResNet(blocks, alpha, partial(BlockV2, se=se, bias=bias, eps=eps), groups)
    net.conv1[1].eps = eps  # type: ignore[index]
    net.tail = nn.Sequential(nn.BatchNorm2d(2048, eps=eps), nn.ReLU())
    return net


class DenseLayer(nn.Module):
    def __init__(self, ins: Counts, mid: Counts, outs: Counts, eps: float) -> None:
        super().__init__()
        self.bn1, self.conv1 = Norm(ins, eps), conv(ins, mid, 1)
        self.bn2, self.conv2 = Norm(mid, eps), conv(mid, outs, 3)

    def forward(self, x: Pair) -> Pair:
        y = self.conv2(each(F.relu, self.bn2(self.conv1(each(F.relu, self.bn1(x))))))
        low = [half for half in (x[1], y[1]) if half is not None]
        return torch.cat([x[0], y[0]], 1), torch.cat(low, 1) if low else None


class Transition(nn.Module):
    def __init__(self, ins: Counts, outs: Counts, eps: float) -> None:
        super().__init__()
        self.bn, self.conv = Norm(ins, eps), conv(ins, outs, 1)

    def forward(self, x: Pair) -> Pair:
        return each(lambda half: F.avg_pool2d(half, 2), self.conv(each(F.relu, self.bn(x))))


class OfficialDenseNet(Official):
    """DenseNet-121, with an octave stem (Gluon) or without (Symbol)."""

    def __init__(self, alpha: float, octave_stem: bool, eps: float = 1e-5) -> None:
        super().__init__()
        if octave_stem:
            ins = halves(64, alpha)
            self.conv1, self.bn1 = conv((3, 0), ins, 7, 2), Norm(ins, eps)
        else:
            ins = (64, 0)
            self.conv1 = nn.Sequential(*plain(3, 64, 7, 2, eps))
        for stage, count in enumerate((6, 12, 24, 16), 1):
            a, place = alpha if stage < 4 else 0.0, 0
            if stage > 1:
                outs = halves(sum(ins) // 2, a)
                self.add_module(f"L{stage}_B0", Transition(ins, outs, eps))
                ins, place = outs, 1
            new = halves(32, a)
            for n in range(count):
                self.add_module(f"L{stage}_B{place + n}", DenseLayer(ins, halves(128, a), new, eps))
                ins = ins[0] + new[0], ins[1] + new[1]
        self.tail = nn.Sequential(nn.BatchNorm2d(1024, eps=eps), nn.ReLU())
        self.classifer = nn.Conv2d(1024, 10, 1)

    def stem(self, x: Tensor) -> Pair:
        if isinstance(self.conv1, nn.Sequential):
            return super().stem(x)
        return each(lambda half: F.max_pool2d(F.relu(half), 3, 2, 1), self.bn1(self.conv1((x, None))))


class Inverted(nn.Module):
    def __init__(self, c_in: int, mid: Counts, c_out: int, stride: int) -> None:
        super().__init__()
        self.skips = stride == 1 and c_in == c_out
        self.conv1, self.bn1 = conv((c_in, 0), mid, 1), Norm(mid)
        self.conv2, self.bn2 = conv(mid, mid, 3, stride, sum(mid)), Norm(mid)
        self.conv3, self.bn3 = conv(mid, (c_out, 0), 1), Norm((c_out, 0))

    def forward(self, x: Pair) -> Pair:
        y = each(F.relu6, self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(each(F.relu6, self.bn2(self.conv2(y)))))
        return added(x, y) if self.skips else y


class OfficialMobileNetV2(Official):
    CHANNELS = (16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320)
    STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)

    def __init__(self, alpha: float, width: float) -> None:
        super().__init__()
        c_in, stage, place = int(32 * width), 1, 0
        self.conv1 = nn.Sequential(*plain(3, c_in, 3, 2))
        self.conv1[2] = nn.ReLU6()
        for number, (channels, stride) in enumerate(zip(self.CHANNELS, self.STRIDES, strict=True)):
            stage, place = (stage + 1, 0) if stride == 2 else (stage, place + 1)
            mid = halves(c_in * (6 if number else 1), alpha if number < 13 else 0.0)
            c_out = int(channels * width)
            self.add_module(f"L{stage}_B{place}", Inverted(c_in, mid, c_out, stride))
            c_in = c_out
        last = int(1280 * max(width, 1))
        self.tail = nn.Sequential(*plain(c_in, last, 1))
        self.tail[2] = nn.ReLU6()
        self.classifer = nn.Conv2d(last, 10, 1)

    def stem(self, x: Tensor) -> Pair:
        return self.conv1(x), None


def settled(net: nn.Module, size: int) -> nn.Module:
    """With the statistics of a batch, as of a trained network: a deep one whose are not is chaotic."""
    norms = [module for module in net.train().modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net(torch.randn(4, 3, size, size))
    return net.eval()


# ---- files -------------------------------------------------------------------------------------------------


def gluon_arrays(net: nn.Module) -> Arrays:
    """By the names that `save_parameters` gives them."""
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    made = {}
    for key, value in net.state_dict().items():
        name, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf) if name in norms else leaf
        made[f"{name}.{leaf}"] = value.numpy()
    return made


def symbol_arrays(net: nn.Module) -> Arrays:
    """By the names that `mx.model.save_checkpoint` gives them."""
    made: Arrays = {}
    for key, array in gluon_arrays(net).items():
        layer, _, leaf = key.rpartition(".")
        kind = "aux" if leaf.startswith("running") else "arg"
        leaf = leaf.replace("running_", "moving_")
        if ".se_block." in key:
            made |= {f"arg:{name}": a for name, a in _excitation_in_symbol(net, key, array).items()}
            continue
        made[f"{kind}:{_layer_in_symbol(net, layer)}_{leaf}"] = (
            array[:, :, 0, 0] if "classifer" in key and leaf == "weight" else array
        )
    return made


def _block_in_symbol(net: nn.Module, block: str) -> str:
    stage, place = (int(n) for n in re.findall(r"\d+", block))
    if isinstance(net, OfficialDenseNet) and stage > 1:
        return f"L{stage + 1}_B{place:02d}" if place else f"L{stage + 1}_Trans"
    return f"L{stage + 1}_B{place + 1:02d}"


def _layer_in_symbol(net: nn.Module, layer: str) -> str:
    alone = {"conv1.0": "conv1_conv", "conv1.1": "conv1_bn", "tail.0": "tail_bn", "classifer": "classifier"}
    if layer in alone:
        return alone[layer]
    block, part, path = layer.split(".")
    number = part.removeprefix("conv").removeprefix("bn")
    return f"{_block_in_symbol(net, block)}_conv{number}_{path.replace('_', '-')}"


def _excitation_in_symbol(net: nn.Module, key: str, array: np.ndarray) -> Arrays:
    """Its layers are fully connected, and have paths."""
    block, _, conv_, leaf = key.split(".")
    theirs = f"{_block_in_symbol(net, block)}_se"
    array = array[:, :, 0, 0] if leaf == "weight" else array
    if conv_ != "conv1":
        return {f"{theirs}_fc2-h2{conv_[-1]}_{leaf}": array}
    if leaf == "bias":
        return {f"{theirs}_fc1-h2h_bias": array}
    outs = getattr(net, block).se_block.conv2_h.out_channels
    paths = {f"{theirs}_fc1-h2h_weight": array[:, :outs], f"{theirs}_fc1-l2h_weight": array[:, outs:]}
    return {name: part for name, part in paths.items() if part.size}
