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

from octavize.errors import InputError

Arrays = dict[str, np.ndarray]
PATHS = {"h": ("h2h", "l2h"), "l": ("h2l", "l2l")}
"""Of each half of the output those from the high and from the low input."""
EPSILON = 1e-5
"""What our batch norms add to the variance, and what most of theirs do."""


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
    classifier: str = "fc"
    transposed_classifier: bool = False
    epsilon: float = EPSILON
    input: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """`mean` and `std` of the images, where they are known."""


class Pieces:
    """The arrays of a file, and what is made of them.

    Attributes:
        left: names of arrays that were not taken.
        made: arrays under our names.
        low: how many low outputs each convolution has, by our names; depthwise ones too.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], layout: Layout) -> None:
        self.arrays, self.layout, self.left = arrays, layout, set(arrays)
        self.made: Arrays = {}
        self.low: dict[str, int] = {}

    def has(self, beginning: str) -> bool:
        """Whether an array's name begins so."""
        return any(key.startswith(beginning) for key in self.arrays)

    def take(self, key: str, dimensions: int) -> np.ndarray | None:
        """An array; None if there is none of this name."""
        self.left.discard(key)
        array = self.arrays.get(key)
        if array is not None and array.ndim != dimensions:
            raise self.another(f"{key} has the shape {array.shape}, not {dimensions} dimensions")
        return array

    def another(self, why: str) -> InputError:
        """What to raise where the file is of a network that is not read."""
        return InputError(
            f"checkpoint is like one of {self.layout.name}, but {why}: it is of a network that is not read, "
            "see `octavize import --help`"
        )

    # ---- layers ------------------------------------------------------------------------------------------

    def unit(self, conv: str, norm: str, their_conv: str, their_norm: str) -> None:
        """An octave convolution and the batch norm after it, which takes in its biases."""
        self.norm(norm, their_norm, shift=self.conv(conv, their_conv))

    def plain_unit(self, conv: str, norm: str, their_conv: str, their_norm: str) -> None:
        """A convolution that is not divided, such as a stem, and the batch norm after it."""
        weight = self.take(f"{their_conv}.weight", 4)
        self.low[conv] = 0
        if weight is not None:
            self.made[f"{conv}.weight"] = weight
        self.plain_norm(norm, their_norm, shift=self.take(f"{their_conv}.bias", 1))

    def conv(self, conv: str, theirs: str, order: np.ndarray | None = None) -> np.ndarray | None:
        """An octave convolution; its biases are returned, if it has any.

        Args:
            order: of our input channels, in theirs.
        """
        rows: dict[str, np.ndarray] = {}
        biases: list[np.ndarray] = []
        for half, paths in PATHS.items():
            keys = [self.layout.weight.format(unit=theirs, path=path) for path in paths]
            weights = [w for key in keys if (w := self.take(key, 4)) is not None]
            given = [
                b for key in keys if (b := self.take(f"{key.removesuffix('weight')}bias", 1)) is not None
            ]
            if weights:
                rows[half] = self.joined(weights, 1, theirs)
                biases += [np.sum(given, axis=0)] if given else []
        if not rows:
            return None
        self.low[conv] = len(rows["l"]) if "l" in rows else 0
        weight = self.joined([*rows.values()], 0, theirs)
        self.made[f"{conv}.weight"] = weight if order is None else self._reordered(weight, 1, order, theirs)
        return np.concatenate(biases) if biases else None

    def norm(
        self, norm: str, theirs: str, order: np.ndarray | None = None, shift: np.ndarray | None = None
    ) -> None:
        """An octave batch norm.

        Args:
            order: of our channels, in theirs.
            shift: what it reads lacks this constant of each channel.
        """
        halves = [self._norm(self.layout.norm, theirs, half) for half in PATHS]
        found = {leaf: self.joined([h[leaf] for h in halves if leaf in h], 0, theirs) for leaf in halves[0]}
        if order is not None:
            found = {leaf: self._reordered(array, 0, order, theirs) for leaf, array in found.items()}
        self._put_norm(norm, theirs, found, shift)

    def plain_norm(self, norm: str, theirs: str, shift: np.ndarray | None = None) -> None:
        """A batch norm that is not divided."""
        self._put_norm(norm, theirs, self._norm("{unit}.{leaf}", theirs, ""), shift)

    def norm_without_scale(self, norm: str, theirs: str) -> None:
        """An octave batch norm of which only the statistics count; MXNet takes 1 for its scale."""
        self.norm(norm, theirs)
        bias = self.made.pop(f"{norm}.bias", None)
        self.made.pop(f"{norm}.weight", None)
        if bias is not None and bias.any():
            raise self.another(f"{theirs} has a beta, and in that code it has none")

    def linear(self, ours: str, theirs: Sequence[str], axis: int) -> None:
        """A 1 × 1 convolution with biases, whose outputs (axis 0) or inputs are several layers of theirs."""
        for leaf, dimensions, along in (("weight", 4, axis), ("bias", 1, 0)):
            parts = [p for name in theirs if (p := self.take(f"{name}.{leaf}", dimensions)) is not None]
            if parts:
                self.made[f"{ours}.{leaf}"] = self.joined(parts, along, theirs[0])

    # ---- arrays ------------------------------------------------------------------------------------------

    def joined(self, parts: Sequence[np.ndarray], axis: int, where: str) -> np.ndarray:
        """Arrays one after another along an axis."""
        if len({tuple(np.delete(part.shape, axis)) for part in parts}) != 1:
            raise self.another(f"the parts of {where} do not fit each other")
        return np.concatenate(parts, axis=axis)

    def _norm(self, pattern: str, theirs: str, half: str) -> Arrays:
        found = {
            ours: self.take(pattern.format(unit=theirs, half=half, leaf=leaf), 1)
            for ours, leaf in self.layout.leaves.items()
        }
        return {leaf: array for leaf, array in found.items() if array is not None}

    def _put_norm(self, norm: str, theirs: str, found: Arrays, shift: np.ndarray | None) -> None:
        if shift is not None and "running_mean" in found:
            if shift.shape != found["running_mean"].shape:
                raise self.another(f"{theirs} does not fit the biases before it")
            found["running_mean"] = found["running_mean"] - shift
        if self.layout.epsilon != EPSILON and "running_var" in found:
            found["running_var"] = found["running_var"] + np.float32(self.layout.epsilon - EPSILON)
        self.made |= {f"{norm}.{leaf}": array for leaf, array in found.items()}

    def _reordered(self, array: np.ndarray, axis: int, order: np.ndarray, where: str) -> np.ndarray:
        if array.shape[axis] != len(order):
            raise self.another(f"{where} reads {array.shape[axis]} channels, not {len(order)}")
        return np.take(array, order, axis=axis)
