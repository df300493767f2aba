"""Recomputing in backward, for parts of a network that octave maps go into or come out of.

`paddle.distributed.fleet.utils.recompute` passes tensors only, and an octave map is two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octavize.paddle.tensor import OctTensor
from octavize.split import ChannelLayout


@dataclass(frozen=True)
class _Place:
    """Where the halves of an octave map lie among tensors, and what else makes it a map."""

    high: int | None
    low: int | None
    size: tuple[int, ...]
    layout: ChannelLayout
    octave_dims: int
    strict: bool

    def map(self, tensors: tuple[Any, ...]) -> OctTensor:
        high, low = (None if place is None else tensors[place] for place in (self.high, self.low))
        return OctTensor.trusted(high, low, self.size, self.layout, self.octave_dims, self.strict)


def recompute(
    function: Callable[..., Any], *args: Any, preserve_rng_state: bool = True, **kwargs: Any
) -> Any:
    """Paddle's `recompute`, whose arguments and results may be octave maps.

    The activations inside `function` are not kept for backward, but computed once more.

    Args:
        function: a layer or a function of a network.
        args, kwargs: its arguments.
        preserve_rng_state: draw the same random numbers again, for dropout.

    Returns:
        What `function` returns: a tensor, an octave map, or a tuple of these.
    """
    from paddle.distributed.fleet.utils import recompute as plainly

    places, row = _apart((*args, *kwargs.values()))
    made: list[Any] = []

    def of_tensors(*row: Any) -> Any:
        given = _together(places, row)
        named = dict(zip(kwargs, given[len(args) :], strict=True))
        result = function(*given[: len(args)], **named)
        found, flat = _apart(result if isinstance(result, tuple) else (result,))
        made[:] = [found, isinstance(result, tuple)]
        return tuple(flat) if len(flat) > 1 else flat[0]

    flat = plainly(of_tensors, *row, preserve_rng_state=preserve_rng_state)
    results = _together(made[0], flat if isinstance(flat, tuple) else (flat,))
    return tuple(results) if made[1] else results[0]


def _apart(values: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """Values with octave maps replaced by the places of their halves in a row; and that row."""
    places: list[Any] = []
    row: list[Any] = []
    for value in values:
        if not isinstance(value, OctTensor):
            places.append(len(row))
            row.append(value)
            continue
        at: list[int | None] = []
        for half in (value.high, value.low):
            at.append(None if half is None else len(row))
            row += [] if half is None else [half]
        facts = (value.spatial_shape, value.channel_layout, value.octave_dims, value.strict)
        places.append(_Place(at[0], at[1], *facts))
    return places, row


def _together(places: list[Any], row: tuple[Any, ...]) -> list[Any]:
    return [place.map(row) if isinstance(place, _Place) else row[place] for place in places]
