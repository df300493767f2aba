"""Which octave layer replaces which of Paddle's layers: the same object gets another class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from paddle import nn

from octavize.errors import InputError
from octavize.paddle.conv import OctConv, OctConv1D, OctConv2D, OctConv3D
from octavize.paddle.conv_transpose import OctConv1DTranspose, OctConv2DTranspose, OctConv3DTranspose
from octavize.paddle.wrapping import hold_wrapped
from octavize.plans.plan import Decision

_OCTAVE_CLASS: dict[type[nn.Layer], type[OctConv]] = {
    nn.Conv1D: OctConv1D,
    nn.Conv2D: OctConv2D,
    nn.Conv3D: OctConv3D,
    nn.Conv1DTranspose: OctConv1DTranspose,
    nn.Conv2DTranspose: OctConv2DTranspose,
    nn.Conv3DTranspose: OctConv3DTranspose,
}


class Handler(Protocol):
    """Makes a layer octave; the handler is registered for the layer's class."""

    def __call__(
        self, layer: Any, *, alpha: float, strict: bool, downsample: str, exchange: str
    ) -> nn.Layer: ...


Registered = TypeVar("Registered", bound=Handler)
_HANDLERS: dict[type[nn.Layer], Handler] = {}


def oct_handler(*kinds: type[nn.Layer]) -> Callable[[Registered], Registered]:
    """Register how layers of exactly these classes become octave.

    Subclasses of Paddle's convolutions may compute anything. So without a handler they stay vanilla, unless
    they keep Paddle's `forward`. The handler is called as
    `handler(layer, alpha=…, strict=…, downsample=…, exchange=…)` and returns the new layer, which may be the
    same object, changed. Parameters must keep their names and shapes.

    Examples:
        A convolution with standardized weights:

        >>> class OctStandardized(OctConv2D, Standardized):
        ...     def kernel(self):
        ...         return self.standardize(self.weight)
        >>> @oct_handler(Standardized)
        ... def handle(layer, alpha, **settings):
        ...     layer.__class__ = OctStandardized
        ...     layer.become_octave(alpha, **settings)
        ...     return layer
    """

    def register(handler: Registered) -> Registered:
        _HANDLERS.update(dict.fromkeys(kinds, handler))
        return handler

    return register


def handler_of(layer: nn.Layer) -> Handler | None:
    """The handler of a layer's class; None for a subclass of Paddle's that may compute anything."""
    own = type(layer)
    if own in _HANDLERS:
        return _HANDLERS[own]
    return None if _octave_class(own) is None else _paddle_layer


@lru_cache(None)
def _octave_class(own: type[nn.Layer]) -> type[OctConv] | None:
    if issubclass(own, OctConv):
        return own
    for kind, octave in _OCTAVE_CLASS.items():
        # A subclass that keeps Paddle's forward, perhaps with an __init__ of its own, computes the same.
        if issubclass(own, kind) and own.forward is kind.forward:
            return octave if own is kind else type(f"Oct{own.__name__}", (octave, own), {})
    return None


def _paddle_layer(layer: Any, *, alpha: float, strict: bool, downsample: str, exchange: str) -> nn.Layer:
    """Paddle's layers: the same object gets another class; an octave layer only gets new settings."""
    octave = _octave_class(type(layer))
    assert octave is not None  # see `handler_of`
    layer.__class__ = octave
    layer.become_octave(alpha, strict=strict, downsample=downsample, exchange=exchange)
    return layer


def swap(model: nn.Layer, decisions: Iterable[Decision], *, strict: bool) -> None:
    """Make layers octave or vanilla, in place, as the decisions of a plan say."""
    layers: dict[str, Any] = dict(model.named_sublayers(include_self=True))
    for d in decisions:
        layer = layers[d.name]
        if d.alpha is None:
            if isinstance(layer, OctConv) and layer.alpha:
                layer.become_octave(alpha=0.0)  # which is the vanilla layer
            continue
        handle = handler_of(layer)
        assert handle is not None  # a plan gives an alpha to such layers only
        octave = handle(layer, alpha=d.alpha, strict=strict, downsample=d.downsample, exchange=d.exchange)
        if not isinstance(octave, nn.Layer):
            raise InputError(
                f"the @oct_handler of {type(layer).__name__} returned {octave!r} for layer {d.name!r}: "
                "let it return the layer to put in its place"
            )
        if octave is not layer:
            _replace(model, layer, octave)
    for layer in model.sublayers(include_self=True):
        hold_wrapped(layer)


def _replace(model: nn.Layer, layer: nn.Layer, by: nn.Layer) -> None:
    """Put `by` in every place where `layer` is a child: the layer may be shared, or in a list besides."""
    for parent in model.sublayers(include_self=True):
        for name, child in parent._sub_layers.items():
            if child is layer:
                parent._sub_layers[name] = by
        for value in vars(parent).values():
            if isinstance(value, list):
                value[:] = [by if entry is layer else entry for entry in value]
