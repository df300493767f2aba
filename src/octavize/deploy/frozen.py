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
from octavize.nn.conv import OctConv, add
from octavize.nn.leaf import is_traced, recorded
from octavize.nn.resample import border, pad_any, pool, upsample
from octavize.nn.tensor import OctTensor
from octavize.split import ChannelLayout, low_size, with_low_divisible

JOINS = {"none": (), "low_in": ("lh", "ll"), "low_out": ("ll", "hl")}
"""Which paths become one convolution."""
GEOMETRY = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "alpha")
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
        for attribute in GEOMETRY:  # a network's own forward may read them
            setattr(self, attribute, getattr(layer, attribute))
        self.name, self.channel_layout, self.octave = name, channel_layout, layer.octave
        if self.octave.depthwise:
            multiplier = layer.out_channels // layer.in_channels
            self.read_layout = channel_layout
            self.out_layout = tuple(count * multiplier for count in channel_layout)
        else:
            groups = layer.groups
            self.read_layout = with_low_divisible(channel_layout, groups) if groups > 1 else channel_layout
            self.out_layout = self.octave.out_layout
        paths = _joined(layer, self._paths(layer, weight, bias), join)
        self.join = join if join in paths else "none"
        for path in ("hh", "hl", "lh", "ll", "low_in", "low_out"):
            setattr(self, path, paths.get(path))

    def forward(self, input: OctTensor | Tensor) -> Any:
        """Convolve a map of the split that the layer was frozen for.

        Raises:
            InputError: the input has another split.
        """
        if is_traced(input):
            return recorded(self, input)
        x, dims = self._checked(input), self.octave.octave_dims
        lh, to_low = self._read_low(x)
        hh = None if self.hh is None else self.hh(self._high(x))
        hl = None if self.hl is None else self.hl(self._high_for_low(x))
        some = next(y for y in (hh, lh, hl, to_low) if y is not None)
        size = self._size(x, some)
        y_high = add(hh, None if lh is None else upsample(lh, size))
        if y_high is None:
            y_high = some.new_empty((some.shape[0], 0, *size))
        y_low = add(hl, to_low)
        if y_low is None:
            if not self.octave.depthwise:
                return y_high
            y_low = some.new_empty((some.shape[0], 0, *low_size(size, dims)))
        return OctTensor.trusted(y_high, y_low, self.out_layout, dims, self.octave.strict or x.strict)

    def _read_low(self, x: OctTensor) -> tuple[Tensor | None, Tensor | None]:
        """What the low half contributes to the high output, before up-sampling, and to the low output."""
        if self.low_in is not None:
            channels = sum(self.out_layout[::2])
            y = self.low_in(x.low)
            return y.narrow(1, 0, channels), y.narrow(1, channels, y.shape[1] - channels)
        lh = None if self.lh is None else self.lh(x.low)
        if self.low_out is not None:
            both = [pool(x.low, self.octave.factors), self._high_for_low(x)]
            return lh, self.low_out(torch.cat(both, dim=1))
        return lh, None if self.ll is None else self.ll(pool(x.low, self.octave.factors))

    def _high(self, x: OctTensor) -> Tensor:
        """What the high output reads of the high half: pooled by the stride, unless the path is strided."""
        if self.octave.downsample == "stride":
            return x.high
        return x.pooled_high() if self.octave.halves else pool(x.high, self.octave.factors)

    def _high_for_low(self, x: OctTensor) -> Tensor:
        """What the low output reads of the high half: pooled by an octave, then by the stride."""
        return pool(x.pooled_high(), self.octave.factors)

    def _size(self, x: OctTensor, y: Tensor) -> Sequence[int]:
        """Of the high output: ⌈size / stride⌉ along the octave axes, that of any path along the others."""
        kept = y.dim() - self.octave.octave_dims
        strides = self.octave.factors[kept - 2 :]
        return (*y.shape[2:kept], *(-(-n // s) for n, s in zip(x.high.shape[kept:], strides, strict=True)))

    def _checked(self, input: OctTensor | Tensor) -> OctTensor:
        dims, x = self.octave.octave_dims, input
        if not isinstance(x, OctTensor):
            x = OctTensor.all_high(x, octave_dims=dims, strict=self.octave.strict)
        if x.channel_layout != self.channel_layout or x.octave_dims != dims:
            raise InputError(
                f"layer {self.name or 'without a name'} was frozen for {_told(self.channel_layout)} and got "
                f"{_told(x.channel_layout)}: freeze the network with an example= like this input"
            )
        return x.with_layout(self.read_layout)

    def _paths(self, layer: OctConv, weight: Tensor, bias: Tensor | None) -> dict[str, Any]:
        """The paths that have channels at both ends. The first into a half brings its share of the bias."""
        reads = {"h": sum(self.read_layout[::2]), "l": sum(self.read_layout[1::2])}
        weights = self._weights(layer, weight, (reads["h"], reads["l"]))
        shares = (None, None) if bias is None else split_channels(bias, self.out_layout)
        biases = dict(zip("hl", shares, strict=True))
        paths: dict[str, Any] = {}
        for path, w in weights.items():
            source, target = path
            exchange = {"lh": "low_to_high", "hl": "high_to_low"}.get(path)
            left_out = exchange is not None and not self.octave.exchanges(exchange, *reads.values())
            if w.shape[0] == 0 or reads[source] == 0 or left_out:
                continue
            strided = path == "hh" and self.octave.downsample == "stride"
            stride = layer.stride if strided else self.octave.stride
            groups = reads[source] if self.octave.depthwise else layer.groups
            paths[path] = _convolution(layer, w, biases[target], groups, stride)
            biases[target] = None
        return paths

    def _weights(self, layer: OctConv, weight: Tensor, reads: tuple[int, int]) -> dict[str, Tensor]:
        """The rows and columns of the weight that belong to each path."""
        high, low = split_channels(weight, self.out_layout)
        if self.octave.depthwise:
            return {"hh": high, "ll": low}
        # In groups every path has all of them, so a group's columns are high first, whatever the order.
        columns = self.read_layout if layer.groups == 1 else tuple(n // layer.groups for n in reads)
        (hh, lh), (hl, ll) = (split_channels(rows, columns, dim=1) for rows in (high, low))
        return {"hh": hh, "lh": lh, "ll": ll, "hl": hl}

    def extra_repr(self) -> str:
        return f"reads {_told(self.channel_layout)}, join={self.join!r}"


def _told(channel_layout: ChannelLayout) -> str:
    order = "" if len(channel_layout) == 2 else f" (channel_layout {channel_layout})"
    return f"{sum(channel_layout[::2])} high and {sum(channel_layout[1::2])} low channels{order}"


# ---- layers ---------------------------------------------------------------------------------------------


def _joined(layer: OctConv, paths: dict[str, Any], join: str) -> dict[str, Any]:
    """The paths, with two of them in one convolution if they can be."""
    one_resolution = join == "low_out" or max(layer.octave.factors) == 1
    can = join != "none" and one_resolution and layer.groups == 1 and layer.padding_mode == "zeros"
    if not can or not paths.keys() >= {*JOINS[join]}:
        return paths
    first, second = (paths[path] for path in JOINS[join])
    weight = torch.cat([first.weight, second.weight], dim=0 if join == "low_in" else 1)
    bias = first.bias
    if join == "low_in" and second.bias is not None:  # `hh` brings that of the high half, if it exists
        bias = torch.cat([weight.new_zeros(first.out_channels) if bias is None else bias, second.bias])
    rest = {path: conv for path, conv in paths.items() if path not in JOINS[join]}
    return {**rest, join: _convolution(layer, weight, bias, 1, first.stride)}


def _convolution(
    layer: OctConv, weight: Tensor, bias: Tensor | None, groups: int, stride: Sequence[int]
) -> nn.Module:
    """One path: torch's convolution; where padding is not by zeros, after padding that fits any size."""
    if layer.padding_mode == "zeros":
        return torch_layer(layer, weight, bias, groups=groups, stride=stride)
    settings = {"groups": groups, "stride": stride, "padding": 0, "padding_mode": "zeros"}
    pad = PadAny(border(layer), layer.padding_mode)
    return nn.Sequential(pad, torch_layer(layer, weight, bias, **settings))


def torch_layer(layer: OctConv, weight: Tensor, bias: Tensor | None, **changed: Any) -> nn.Module:
    """torch's own convolution with these parameters, and the settings of a layer unless they are changed."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    settings = {name: getattr(layer, name) for name in names} | changed
    make: Any = _TORCH[len(layer.kernel_size)]
    conv = make(
        weight.shape[1] * settings["groups"],
        weight.shape[0],
        layer.kernel_size,
        bias=bias is not None,
        device="meta",  # its initial weights are not wanted
        **settings,
    )
    conv.weight = parameter(weight)
    conv.bias = None if bias is None else parameter(bias)
    return conv


def parameter(values: Tensor) -> nn.Parameter:
    """A copy that owns its memory and needs no gradient; of 2-D convolutions channels-last."""
    layout = torch.channels_last if values.dim() == 4 else torch.contiguous_format
    copied = values.detach().clone(memory_format=torch.contiguous_format).contiguous(memory_format=layout)
    return nn.Parameter(copied, requires_grad=False)


class Pool(nn.Module):
    """`octavize.resample.pool` as a layer."""

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = tuple(factors)

    def forward(self, x: Tensor) -> Tensor:
        return pool(x, self.factors)


class PadAny(nn.Module):
    """`octavize.resample.pad_any` as a layer."""

    def __init__(self, pads: Sequence[int], mode: str) -> None:
        super().__init__()
        self.pads, self.mode = tuple(pads), mode

    def forward(self, x: Tensor) -> Tensor:
        return pad_any(x, self.pads, self.mode)
