"""Octave convolution for any PyTorch CNN: the low frequencies at half resolution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibration.calibrate import calibrate
    from .calibration.reorder import Reordering
    from .conv import OctConv1d, OctConv2d, OctConv3d
    from .conv_transpose import OctConvTranspose1d, OctConvTranspose2d, OctConvTranspose3d
    from .convert import octavize
    from .converted import load_converted
    from .deploy.freeze import freeze
    from .deploy.onnx import export_onnx
    from .deploy.openvino import export_openvino
    from .deploy.pt2 import export_pt2
    from .deploy.runtime import load_runtime
    from .dispatch import DenseFallbackWarning, oct_rule
    from .errors import InputError
    from .models import create_model, list_models
    from .norms import reestimate_norms
    from .planning import plan
    from .plans import Decision, Plan
    from .swap import oct_handler
    from .tensor import OctTensor

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
    "Reordering",
    "calibrate",
    "create_model",
    "export_onnx",
    "export_openvino",
    "export_pt2",
    "freeze",
    "list_models",
    "load_converted",
    "load_runtime",
    "oct_handler",
    "oct_rule",
    "octavize",
    "plan",
    "reestimate_norms",
]

_HOME = {
    "OctConv1d": "conv",
    "OctConv2d": "conv",
    "OctConv3d": "conv",
    "OctConvTranspose1d": "conv_transpose",
    "OctConvTranspose2d": "conv_transpose",
    "OctConvTranspose3d": "conv_transpose",
    "DenseFallbackWarning": "dispatch",
    "OctTensor": "tensor",
    "oct_rule": "dispatch",
    "oct_handler": "swap",
    "Decision": "plans",
    "Plan": "plans",
    "plan": "planning",
    "octavize": "convert",
    "Reordering": "calibration.reorder",
    "calibrate": "calibration.calibrate",
    "reestimate_norms": "norms",
    "create_model": "models",
    "list_models": "models",
    "load_converted": "converted",
    "freeze": "deploy.freeze",
    "export_onnx": "deploy.onnx",
    "export_openvino": "deploy.openvino",
    "export_pt2": "deploy.pt2",
    "load_runtime": "deploy.runtime",
    "InputError": "errors",
}


def __getattr__(name: str) -> Any:
    """Find a public name when it is first used, so that `octavize --help` need not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'octavize' has no attribute {name!r}")
    globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return globals()[name]
