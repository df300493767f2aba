"""Octave convolution for any PyTorch CNN: the low frequencies at half resolution."""

from . import rules as rules  # importing it registers how torch functions act on an OctTensor
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
    "create_model",
    "list_models",
    "oct_rule",
    "octavize",
    "plan",
]
