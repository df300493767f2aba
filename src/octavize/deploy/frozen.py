"""FrozenOctConv: an octave convolution for inference, its weight cut once into one torch layer a path.

`OctConv` cuts its weight at every call: training needs the one vanilla weight, and the split of the input may
change. Here the split is known, so each of the four paths is a layer with a weight of its own:

    Y_high = hh(X_high) + U(lh(X_low))
    Y_low  = hl(P(X_high)) + ll(X_low)

A path without channels at either end does not exist. Two paths that meet can be joined into one convolution:
`low_in` are the two that read the low half (one convolution, its output channels then split), `low_out` the
two that write it (one convolution over the concatenated inputs). Which is fastest is for measurement to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octavize.deploy.packed import PackedConv2d
from octavize.errors import InputError
from octavize.nn.channels import split_channels
from octavize.nn.conv import OctConv
from octavize.nn.resample import border, halve, pad_any, pool, upsample
from octavize.nn.tensor import OctTensor
from octavize.split import ChannelLayout, low_size, with_low_divisible

JOINS = ("none", "low_in", "low_out")
GEOMETRY = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "alpha")
_JOINED_PATHS = {"low_in": ("lh", "ll"), "low_out": ("ll", "hl")}
_TORCH: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: PackedConv2d, 3: nn.Conv3d}


class FrozenOctConv(nn.Module):
    """The layer that `octavize.freeze` puts in the place of an `OctConv`.

    Args:
        layer: the octave convolution; only read.
        channel_layout: of its input, which is checked at every call.
        weight: (C_out, C_in / groups, *kernel_size), in the place of the layer's own: a batch norm folded in.
        bias: (C_out,) or None, likewise.
        join: `none`, `low_in` or `low_out`, see the module. Paths that cannot be joined (in groups, at two
            resolutions, or one of them missing) stay as they are; the attribute `join` tells.
        name: of the layer in its network, for messages.

    Shapes:
        those of `OctConv2d`.
    """

    hh: nn.Module | None
    hl: nn.Module | None
    lh: nn.Module | None
    ll: nn.Module | None
    low_in: nn.Module | None
    low_out: nn.Module | None

    def __init__(
        self,
        layer: OctConv,
        channel_layout: ChannelLayout,
        weight: Tensor,
        bias: Tensor | None,
        *,
        join: str = "none",
        name: str = "",
    ) -> None:
        super().__init__()
        self.name, self.channel_layout, self.octave_dims, self.strict = (
            name,
            channel_layout,
            layer.octave_dims,
            layer.strict,
        )
        for attribute in GEOMETRY:  # a network's own forward may read them
            setattr(self, attribute, getattr(layer, attribute))
        self.depthwise = layer.depthwise
        self.octave_stride = tuple(layer.stride[-layer.octave_dims :])
        self.factors = (*[1] * (len(layer.stride) - layer.octave_dims), *self.octave_stride)
        self.strided_high = layer.downsample == "stride" and max(self.octave_stride) > 1
        if layer.depthwise:
            multiplier = layer.out_channels // layer.in_channels
            self.read_layout, self.out_layout = (
                channel_layout,
                tuple(count * multiplier for count in channel_layout),
            )
        else:
            self.read_layout = (
                with_low_divisible(channel_layout, layer.groups) if layer.groups > 1 else channel_layout
            )
            self.out_layout = (layer.out_channels - layer.low_out, layer.low_out)
        paths = _paths(self, layer, weight, bias)
        self.join = join if _can_join(self, layer, paths, join) else "none"
        if self.join != "none":
            paths = _joined(layer, paths, join)
        for path in ("hh", "hl", "lh", "ll", *_JOINED_PATHS):
            setattr(self, path, paths.get(path))

    def forward(self, input: OctTensor | Tensor) -> Any:
        """Convolve a map of the split that the layer was frozen for.

        Raises:
            InputError: the input has another split.
        """
        x = self._checked(input)
        lh, to_low = self._read_low(x)
        hh = None if self.hh is None else self.hh(self._high(x))
        hl = None if self.hl is None else self.hl(self._high_for_low(x))
        some = next(y for y in (hh, lh, hl, to_low) if y is not None)
        size = self._size(x, some)
        y_high = _sum(hh, None if lh is None else upsample(lh, size))
        if y_high is None:
            y_high = some.new_empty((some.shape[0], 0, *size))
        y_low = _sum(hl, to_low)
        if y_low is None:
            if not self.depthwise:
                return y_high
            y_low = some.new_empty((some.shape[0], 0, *low_size(size, self.octave_dims)))
        strict = self.strict or x.strict
        return OctTensor(
            y_high, y_low, octave_dims=self.octave_dims, strict=strict, channel_layout=self.out_layout
        )

    def _read_low(self, x: OctTensor) -> tuple[Tensor | None, Tensor | None]:
        """What the low half contributes to the high output, before up-sampling, and to the low output."""
        if self.low_in is not None:
            channels = sum(self.out_layout[::2])
            y = self.low_in(x.low)
            return y.narrow(1, 0, channels), y.narrow(1, channels, y.shape[1] - channels)
        lh = None if self.lh is None else self.lh(x.low)
        if self.low_out is not None:
            both = torch.cat([pool(x.low, self.factors), self._high_for_low(x)], dim=1)
            return lh, self.low_out(both)
        return lh, None if self.ll is None else self.ll(pool(x.low, self.factors))

    def _high(self, x: OctTensor) -> Tensor:
        """What the high output reads of the high half: pooled by the stride, unless the path is strided."""
        return x.high if self.strided_high else self._pooled(x)

    def _pooled(self, x: OctTensor) -> Tensor:
        return x.pooled_high() if min(self.octave_stride) == 2 else pool(x.high, self.factors)

    def _high_for_low(self, x: OctTensor) -> Tensor:
        """What the low output reads of the high half: pooled by the stride, then by an octave."""
        return halve(self._pooled(x), self.octave_dims) if max(self.octave_stride) > 1 else x.pooled_high()

    def _size(self, x: OctTensor, y: Tensor) -> Sequence[int]:
        """Of the high output: ⌈size / stride⌉ along the octave axes, that of any path along the others."""
        kept = y.dim() - self.octave_dims
        halved = (-(-n // s) for n, s in zip(x.high.shape[kept:], self.octave_stride, strict=True))
        return (*y.shape[2:kept], *halved)

    def _checked(self, input: OctTensor | Tensor) -> OctTensor:
        x = input
        if not isinstance(x, OctTensor):
            x = OctTensor.all_high(x, octave_dims=self.octave_dims, strict=self.strict)
        if x.channel_layout != self.channel_layout or x.octave_dims != self.octave_dims:
            raise InputError(
                f"layer {self.name or 'without a name'} was frozen for an input of "
                f"{_told(self.channel_layout)} and "
                f"got {_told(x.channel_layout)}: freeze the network with an example= like this input"
            )
        return x.with_layout(self.read_layout)

    def extra_repr(self) -> str:
        return f"reads {_told(self.channel_layout)}, join={self.join!r}"


def _told(channel_layout: ChannelLayout) -> str:
    order = "" if len(channel_layout) == 2 else f" (channel_layout {channel_layout})"
    return f"{sum(channel_layout[::2])} high and {sum(channel_layout[1::2])} low channels{order}"


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Their sum, written into `a`, the fresh output of a convolution; the other one where one is missing."""
    return b if a is None else a if b is None else a.add_(b)


# ---- from one weight to layers --------------------------------------------------------------------------


def _paths(to: FrozenOctConv, layer: OctConv, weight: Tensor, bias: Tensor | None) -> dict[str, nn.Module]:
    """The paths that have channels at both ends. The first into a half brings its share of the bias."""
    high, low = split_channels(weight, to.out_layout)
    halves = {"h": sum(to.read_layout[::2]), "l": sum(to.read_layout[1::2])}
    if layer.depthwise:
        weights = {"hh": high, "ll": low}
    else:
        # In groups every path has all of them, so a group's columns are high first, whatever the order.
        columns = to.read_layout if layer.groups == 1 else tuple(n // layer.groups for n in halves.values())
        (w_hh, w_lh), (w_hl, w_ll) = split_channels(high, columns, dim=1), split_channels(low, columns, dim=1)
        weights = {"hh": w_hh, "lh": w_lh, "ll": w_ll, "hl": w_hl}
    biases = dict(
        zip("hl", (None, None) if bias is None else split_channels(bias, to.out_layout), strict=True)
    )
    paths: dict[str, nn.Module] = {}
    for path, w in weights.items():
        source, target = path
        if w.shape[0] == 0 or halves[source] == 0:
            continue
        exchange = {"lh": "low_to_high", "hl": "high_to_low"}.get(path)
        if exchange is not None and not layer.octave.exchanges(exchange, halves["h"], halves["l"]):
            continue
        kept = layer.stride[: -layer.octave_dims]
        stride = layer.stride if path == "hh" and to.strided_high else (*kept, *[1] * layer.octave_dims)
        groups = halves[source] if layer.depthwise else layer.groups
        paths[path] = _convolution(layer, w, biases[target], groups, stride)
        biases[target] = None
    return paths


def _can_join(to: FrozenOctConv, layer: OctConv, paths: dict[str, nn.Module], join: str) -> bool:
    if join not in JOINS:
        raise InputError(f"join={join!r}: give one of {', '.join(JOINS)}")
    if join == "none" or layer.groups > 1 or layer.padding_mode != "zeros":
        return False
    same_size = join == "low_out" or max(to.octave_stride) == 1
    return same_size and all(path in paths for path in _JOINED_PATHS[join])


def _joined(layer: OctConv, paths: dict[str, nn.Module], join: str) -> dict[str, nn.Module]:
    """The paths with two of them in one convolution."""
    a, b = (paths[path] for path in _JOINED_PATHS[join])
    assert isinstance(a, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    assert isinstance(b, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if join == "low_in":
        weight, bias = torch.cat([a.weight, b.weight], dim=0), None
        if a.bias is not None or b.bias is not None:
            bias = torch.cat(
                [c.weight.new_zeros(c.out_channels) if c.bias is None else c.bias for c in (a, b)]
            )
    else:
        weight, bias = torch.cat([a.weight, b.weight], dim=1), a.bias
    kept = {path: conv for path, conv in paths.items() if path not in _JOINED_PATHS[join]}
    return {**kept, join: _convolution(layer, weight, bias, 1, a.stride)}


def torch_layer(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """torch's own convolution of the same geometry, with these parameters."""
    kind = _TORCH[len(layer.kernel_size)]
    return _made(kind, layer, weight, bias, layer.groups, layer.stride, layer.padding, layer.padding_mode)


def _convolution(
    layer: OctConv, weight: Tensor, bias: Tensor | None, groups: int, stride: Sequence[int]
) -> nn.Module:
    """One path: torch's convolution; where padding is not by zeros, after padding that fits any size."""
    kind = _TORCH[len(layer.kernel_size)]
    if layer.padding_mode == "zeros":
        return _made(kind, layer, weight, bias, groups, stride, layer.padding, "zeros")
    pad = PadAny(border(layer), layer.padding_mode)
    return nn.Sequential(pad, _made(kind, layer, weight, bias, groups, stride, 0, "zeros"))


def _made(
    kind: Any,
    layer: OctConv,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    stride: Sequence[int],
    padding: Any,
    padding_mode: str,
) -> nn.Module:
    conv = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(layer.kernel_size),
        stride=tuple(stride),
        padding=padding,
        dilation=tuple(layer.dilation),
        groups=groups,
        bias=bias is not None,
        padding_mode=padding_mode,
        device="meta",  # its initial weights are not wanted
    )
    conv.weight = parameter(weight)
    conv.bias = None if bias is None else parameter(bias)
    return conv


def parameter(values: Tensor) -> nn.Parameter:
    """A copy that owns its memory and needs no gradient; of 2-D convolutions channels-last."""
    layout = torch.channels_last if values.dim() == 4 else torch.contiguous_format
    copied = values.detach().clone(memory_format=torch.contiguous_format).contiguous(memory_format=layout)
    return nn.Parameter(copied, requires_grad=False)


class PadAny(nn.Module):
    """`octavize.resample.pad_any` as a layer."""

    def __init__(self, pads: Sequence[int], mode: str) -> None:
        super().__init__()
        self.pads, self.mode = tuple(pads), mode

    def forward(self, x: Tensor) -> Tensor:
        return pad_any(x, self.pads, self.mode)
