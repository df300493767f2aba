"""Which octave layer replaces which of torch's layers, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from octavize.errors import InputError
from octavize.nn._torch_internals import computes_as
from octavize.nn.activation import TRACEABLE
from octavize.nn.conv import OctConv, OctConv1d, OctConv2d, OctConv3d
from octavize.nn.conv_padded import OctConvSame, become_same, vanilla_of
from octavize.nn.conv_transpose import OctConvTranspose1d, OctConvTranspose2d, OctConvTranspose3d
from octavize.nn.own_padding import KEPT, pads_by_itself
from octavize.plans.plan import Decision


class Handler(Protocol):
    """Makes a layer octave; the handler is registered for the layer's class."""

    def __call__(
        self, layer: Any, *, alpha: float, strict: bool, downsample: str, exchange: str
    ) -> nn.Module: ...


Registered = TypeVar("Registered", bound=Handler)
_HANDLERS: dict[type[nn.Module], Handler] = {}
_OCTAVE_CLASS: dict[type[nn.Module], type[OctConv]] = {
    nn.Conv1d: OctConv1d,
    nn.Conv2d: OctConv2d,
    nn.Conv3d: OctConv3d,
    nn.ConvTranspose1d: OctConvTranspose1d,
    nn.ConvTranspose2d: OctConvTranspose2d,
    nn.ConvTranspose3d: OctConvTranspose3d,
}


def oct_handler(*kinds: type[nn.Module]) -> Callable[[Registered], Registered]:
    """Register how layers of exactly these classes become octave.

    Subclasses of torch's convolutions may compute anything. So without a handler they stay vanilla, unless
    they keep torch's `forward`. The handler is called as
    `handler(layer, alpha=…, strict=…, downsample=…, exchange=…)` and returns the new layer, which may be the
    same object, changed. Parameters must keep their names and shapes.

    Examples:
        A convolution with standardized weights, as in NFNets:

        >>> class OctStandardized(OctConv2d, Standardized):
        ...     def kernel(self):
        ...         return self.standardize(self.weight)
        >>> @oct_handler(Standardized)
        ... def handle(layer, alpha, **settings):
        ...     layer.__class__ = OctStandardized
        ...     layer.become_octave(alpha, **settings)
        ...     return layer
    """

    def register(handler: Registered) -> Registered:
        for kind in kinds:
            _HANDLERS[kind] = handler
        return handler

    return register


def handler_of(layer: nn.Module) -> Handler | None:
    """The handler of a layer's class, or of the nearest class that computes the same but for its padding."""
    nearest = next((kind for kind in type(layer).__mro__ if kind in _HANDLERS), None)
    if nearest is not None and (nearest is type(layer) or computes_as(type(layer), nearest)):
        return _HANDLERS[nearest]
    return _torch_layer if nearest is not None and pads_by_itself(layer) else None


@oct_handler(*_OCTAVE_CLASS, *_OCTAVE_CLASS.values())
def _torch_layer(layer: Any, *, alpha: float, strict: bool, downsample: str, exchange: str) -> nn.Module:
    """torch's layers: the same object gets another class; an octave layer only gets new settings."""
    octave_dims = None
    if isinstance(layer, OctConv):
        octave_dims = layer.octave_dims
    elif pads_by_itself(layer):
        become_same(layer)
    else:
        octave = next(_OCTAVE_CLASS[kind] for kind in type(layer).__mro__ if kind in _OCTAVE_CLASS)
        layer.__class__ = _parametrized(type(layer), octave) if is_parametrized(layer) else octave
    layer.become_octave(
        alpha, octave_dims=octave_dims, strict=strict, downsample=downsample, exchange=exchange
    )
    return layer


def _parametrized(kind: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """The class of a layer with parametrizations (`torch.nn.utils.parametrizations`), with another base.

    torch gives such a layer a subclass of its own, whose properties compute the weights.
    """
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{base.__name__}", (base,), own)


def _become_vanilla(name: str, layer: OctConv) -> None:
    """The same object gets the class that it had, or would have, before it became octave."""
    kind = type(layer).__bases__[0] if is_parametrized(layer) else type(layer)
    vanilla = next((of for of, octave in _OCTAVE_CLASS.items() if octave is kind), None)
    if isinstance(layer, OctConvSame):
        vanilla = vanilla_of(type(layer))
    if vanilla is not None:
        made: Any = _parametrized(type(layer), vanilla) if is_parametrized(layer) else vanilla
        layer.__class__ = made
        for setting in ("_settings", "_stale", KEPT):
            layer.__dict__.pop(setting, None)
    elif layer.octave.depthwise:
        raise InputError(
            f"plan: layer {name!r} is a depthwise {type(layer).__name__}, which keeps the split of its "
            "input: start from the vanilla network to leave it vanilla"
        )
    else:
        layer.become_octave(alpha=0.0)  # which computes as the vanilla layer


def swap(model: nn.Module, decisions: Iterable[Decision], *, strict: bool | None) -> None:
    """Make layers octave or vanilla, in place, as the decisions of a plan say.

    Args:
        strict: see `octavize`; None keeps that of layers that are octave already.
    """
    for d in decisions:
        name, layer = d.name, model.get_submodule(d.name)
        if d.alpha is None:
            if isinstance(layer, OctConv):
                _become_vanilla(name, layer)
            continue
        handle = handler_of(layer)
        assert handle is not None  # a plan gives an alpha to such layers only
        own = isinstance(layer, OctConv) and layer.strict if strict is None else strict
        octave = handle(layer, alpha=d.alpha, strict=own, downsample=d.downsample, exchange=d.exchange)
        if not isinstance(octave, nn.Module):
            raise InputError(
                f"the @oct_handler of {type(layer).__name__} returned {octave!r} for layer {name!r}: let it "
                "return the layer to put in its place"
            )
        if octave is not layer:
            replace_module(model, layer, octave)
    for module in model.modules():
        if type(module) in TRACEABLE:
            module.__class__ = TRACEABLE[type(module)]


def replace_module(model: nn.Module, layer: nn.Module, by: nn.Module) -> None:
    """Put `by` in every place where `layer` is a child: the layer may be shared."""
    every = list(model.named_modules(remove_duplicate=False))
    for name, module in every:
        if module is layer and name:
            model.set_submodule(name, by)
