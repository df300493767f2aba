"""Octave layers while torch.fx traces a network: each is one call, as torch's own layers are.

Feature extractors and `symbolic_trace` run a network on proxies, which have no halves.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from octavize.errors import InputError
from octavize.nn._torch_internals import tracer_of


def is_traced(value: Any) -> bool:
    """Whether torch.fx traces the call that gives a layer this value."""
    return not isinstance(value, Tensor) and tracer_of(value) is not None


def recorded(layer: nn.Module, *values: Any) -> Any:
    """A proxy for what a layer will return.

    Raises:
        InputError: a quantizer of torch traces; it would give dense maps to octave layers.
    """
    tracer = tracer_of(values[0])
    if type(tracer).__module__.startswith("torch.ao.quantization"):
        raise InputError(
            f"{type(layer).__name__}: torch's quantizers know no maps in two frequencies; quantize a file, "
            'by octavize.export(model, "model.xml", shape, precision="int8", calibration=images)'
        )
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), values, {})
