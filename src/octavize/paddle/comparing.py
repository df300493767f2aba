"""Whether another form of a network still computes what the network does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from octavize.errors import one_line
from octavize.paddle.dispatch import unannounced
from octavize.paddle.inputs import Inputs
from octavize.paddle.returned import leaves
from octavize.paddle.trace import clean_copy, dtype_of

TOLERANCE = 1e-3
"""Relative to what another input changes in the outputs: folding rounds the weights."""
LEAST_CHANGE = 0.01
"""Share of the largest output that an error is related to where an input changes the outputs less."""
TOLERANCE_HALF = 0.1
"""Relative to the largest output, for networks in float16 or bfloat16."""


def difference(model: nn.Layer, other: nn.Layer, inputs: Inputs) -> str | None:
    """How the outputs of two networks differ on one random input, in words; None if they do not.

    Where they do in their own dtype, float64 decides: networks may blow rounding up. A network that gives two
    answers to one input cannot be compared.
    """
    dtype = dtype_of(model)
    half = dtype in (paddle.float16, paddle.bfloat16)
    tolerance, least = (TOLERANCE_HALF, 1.0) if half else (TOLERANCE, LEAST_CHANGE)
    problem = None
    for wanted in (dtype, paddle.float64):
        first, second = (_as(net, wanted) for net in (model, other))
        given = random_input(inputs, wanted)
        with paddle.no_grad(), unannounced():
            try:
                expected, others = (outputs_of(each.call(first)) for each in (given, negative(given)))
            except Exception:  # this processor may lack the dtype
                continue
            try:
                got = outputs_of(given.call(second))
            except Exception as error:  # a network may raise anything
                return f"it fails ({one_line(error, kind=True)})"
            if error_of(expected, got, others, least) <= tolerance:
                return None
            if not error_of(expected, outputs_of(given.call(first)), others, least) <= tolerance:
                return "it cannot be compared, for the network gives two answers to one input"
        problem = "its outputs are others"
    return problem


def _as(net: nn.Layer, dtype: Any) -> nn.Layer:
    return net if net.training is False and dtype_of(net) == dtype else clean_copy(net).to(dtype=dtype)


def random_input(inputs: Inputs, dtype: Any, seed: int = 0) -> Inputs:
    """Normal random numbers in the shapes among these, always the same; tensors that were given stay.

    Those of real numbers get the dtype.
    """
    random = np.random.default_rng(seed)

    def made(entry: Any) -> Any:
        if isinstance(entry, Tensor):
            return entry.astype(dtype) if entry.is_floating_point() else entry
        return paddle.to_tensor(random.standard_normal(entry)).astype(dtype)

    return inputs.each(made)


def negative(inputs: Inputs) -> Inputs:
    """Other inputs of the same kind: real numbers with the other sign."""

    def made(entry: Any) -> Any:
        return -entry if isinstance(entry, Tensor) and entry.is_floating_point() else entry

    return inputs.each(made)


def answering(model: nn.Layer) -> Callable[[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """All that a network makes of an array, in evaluation mode and without gradients."""
    model.eval()

    def answer(images: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        with paddle.no_grad():
            return outputs_of(model(paddle.to_tensor(images)))

    return answer


def outputs_of(output: Any) -> list[np.ndarray[Any, Any]]:
    """All tensors that a network returned, dense, in float64."""
    return [value.astype("float64").numpy() for _, value in leaves(output) if isinstance(value, Tensor)]


def error_of(expected: Sequence[Any], got: Sequence[Any], others: Sequence[Any], least: float) -> float:
    """The largest difference relative to what another input changes; infinite where shapes differ.

    A large constant in the outputs, such as a bias, hides no difference but rounding.

    Args:
        others: outputs for the other input, in the order of `expected`.
        least: share of the largest output that a difference is related to where the inputs change less.
    """
    if len(expected) != len(got) or any(a.shape != b.shape for a, b in zip(expected, got, strict=True)):
        return float("inf")
    worst = 0.0
    for a, b, other in zip(expected, got, others, strict=True):
        change = _largest(a - other) if a.shape == other.shape else 0.0
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        error = np.where(same, 0.0, np.abs(a - b)).max(initial=0.0) / max(change, least * _largest(a), 1e-12)
        worst = max(worst, float(error)) if error == error else float("nan")
        if worst != worst:
            return worst
    return worst


def _largest(x: Any) -> float:
    """The largest finite number, without its sign."""
    return float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0))
