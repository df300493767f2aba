"""Octave convolution for any PyTorch CNN: the low frequencies at half resolution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from octavize._version import __version__ as __version__
from octavize.errors import DenseFallbackWarning as DenseFallbackWarning
from octavize.errors import InputError as InputError
from octavize.plans.plan import Decision as Decision
from octavize.plans.plan import Plan as Plan
from octavize.plans.reordering import Reordering as Reordering

if TYPE_CHECKING:
    from octavize.bench.tune import tune as tune
    from octavize.calibration.calibrate import calibrate as calibrate
    from octavize.calibration.refit import refit as refit
    from octavize.convert.norms import reestimate_norms as reestimate_norms
    from octavize.convert.octavize import octavize as octavize
    from octavize.convert.planner import plan as plan
    from octavize.convert.swap import oct_handler as oct_handler
    from octavize.deploy.export import export as export
    from octavize.deploy.freeze import freeze as freeze
    from octavize.deploy.runtime import load_runtime as load_runtime
    from octavize.nn.conv import OctConv1d as OctConv1d
    from octavize.nn.conv import OctConv2d as OctConv2d
    from octavize.nn.conv import OctConv3d as OctConv3d
    from octavize.nn.conv_transpose import OctConvTranspose1d as OctConvTranspose1d
    from octavize.nn.conv_transpose import OctConvTranspose2d as OctConvTranspose2d
    from octavize.nn.conv_transpose import OctConvTranspose3d as OctConvTranspose3d
    from octavize.nn.dispatch import oct_rule as oct_rule
    from octavize.nn.tensor import OctTensor as OctTensor
    from octavize.zoo.hub import OctaveNetwork as OctaveNetwork
    from octavize.zoo.models import create_model as create_model
    from octavize.zoo.models import list_models as list_models
    from octavize.zoo.published import load_published as load_published
    from octavize.zoo.storage import load_converted as load_converted

_HOME = {
    "OctConv1d": "nn.conv",
    "OctConv2d": "nn.conv",
    "OctConv3d": "nn.conv",
    "OctConvTranspose1d": "nn.conv_transpose",
    "OctConvTranspose2d": "nn.conv_transpose",
    "OctConvTranspose3d": "nn.conv_transpose",
    "OctTensor": "nn.tensor",
    "oct_rule": "nn.dispatch",
    "oct_handler": "convert.swap",
    "plan": "convert.planner",
    "octavize": "convert.octavize",
    "tune": "bench.tune",
    "calibrate": "calibration.calibrate",
    "refit": "calibration.refit",
    "reestimate_norms": "convert.norms",
    "OctaveNetwork": "zoo.hub",
    "create_model": "zoo.models",
    "list_models": "zoo.models",
    "load_converted": "zoo.storage",
    "load_published": "zoo.published",
    "freeze": "deploy.freeze",
    "export": "deploy.export",
    "load_runtime": "deploy.runtime",
}

_WITHOUT_TORCH = ("load_runtime",)

__all__ = [*_HOME, "Decision", "DenseFallbackWarning", "InputError", "Plan", "Reordering"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Find a public name when it is first used, so that `octavize --help` need not wait for torch.

    Raises:
        ImportError: the name needs torch, which is not installed.
    """
    if name not in _HOME:
        raise AttributeError(f"module 'octavize' has no attribute {name!r}")
    if name not in _WITHOUT_TORCH and not _has_torch():
        raise ImportError(f"octavize.{name} needs torch: run `pip install 'octavize[torch]'`")
    globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _has_torch() -> bool:
    try:
        import_module("torch")
        import_module("safetensors")
    except ImportError:
        return False
    return True
