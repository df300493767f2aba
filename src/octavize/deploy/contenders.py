"""The networks of a benchmark: vanilla, octave at several α, and vanilla made cheaper in the plain ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from octavize.errors import InputError
from octavize.models import create_model
from octavize.profile import count_macs
from octavize.trace import example_shape

VANILLA = "vanilla"


@dataclass(frozen=True)
class Contender:
    """A network to time. `macs` are of one picture of `size` × `size` pixels."""

    name: str
    model: nn.Module
    size: int
    macs: int
    alpha: float = 0.0

    def shape(self, batch: int) -> tuple[int, ...]:
        """Of an input: (batch, C, size, size)."""
        return (batch, example_shape(self.model)[1], self.size, self.size)


def contenders_of(
    build: Callable[[float], nn.Module], alphas: Sequence[float], size: int, *, same_macs: bool = False
) -> list[Contender]:
    """A network at several α, the vanilla one first.

    Args:
        build: makes the network of an α.
        size: side of the pictures in pixels.
        same_macs: after each, the vanilla network on smaller pictures that cost as much arithmetic.
    """
    vanilla = build(0.0)
    found = [Contender(VANILLA, vanilla, size, _macs(vanilla, size))]
    for alpha in alphas:
        if alpha == 0:
            continue
        model = build(alpha)
        octave = Contender(f"α={alpha:g}", model, size, _macs(model, size), alpha)
        found.append(octave)
        if same_macs:
            smaller = size_for(vanilla, size, octave.macs)
            name = f"vanilla, {smaller} pixels"
            if all(c.name != name for c in found):
                found.append(Contender(name, vanilla, smaller, _macs(vanilla, smaller)))
    return found


def narrower(name: str, size: int, macs: int, num_classes: int = 1000) -> Contender | None:
    """The vanilla network at the width, in hundredths, of the nearest arithmetic; None if it has no width."""
    try:
        widths = [w / 100 for w in range(20, 101)]
        models: dict[float, int] = {}
        low, high = 0, len(widths) - 1
        while low < high:
            middle = (low + high) // 2
            models[middle] = _macs(create_model(name, 0, width=widths[middle], num_classes=num_classes), size)
            low, high = (middle + 1, high) if models[middle] < macs else (low, middle)
    except InputError:
        return None
    model = create_model(name, 0, width=widths[low], num_classes=num_classes)
    return Contender(f"vanilla, width {widths[low]:g}", model, size, _macs(model, size))


def size_for(model: nn.Module, size: int, macs: int) -> int:
    """The side of the pictures on which a network costs nearest to `macs`."""
    whole = _macs(model, size)
    guess = round(size * (macs / whole) ** 0.5)
    near = range(max(guess - size // 28, 1), min(guess + size // 28, size) + 1)
    return min(near, key=lambda side: abs(_macs(model, side) - macs))


def _macs(model: nn.Module, size: int) -> int:
    return count_macs(model, (1, example_shape(model)[1], size, size))
