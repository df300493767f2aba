"""Whether a frozen network still computes what its network does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octavize.convert.inputs import Inputs, Shape, inputs_of, tries
from octavize.convert.trace import clean_copy, leaves
from octavize.errors import one_line
from octavize.nn.dispatch import unannounced
from octavize.nn.tensor import OctTensor

TOLERANCE = 1e-3
"""Relative to what another input changes in the outputs: folding rounds the weights."""
ROUNDING = 1e-5
"""Of the largest output: below it a difference may be rounding, however little an input changes."""
TOLERANCE_HALF = 0.1
"""Of the largest output, for networks in float16 or bfloat16."""


def difference(model: nn.Module, frozen: nn.Module, given: Inputs | Shape) -> str | None:
    """How the outputs of two networks differ on a random input, in words; None if they do not.

    Where they do in their own dtype, float64 decides: networks may blow rounding up. A network that does not
    run on the input, or gives two answers to it, cannot be compared.
    """
    return next(filter(None, (_difference(model, frozen, each) for each in tries(given))), None)


def _difference(model: nn.Module, frozen: nn.Module, given: Inputs | Shape) -> str | None:
    first = next(model.parameters(), None)
    dtype = torch.float32 if first is None else first.dtype
    rounding = TOLERANCE_HALF if dtype in (torch.float16, torch.bfloat16) else ROUNDING
    problem = None
    for wanted in (dtype, torch.float64):
        inputs = inputs_of(given, "cpu" if first is None else first.device, wanted)
        with torch.no_grad(), torch.random.fork_rng(devices=[]), unannounced():
            try:
                expected = _outputs(model, inputs, wanted)
                others = _outputs(model, inputs.negative(), wanted)
            except Exception:  # a network may raise anything
                continue
            try:
                same = agree(expected, _outputs(frozen, inputs, wanted), others, rounding)
            except Exception as error:
                return f"it fails ({one_line(error, kind=True)})"
            if same or not agree(expected, _outputs(model, inputs, wanted), others, rounding):
                return None
            problem = "its outputs are others"
    return problem


def _outputs(net: nn.Module, inputs: Inputs, dtype: torch.dtype) -> list[Tensor]:
    """All tensors in the output, dense; the network computes in this dtype."""
    net = clean_copy(net, lambda v: v.to(dtype) if v.is_floating_point() else v.clone())
    return dense_leaves(inputs.call(net))


def dense_leaves(output: Any) -> list[Tensor]:
    """All tensors that a network returned, dense."""
    dense = (v.to_dense() if isinstance(v, OctTensor) else v for v in leaves(output))
    return [v for v in dense if isinstance(v, Tensor)]


def agree(a: Sequence[Any], b: Sequence[Any], others: Sequence[Any], rounding: float = ROUNDING) -> bool:
    """Whether outputs are the same, up to rounding and a small share of what another input changes.

    A large constant in the outputs, such as a bias, hides no difference.

    Args:
        others: outputs for the other input, in the order of `a`.
        rounding: share of the largest output.
    """
    return len(a) == len(b) and all(
        x.shape == y.shape
        and torch.allclose(x.double(), y.double(), rtol=0, atol=_allowed(x, other, rounding), equal_nan=True)
        for x, y, other in zip(a, b, others, strict=True)
    )


def _allowed(x: Tensor, other: Tensor, rounding: float) -> float:
    return max(TOLERANCE * change(x, other), rounding * largest(x))


def change(x: Tensor, other: Tensor) -> float:
    """The largest change between outputs for two inputs."""
    return largest(x.double() - other.double()) if x.shape == other.shape else 0.0


def largest(x: Tensor) -> float:
    """The largest finite number, without its sign."""
    finite = x.double()[torch.isfinite(x)]
    return float(finite.abs().max()) if finite.numel() else 0.0
