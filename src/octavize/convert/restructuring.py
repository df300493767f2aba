"""Methods that merge layers for deployment, such as timm's `reparameterize`: refused on octave layers.

They read weights and put vanilla convolutions in the layers' place. The network would compute something else,
and be octave no longer, without a word.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from octavize.errors import InputError
from octavize.nn.conv import OctConv

METHODS = ("reparameterize", "fuse", "switch_to_deploy")
"""Those that timm's `reparameterize_model` calls, and most networks of this kind."""


def guard(model: nn.Module) -> None:
    """Refuse, from now on, to merge octave layers; allow again what became vanilla."""
    for module in model.modules():
        octave = any(isinstance(m, OctConv) and m.alpha for m in module.modules())
        for name in METHODS:
            guarded = isinstance(module.__dict__.get(name), partial)
            if octave and not guarded and callable(getattr(type(module), name, None)):
                module.__dict__[name] = partial(_refuse, module, name)
            elif guarded and not octave:
                del module.__dict__[name]


def _refuse(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    if args or kwargs:  # a method of the forward's that only has the same name
        return getattr(type(module), name)(module, *args, **kwargs)
    raise InputError(
        f"{type(module).__name__}.{name}() would replace octave layers by vanilla ones that compute "
        "something else: call it on the vanilla network, then octavize"
    )
