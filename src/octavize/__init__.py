"""Octave convolution for any PyTorch CNN: the low frequencies at half resolution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conv import OctConv1d, OctConv2d, OctConv3d
    from .convert import Decision, Plan, octavize, plan
    from .converted import load_converted
    from .errors import InputError
    from .models import create_model, list_models
    from .norms import reestimate_norms
    from .tensor import DenseFallbackWarning, OctTensor, oct_rule

__version__ = "0.1.0"

__all__ = [
    "Decision",
    "DenseFallbackWarning",
    "InputError",
    "OctConv1d",
    "OctConv2d",
    "OctConv3d",
    "OctTensor",
    "Plan",
    "create_model",
    "list_models",
    "load_converted",
    "oct_rule",
    "octavize",
    "plan",
    "reestimate_norms",
]

_HOMES = ("conv", "convert", "errors", "models", "norms", "tensor", "converted")


def __getattr__(name: str) -> Any:
    """Find a public name when it is first used, so that `octavize --help` need not wait for torch."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f".{home}", __name__)
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'octavize' has no attribute {name!r}")
