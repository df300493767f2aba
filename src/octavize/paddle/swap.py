"""Which octave layer replaces which of Paddle's layers: the same object gets another class."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from paddle import nn

from octavize.paddle.conv import OctConv, OctConv1D, OctConv2D, OctConv3D
from octavize.paddle.conv_transpose import OctConv1DTranspose, OctConv2DTranspose, OctConv3DTranspose
from octavize.paddle.wrapping import hold_wrapped
from octavize.plan import Decision

_OCTAVE_CLASS: dict[type[nn.Layer], type[OctConv]] = {
    nn.Conv1D: OctConv1D,
    nn.Conv2D: OctConv2D,
    nn.Conv3D: OctConv3D,
    nn.Conv1DTranspose: OctConv1DTranspose,
    nn.Conv2DTranspose: OctConv2DTranspose,
    nn.Conv3DTranspose: OctConv3DTranspose,
}


def octave_class(layer: nn.Layer) -> type[OctConv] | None:
    """The octave class for a layer; None for a subclass of Paddle's that may compute anything."""
    return _octave_class(type(layer))


@lru_cache(None)
def _octave_class(own: type[nn.Layer]) -> type[OctConv] | None:
    if issubclass(own, OctConv):
        return own
    for kind, octave in _OCTAVE_CLASS.items():
        # A subclass that keeps Paddle's forward, perhaps with an __init__ of its own, computes the same.
        if issubclass(own, kind) and own.forward is kind.forward:
            return octave if own is kind else type(f"Oct{own.__name__}", (octave, own), {})
    return None


def swap(model: nn.Layer, decisions: Iterable[Decision], *, strict: bool) -> None:
    """Make layers octave or vanilla, in place, as the decisions of a plan say."""
    layers: dict[str, Any] = dict(model.named_sublayers(include_self=True))
    for d in decisions:
        layer = layers[d.name]
        if d.alpha is None:
            if isinstance(layer, OctConv) and layer.alpha:
                layer.become_octave(alpha=0.0)  # which is the vanilla layer
            continue
        octave = octave_class(layer)
        assert octave is not None  # a plan gives an alpha to such layers only
        layer.__class__ = octave
        layer.become_octave(d.alpha, strict=strict, downsample=d.downsample, exchange=d.exchange)
    for layer in layers.values():
        hold_wrapped(layer)
