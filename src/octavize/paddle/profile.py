"""What Paddle networks cost: parameters and multiply–accumulates by name and α, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import nn

from octavize.errors import InputError
from octavize.paddle.planner import plan
from octavize.paddle.source import build_named
from octavize.paddle.trace import example_inputs, trace
from octavize.plans.plan import Plan
from octavize.plans.planning import Shape
from octavize.text import Table

COLUMNS = ("model", "alpha", "params", "macs", "macs_ratio")


def profile_rows(
    names: Sequence[str],
    alphas: Sequence[float],
    *,
    size: int,
    num_classes: int | None = None,
    exchange: str | None = None,
) -> list[dict[str, Any]]:
    """One row a network and α: parameters without running statistics, and MACs of one image.

    Args:
        names: of `octavize.paddle.list_models()`, or `module:function`.
        alphas: shares of low channels; ratios are to the first.
        size: side of the image in pixels.

    Raises:
        InputError: see `create_model`; or the network does not run on such an image.
    """
    rows = []
    for name in names:
        first = 0
        for alpha in alphas:
            net = build_named(name, alpha, num_classes, size, exchange)
            macs = trace(net, _image(net, size)).macs
            first = first or macs
            values = (name, alpha, count_params(net), macs, macs / first)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def count_params(net: nn.Layer) -> int:
    """Weights and biases; running statistics are not counted."""
    statistics = {id(value) for value in net.buffers()}
    return sum(int(p.size) for p in net.parameters() if id(p) not in statistics and not p.stop_gradient)


def layers_of(name: str, alpha: float, *, size: int, num_classes: int | None, exchange: str | None) -> Plan:
    """The plan of a named network: what became of each layer, and what it costs."""
    net = build_named(name, alpha, num_classes, size, exchange)
    alphas = {n: layer.alpha for n, layer in net.named_sublayers() if hasattr(layer, "alpha")}
    if not alphas:
        raise InputError(f"{name} has no layer that can be octave: give another network")
    return plan(net, {"*": 0.0, **alphas}, example=_image(net, size))


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows in words."""
    head = ("network", "α", "parameters", "MACs", "ratio")
    cells = [
        (r["model"], f"{r['alpha']:g}", f"{r['params'] / 1e6:.2f} M", f"{r['macs'] / 1e9:.3f} G",
         f"{r['macs_ratio']:.3f}") for r in rows
    ]  # fmt: skip
    return Table(head, cells)


def _image(net: nn.Layer, size: int) -> Shape:
    """The shape of a square image with the channels that the network reads."""
    return (1, example_inputs(net).shape[1], size, size)
