"""Octave convolution for any PyTorch CNN: the low frequencies at half resolution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibrate import Reordered, Reordering, reorder_channels
    from .conv import OctConv1d, OctConv2d, OctConv3d
    from .conv_transpose import OctConvTranspose1d, OctConvTranspose2d, OctConvTranspose3d
    from .convert import octavize
    from .errors import InputError
    from .models import create_model, list_models
    from .planning import Decision, Plan, plan
    from .swap import oct_handler
    from .tensor import DenseFallbackWarning, OctTensor, oct_rule

__version__ = "0.1.0"

__all__ = [
    "Decision",
    "DenseFallbackWarning",
    "InputError",
    "OctConv1d",
    "OctConv2d",
    "OctConv3d",
    "OctConvTranspose1d",
    "OctConvTranspose2d",
    "OctConvTranspose3d",
    "OctTensor",
    "Plan",
    "Reordered",
    "Reordering",
    "create_model",
    "list_models",
    "oct_handler",
    "oct_rule",
    "octavize",
    "plan",
    "reorder_channels",
]

_HOMES = (
    *("calibrate", "conv", "conv_transpose", "convert", "errors", "models", "planning", "swap", "tensor"),
)


def __getattr__(name: str) -> Any:
    """Find a public name when it is first used, so that `octavize --help` need not wait for torch."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f".{home}", __name__)
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'octavize' has no attribute {name!r}")
