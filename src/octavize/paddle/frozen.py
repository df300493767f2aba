"""An octave convolution for inference: its weight is split once, for the one split of input that it reads.

`OctConv` splits its weight at every call: training needs the one vanilla weight, and the input's split may
change. A saved program would copy every part of the weight at every call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from paddle import Tensor

from octavize.errors import InputError
from octavize.paddle.conv import OctConv
from octavize.paddle.tensor import OctTensor
from octavize.split import ChannelLayout, with_low_divisible

_PATHS = ("to_high", "hh", "lh", "to_low", "hl", "ll")
"""Parts of the weight: for each output all that it reads in one convolution, or what reads each half."""


class FrozenOctConv(OctConv):
    """What `octavize.paddle.freeze` makes of an octave convolution; its parameters are the parts.

    Shapes:
        those of `OctConv2D`; the input must have the split for which it was frozen.
    """

    read_layout: ChannelLayout

    def forward(self, x: OctTensor | Tensor) -> Any:
        """Convolve a map of the split that the layer was frozen for.

        Raises:
            InputError: the input has another split.
        """
        layout = x.channel_layout if isinstance(x, OctTensor) else (x.shape[1], 0)
        if layout != self.read_layout:
            raise InputError(
                f"x has the channel layout {layout}, and this layer was frozen for {self.read_layout}: "
                f"freeze the network with an example= like this input: {self}"
            )
        return super().forward(x)

    def _weights(self, layout: ChannelLayout, dim: int = 0) -> tuple[Any, Any]:
        return self._part("high"), self._part("low")

    def _part(self, half: str) -> Any:
        """The one weight of an output, or the pair of those that read the high and the low half."""
        whole = getattr(self, f"weight_to_{half}")
        if whole is not None:
            return whole
        pair = tuple(getattr(self, f"weight_{source}{half[0]}") for source in "hl")
        return None if pair == (None, None) else pair

    def _biases(self, layout: ChannelLayout) -> tuple[Any, Any]:
        return self.bias_high, self.bias_low

    def _by_source(self, weight: Any, x: OctTensor) -> tuple[Any, Any]:
        return weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reads={self.read_layout}"


@lru_cache(None)
def _frozen_class(own: type[OctConv]) -> type[FrozenOctConv]:
    return type(f"Frozen{own.__name__}", (FrozenOctConv, own), {})


def split_once(layer: OctConv, layout: ChannelLayout) -> None:
    """Make an octave convolution a frozen one, in place, for inputs of this channel layout."""
    parts = _parts(layer, layout)
    biases = layer._biases(_out_layout(layer, layout))
    for name in ("weight", "bias"):
        layer._parameters.pop(name, None)
    for path in _PATHS:
        _hold(layer, f"weight_{path}", parts.get(path))
    for half, bias in zip(("high", "low"), biases, strict=True):
        _hold(layer, f"bias_{half}", bias)
    layer.__dict__["bias"] = None  # what a network's own forward may ask for
    layer.__dict__["read_layout"] = layout
    layer.__class__ = _frozen_class(type(layer))


def _hold(layer: OctConv, name: str, values: Tensor | None) -> None:
    """Give a layer a parameter that owns its memory, or None."""
    if values is None:
        layer.__dict__[name] = None
        return
    made = layer.create_parameter(values.shape, dtype=values.dtype)
    made.set_value(values.contiguous())
    made.stop_gradient = True
    layer.add_parameter(name, made)


def _parts(layer: OctConv, layout: ChannelLayout) -> dict[str, Tensor | None]:
    """The parts of the weight that the layer uses for such an input."""
    settings, groups = layer._settings, layer._geometry.groups
    if settings.depthwise:
        high, low = layer._weights(_out_layout(layer, layout))
        return {"to_high": high, "to_low": low}
    read = with_low_divisible(layout, groups) if groups > 1 else layout
    counts = sum(read[::2]), sum(read[1::2])
    x = OctTensor.trusted(None, None, (), read, settings.octave_dims, False)
    parts: dict[str, Tensor | None] = {}
    w_high, w_low = layer._weights(settings.weight_layout)
    lh, hl = (settings.exchanges(path, *counts) for path in ("low_to_high", "high_to_low"))
    if lh and settings.one_resolution:
        parts["to_high"] = w_high
    elif w_high is not None:
        parts["hh"], from_low = layer._by_source(w_high, x)
        parts["lh"] = from_low if lh else None
    if hl and groups == 1:
        parts["to_low"] = w_low
    elif w_low is not None:
        from_high, parts["ll"] = layer._by_source(w_low, x)
        parts["hl"] = from_high if hl else None
    return parts


def _out_layout(layer: OctConv, layout: ChannelLayout) -> ChannelLayout:
    """The layout of the layer's output."""
    geometry = layer._geometry
    if not layer._settings.depthwise:
        return layer._settings.out_layout
    return tuple(count * (geometry.out_channels // geometry.in_channels) for count in layout)
