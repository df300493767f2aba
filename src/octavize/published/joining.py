"""The layers of published octave networks joined into ours.

They keep the four paths of a layer apart, `h2h`, `h2l`, `l2h` and `l2l`, each with a weight, and the halves
of a batch norm. Ours has one weight, whose rows are the outputs, high before low, and whose columns are the
inputs; and one batch norm. Where each path has a bias, an output gets two. A batch norm follows, and takes
them in: with mean μ, normalizing y + b is normalizing y with mean μ − b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]
PATHS = {"h": ("h2h", "l2h"), "l": ("h2l", "l2l")}
"""Of each half of the output those from the high and from the low input."""


@dataclass(frozen=True)
class Layout:
    """How somebody names the arrays of an octave network.

    `weight` and `norm` are patterns of names: {unit} is the layer, {path} one of the four, {half} `h` or `l`,
    {leaf} what `leaves` says for `weight`, `bias`, `running_mean` and `running_var`.
    """

    name: str
    weight: str
    norm: str
    leaves: Mapping[str, str]
    transposed_classifier: bool = False
    input: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """`mean` and `std` of the images, where they are known."""


@dataclass(frozen=True)
class Unit:
    """A convolution and the batch norm after it: what ours are called, and what theirs.

    Those of a `plain` unit, a stem, are not divided: `weight` and `norm` are patterns of their names.
    """

    conv: str
    norm: str
    their_conv: str
    their_norm: str
    plain: bool = False


@dataclass
class Joined:
    """Arrays under our names, and how many low outputs each convolution has, by name; depthwise ones too."""

    arrays: Arrays = field(default_factory=dict)
    low: dict[str, int] = field(default_factory=dict)


class Pieces:
    """The arrays of a file; it knows those that were not taken."""

    def __init__(self, arrays: Mapping[str, np.ndarray], layout: Layout) -> None:
        self.arrays, self.layout, self.left = arrays, layout, set(arrays)

    def take(self, key: str) -> np.ndarray | None:
        """An array; None if there is none of this name."""
        self.left.discard(key)
        return self.arrays.get(key)

    def join(self, unit: Unit, into: Joined, extra_variance: float = 0.0) -> None:
        """Take the arrays of a unit.

        Args:
            extra_variance: by how much their batch norm adds more to the variance than ours (ε).
        """
        halves = [(None, *self._plain(unit))] if unit.plain else [
            (half, *self._paths(unit, paths)) for half, paths in PATHS.items()
        ]  # fmt: skip
        made: dict[str, list[np.ndarray]] = {}
        for half, weight, bias in halves:
            if weight is None:
                continue
            made.setdefault(f"{unit.conv}.weight", []).append(weight)
            for leaf, array in self._norm(unit, half).items():
                moved = array - bias if leaf == "running_mean" and bias is not None else array
                moved = moved + array.dtype.type(extra_variance) if leaf == "running_var" else moved
                made.setdefault(f"{unit.norm}.{leaf}", []).append(moved)
        into.arrays |= {key: np.concatenate(parts) for key, parts in made.items()}
        low = None if unit.plain else halves[1][1]
        into.low[unit.conv] = 0 if low is None else len(low)

    def _plain(self, unit: Unit) -> tuple[np.ndarray | None, np.ndarray | None]:
        return self.take(f"{unit.their_conv}.weight"), self.take(f"{unit.their_conv}.bias")

    def _paths(self, unit: Unit, paths: tuple[str, str]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The weight and the bias of the high or of the low outputs; None without such outputs."""
        keys = [self.layout.weight.format(unit=unit.their_conv, path=path) for path in paths]
        weights = [w for key in keys if (w := self.take(key)) is not None]
        biases = [b for key in keys if (b := self.take(f"{key.removesuffix('weight')}bias")) is not None]
        weight = np.concatenate(weights, axis=1) if weights else None
        return weight, np.sum(biases, axis=0) if biases else None

    def _norm(self, unit: Unit, half: str | None) -> Arrays:
        pattern = "{unit}.{leaf}" if half is None else self.layout.norm
        found = {
            ours: self.take(pattern.format(unit=unit.their_norm, half=half, leaf=theirs))
            for ours, theirs in self.layout.leaves.items()
        }
        return {leaf: array for leaf, array in found.items() if array is not None}
