"""Octave convolution for any PyTorch CNN: the low frequencies at half resolution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibrate import Reordering, reorder_channels
    from .conv import OctConv1d, OctConv2d, OctConv3d
    from .convert import Decision, Plan, octavize, plan
    from .errors import InputError
    from .models import create_model, list_models
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
    "Reordering",
    "create_model",
    "list_models",
    "oct_rule",
    "octavize",
    "plan",
    "reorder_channels",
]

_HOMES = ("conv", "convert", "errors", "models", "tensor", "calibrate")


def __getattr__(name: str) -> Any:
    """Find a public name when it is first used, so that `octavize --help` need not wait for torch."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f".{home}", __name__)
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'octavize' has no attribute {name!r}")
