"""The networks of a benchmark: vanilla, octave at several α, and vanilla made cheaper in the plain ways."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import nn

from octavize.bench.profile import count_macs
from octavize.convert.inputs import Inputs, Shape
from octavize.convert.trace import TraceError, image_shape
from octavize.errors import InputError
from octavize.report.naming import alpha_text
from octavize.zoo.models import create_model

VANILLA = "vanilla"


@dataclass(frozen=True)
class Contender:
    """A network to time. `image` is its input's (C, H, W), `macs` are of one of them.

    `example` is what a network of several inputs, or of whole numbers, is called with.
    """

    name: str
    model: nn.Module
    image: tuple[int, ...]
    macs: int
    alpha: float = 0.0
    exchange: str | None = None
    example: Inputs | None = None

    def given(self, batch: int) -> Inputs | Shape:
        """The example with so many images, or the shape of the input."""
        if self.example is None:
            return self.shape(batch)
        return self.example.rows(torch.arange(batch) % self.example.batch)

    def shape(self, batch: int) -> tuple[int, ...]:
        """Of an input: (batch, C, H, W)."""
        return (batch, *self.image)

    @property
    def size(self) -> int:
        """Side of the image in pixels."""
        return self.image[-1]


def contenders_of(
    build: Callable[..., nn.Module],
    alphas: Sequence[float],
    size: int,
    *,
    exchanges: Sequence[str] = (),
    same_macs: bool = False,
) -> list[Contender]:
    """A network at several α, the vanilla one first.

    Args:
        build: makes the network of an α, and with the keyword `exchange` of an exchange.
        size: side of the images in pixels.
        exchanges: where the frequencies meet, see `octavize.plan`: each α with each of them. None given is
            the network's own.
        same_macs: after each, the vanilla network on smaller images that cost as much arithmetic.
    """
    vanilla = build(0.0)
    found = [_contender(VANILLA, vanilla, size)]
    for alpha, exchange in product(dict.fromkeys(filter(None, alphas)), dict.fromkeys(exchanges) or (None,)):
        told = {} if exchange is None else {"exchange": exchange}
        name = ", ".join([f"α={alpha_text(alpha)}", *told.values()])
        octave = _contender(name, build(alpha, **told), size, alpha, exchange)
        found.append(octave)
        if same_macs:
            try:
                smaller = size_for(vanilla, size, octave.macs)
            except TraceError as error:
                raise InputError(f"same_macs: {error}; or leave out --same-macs") from error
            name = f"vanilla, {smaller} pixels"
            if all(c.name != name for c in found):
                found.append(_contender(name, vanilla, smaller))
    return found


def narrower(name: str, size: int, macs: int) -> Contender | None:
    """The vanilla network at the width, in hundredths, of the nearest arithmetic; None if it has no width."""

    def at(width: float) -> nn.Module:
        return create_model(name, 0, width=width)

    try:
        width = width_for(at, size, macs)
    except InputError:
        return None
    return _contender(f"vanilla, width {width:g}", at(width), size)


def width_for(at: Callable[[float], nn.Module], size: int, macs: int, most: float = 1.0) -> float:
    """The width, in hundredths up to `most`, at which a network costs nearest to `macs`."""
    widths = [hundredths / 100 for hundredths in range(1, round(100 * most) + 1)]
    found = bisect_left(widths, macs, hi=len(widths) - 1, key=lambda width: _macs(at(width), size))
    near = widths[max(found - 1, 0) : found + 1]
    return min(near, key=lambda width: abs(_macs(at(width), size) - macs))


def with_narrower(name: str, contenders: Sequence[Contender], size: int) -> list[Contender]:
    """The contenders, and for each octave network the vanilla one of the width with as much arithmetic."""
    widths = (narrower(name, size, c.macs) for c in contenders if c.alpha > 0)
    return [*contenders, *{c.name: c for c in widths if c is not None}.values()]


def size_for(model: nn.Module, size: int, macs: int) -> int:
    """The side of the images on which a network costs nearest to `macs`."""
    whole = _macs(model, size)
    guess = round(size * (macs / whole) ** 0.5)
    near = range(max(guess - size // 28, 1), min(guess + size // 28, size) + 1)
    return min(near, key=lambda side: abs(_macs(model, side) - macs))


def _contender(
    name: str, model: nn.Module, size: int, alpha: float = 0.0, exchange: str | None = None
) -> Contender:
    return Contender(name, model, image_shape(model, size)[1:], _macs(model, size), alpha, exchange)


def _macs(model: nn.Module, size: int) -> int:
    return count_macs(model, image_shape(model, size))
