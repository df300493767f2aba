"""A layer as a linear function of its weights: which entries of the weight read which windows of which maps.

An octave layer is a sum of torch's convolutions, of the high map, the low map and pooled ones. They are found
by watching the layer run: what each convolution reads is the map itself, and which part of the weight it
takes is seen when the layer runs with a weight whose entries are their own numbers. So this follows whatever
the layer computes: exchange, stride, groups, transposed or not, and plain layers that read a dense map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from octavize.convert.trace import copied
from octavize.nn.tensor import OctTensor
from octavize.split import high_indices, low_indices

_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_CONVOLUTIONS = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _NAMES),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _TRANSPOSED),
}
_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0}


class NotLinear(Exception):
    """The layer is no sum of convolutions with its weight; the message says why."""


@dataclass(frozen=True)
class Convolution:
    """One call of torch's convolution: the map (N, C, *size), the weight and the settings."""

    x: Tensor
    weight: Tensor
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # before and after each axis, of a map in `spread` places
    spread: tuple[int, ...]  # transposed: the stride, by which the pixels of the map are moved apart
    groups: int

    @classmethod
    def of(cls, arguments: dict[str, Any], transposed: bool) -> Convolution:
        """From the arguments of a call."""
        x, weight = arguments["input"], arguments["weight"]
        x = x.to_dense() if isinstance(x, OctTensor) else x
        kernel = weight.shape[2:]
        stride, dilation, extra = (
            _each(arguments[k], len(kernel)) for k in ("stride", "dilation", "output_padding")
        )
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = arguments["padding"]
        if isinstance(padding, str):
            pads = [(n // 2, n - n // 2) if padding == "same" else (0, 0) for n in reach]
        else:
            pads = [(n, n) for n in _each(padding, len(kernel))]
        if not transposed:
            return cls(x, weight, stride, dilation, tuple(pads), (1,) * len(kernel), arguments["groups"])
        pads = [(r - p, r - p + e) for r, (p, _), e in zip(reach, pads, extra, strict=True)]
        return cls(x, weight, (1,) * len(kernel), dilation, tuple(pads), stride, arguments["groups"])

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])

    def places(self, transposed: bool) -> Tensor:
        """The weight's entries as (groups, C_out / groups, C_in / groups · kernel)."""
        weight, groups, axes = self.weight, self.groups, tuple(range(3, self.weight.dim() + 1))
        if not transposed:
            return weight.reshape(groups, weight.shape[0] // groups, -1)
        by_group = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return by_group.transpose(1, 2).flip(axes).reshape(groups, weight.shape[1], -1)

    def windows(self) -> Tensor:
        """What each output pixel reads: a view (N, C, *size, *kernel) of the padded map."""
        x = self.x
        if max(self.spread) > 1:
            x = _spread_out(x, self.spread)
        pads = [n for pair in reversed(self.pads) for n in pair]
        x = F.pad(x, pads) if any(pads) else x  # negative ones cut
        steps = zip(self.kernel, self.stride, self.dilation, strict=True)
        for axis, (kernel, stride, dilation) in enumerate(steps):
            x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)
        return x[(..., *(slice(None, None, d) for d in self.dilation))]


class _Watch(TorchFunctionMode):
    """The convolutions that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Convolution] = []
        self.transposed: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = _CONVOLUTIONS.get(func)
        if names is not None:
            given = _DEFAULTS | dict(zip(names, args, strict=False)) | (kwargs or {})
            self.seen.append(Convolution.of(given, names is _TRANSPOSED))
        return func(*args, **(kwargs or {}))


def run(layer: nn.Module, x: Any) -> tuple[list[Convolution], Any]:
    """Run a layer on a map; return the convolutions that it consists of, and its output."""
    with torch.no_grad(), _Watch() as watch:
        y = layer(x)
    return watch.seen, y


@dataclass(frozen=True)
class Half:
    """One half of a layer's output, or all of a plain one: its `kind` is "high", "low" or "all".

    `channels` are those of the output that it holds, (groups, C / groups). `places` are the entries of the
    flattened weight that make them, (groups, C / groups, columns), and `convolutions` the numbers of those
    that read for them, in the order of the columns.
    """

    kind: str
    channels: Tensor
    places: Tensor
    convolutions: tuple[int, ...]

    @property
    def low(self) -> bool:
        return self.kind == "low"


def halves_of(layer: Any, x: Any) -> list[Half]:
    """Which entries of a layer's weight make which channels of its output.

    Args:
        layer: one of torch's convolutions or an octave one.
        x: a map that it reads.

    Raises:
        NotLinear: the layer's convolutions take something else than parts of its weight.
    """
    if "weight" not in layer._parameters:
        raise NotLinear("its weight is computed from other parameters")
    numbered = copied(layer).double()
    count = numbered.weight.numel()
    with torch.no_grad():
        numbered.weight.copy_(torch.arange(count).view_as(numbered.weight))
    seen, y = run(numbered, _one_image(x).double())
    if not seen:
        raise NotLinear("it calls no convolution of torch's")
    found: dict[bool, list[tuple[int, Tensor]]] = {}
    for number, convolution in enumerate(seen):
        places = convolution.places(layer.transposed)
        if not torch.equal(places, places.round()) or int(places.max()) >= count or int(places.min()) < 0:
            raise NotLinear("its weight is changed before it is used")
        places = places.long()
        low = _is_low(layer, int(places[0, 0].min()), x, y)
        found.setdefault(low, []).append((number, places))
    return [_half(low, parts, y) for low, parts in sorted(found.items())]


def _half(low: bool, parts: Sequence[tuple[int, Tensor]], y: Any) -> Half:
    places = [part for _, part in parts]
    if len({part.shape[:2] for part in places}) > 1:
        raise NotLinear("its paths have different groups")
    own, kind = torch.arange(y.shape[1]), "all"
    if isinstance(y, OctTensor):
        kind = "low" if low else "high"
        own = torch.tensor((low_indices if low else high_indices)(y.channel_layout))
    groups, each = places[0].shape[:2]
    if groups * each != len(own):
        raise NotLinear("its convolutions make only some of its channels")
    every = torch.cat(places, 2)
    if len(every.unique()) != every.numel():
        raise NotLinear("it uses an entry of its weight several times")
    return Half(kind, own.view(groups, each), every, tuple(number for number, _ in parts))


def _is_low(layer: Any, place: int, x: Any, y: Any) -> bool:
    """Whether an entry of the weight makes a low channel."""
    if not isinstance(y, OctTensor):
        return False
    settings = layer.octave
    along = [int(i) for i in torch.unravel_index(torch.tensor(place), layer.weight.shape)]
    if not settings.depthwise:
        return along[settings.weight_dim] >= settings.weight_layout[0]
    # Rows of a depthwise layer's weight are its outputs; of a transposed one, its inputs.
    return along[0] in set(low_indices((x if layer.transposed else y).channel_layout))


def positions(size: Sequence[int], most: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """At most so many pixels of a map of this size, each axis (pixels,): all, or a random choice."""
    total = math.prod(size)
    flat = torch.arange(total)
    if most < total:
        flat = torch.randperm(total, generator=generator)[:most].sort().values
    return torch.unravel_index(flat, tuple(size))


def take(values: Tensor, at: Sequence[Tensor]) -> Tensor:
    """The pixels of a map (N, C, *size, …) at some positions: (N, C, pixels, …)."""
    return values[(slice(None), slice(None), *(axis.to(values.device) for axis in at))]


def read_rows(
    half: Half, convolutions: Sequence[Convolution], at: Sequence[Tensor], size: Sequence[int]
) -> Tensor:
    """What a half's pixels at some positions read: (groups, N · pixels, columns), float32 or float64.

    Args:
        convolutions: all of the layer.
        at: positions in the half, whose size is `size`. A convolution of the low map, which is up-sampled,
            has one pixel for two.
    """
    parts = []
    for number in half.convolutions:
        convolution = convolutions[number]
        windows = convolution.windows()
        spatial = len(at)
        own = windows.shape[2 : 2 + spatial]
        # Transposed layers may make a pixel more, which is cut off.
        halved = [n > m for n, m in zip(size, own, strict=True)]
        here = [axis // 2 if half_size else axis for axis, half_size in zip(at, halved, strict=True)]
        picked = take(windows, here)  # (N, C, pixels, *kernel)
        images, channels, pixels = picked.shape[:3]
        groups = convolution.groups
        picked = picked.reshape(images, groups, channels // groups, pixels, -1)
        parts.append(picked.permute(1, 0, 3, 2, 4).reshape(groups, images * pixels, -1))
    rows = torch.cat(parts, 2)
    return rows if rows.dtype == torch.float64 else rows.float()


def map_rows(values: Tensor, channels: Tensor, at: Sequence[Tensor]) -> Tensor:
    """Pixels of some channels of a map (N, C, *size), by group: (groups, N · pixels, C / groups)."""
    picked = take(values.index_select(1, channels.flatten().to(values.device)), at)
    groups, each = channels.shape
    images, _, pixels = picked.shape
    picked = picked.reshape(images, groups, each, pixels).permute(1, 0, 3, 2)
    rows = picked.reshape(groups, images * pixels, each)
    return rows if rows.dtype == torch.float64 else rows.float()


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (int(value),) * count if isinstance(value, int) else tuple(int(n) for n in value)


def _spread_out(x: Tensor, factors: Sequence[int]) -> Tensor:
    """A map with zeros between its pixels: (N, C, *size) → (N, C, *((size − 1) · factor + 1))."""
    sizes = [(n - 1) * f + 1 for n, f in zip(x.shape[2:], factors, strict=True)]
    wide = x.new_zeros((*x.shape[:2], *sizes))
    wide[(..., *(slice(None, None, f) for f in factors))] = x
    return wide


def _one_image(x: Any) -> Any:
    if isinstance(x, OctTensor):
        return x.trusted(x.high[:1], x.low[:1], x.channel_layout, x.octave_dims, x.strict)
    return x[:1]
