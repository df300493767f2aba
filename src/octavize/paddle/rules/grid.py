"""Rules for a map whose channels are viewed as a grid: to shuffle channels, or to add up paths.

All of them are exact, like those of `channels.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from math import prod
from operator import add
from typing import Any, ClassVar

from paddle import Tensor, concat, reshape

from octavize.paddle.dispatch import RULES, Octave, Rule, apply_rule, dense, oct_rule, register
from octavize.paddle.functions import Function
from octavize.paddle.rules.elementwise import combine, is_tensor, pointwise
from octavize.paddle.sizes import size_of
from octavize.paddle.tensor import OctTensor
from octavize.split import common_layout


class ChannelGrid(Octave):
    """A map whose channels are viewed as a grid: it stands for a tensor (N, rows, columns, *size).

    Networks make one for a few lines of their code: to shuffle channels (reshape, transpose, reshape), or to
    add up paths (stack, multiply, sum). Other functions get the dense tensor, with the usual warning.

    Args:
        map: (N, rows · columns, *size), row by row.
    """

    rules: ClassVar[dict[str, Rule]] = {}

    def __init__(self, map: OctTensor, rows: int, columns: int) -> None:
        self.map, self.rows, self.columns = map, rows, columns
        self.strict = map.strict

    @property
    def shape(self) -> list[int]:
        n, _, *size = self.map.shape
        return [n, self.rows, self.columns, *size]

    @property
    def ndim(self) -> int:
        return self.map.ndim + 1

    def dim(self) -> int:
        return self.ndim

    def to_dense(self) -> Tensor:
        return self.as_grid(self.map.to_dense())

    def as_grid(self, x: Tensor) -> Tensor:
        """A plain (N, rows · columns, …) with its channels laid out as in this grid."""
        return reshape(x, [-1, self.rows, self.columns, *map(dense, size_of(x))])

    def transposed(self) -> ChannelGrid:
        """Rows become columns."""
        turned = [row * self.columns + column for column in range(self.columns) for row in range(self.rows)]
        map = self.map.channels(turned)
        if not isinstance(map, OctTensor):
            map = OctTensor.all_high(map, octave_dims=self.map.octave_dims)
        return ChannelGrid(map, self.columns, self.rows)

    def row(self, i: int) -> Any:
        """Path i: an OctTensor (N, columns, *size), or a plain tensor if none of its channels is low."""
        return self.map.channels(range(i * self.columns, (i + 1) * self.columns))


grid_rule = partial(register, ChannelGrid.rules)
"""`oct_rule` for a ChannelGrid."""


@oct_rule("reshape", "view")
def reshape_map(func: Function, x: OctTensor, *shape: Any, **kwargs: Any) -> Any:
    """Channels laid out in a grid, (N, a·b, …) to (N, a, b, …). Exact.

    (N, everything) leads to a classifier, which reads the dense map, like `flatten`.
    """
    wanted = _wanted_shape(x, shape, kwargs)
    if wanted == x.shape:
        return x
    if wanted is not None and len(wanted) == 2:
        return func(x.to_dense(), wanted if wanted[0] >= 0 else shape[0] if shape else kwargs["shape"])
    if wanted is None or len(wanted) != x.ndim + 1 or wanted[:1] + wanted[3:] != [x.shape[0], *x.shape[2:]]:
        return NotImplemented
    return ChannelGrid(x, wanted[1], wanted[2])


@grid_rule("reshape", "view")
def reshape_grid(func: Function, x: ChannelGrid, *shape: Any, **kwargs: Any) -> Any:
    """The grid back in one axis of channels, row by row. Exact."""
    return x.map if _wanted_shape(x, shape, kwargs) == x.map.shape else NotImplemented


@grid_rule("flatten")
def flatten_grid(func: Function, x: ChannelGrid, start_axis: int = 0, stop_axis: int = -1) -> Any:
    """The same. Exact."""
    return x.map if (start_axis % x.ndim, stop_axis % x.ndim) == (1, 2) else NotImplemented


def _wanted_shape(x: Any, shape: Sequence[Any], kwargs: dict[str, Any]) -> list[int] | None:
    """The shape that the arguments of `reshape` request, with 0 and -1 filled in; None if it is not known."""
    if "shape" in kwargs:
        shape = kwargs["shape"]
    elif len(shape) == 1 or (shape and isinstance(shape[0], (list, tuple))):
        shape = shape[0]
    if is_tensor(shape) or isinstance(shape, str) or not isinstance(shape, Sequence):
        return None
    have = x.shape
    if len(shape) > 0 and is_tensor(shape[0]) and have[0] == -1:  # the batch, in a program: it stays
        shape = [-1, *shape[1:]]
    if any(is_tensor(n) for n in shape):
        return None
    wanted = [have[i] if n == 0 and i < len(have) else n for i, n in enumerate(shape)]
    if have[0] == -1:  # a batch of any size, in a program that is being built
        inner, rest = prod(have[1:]), [n for n in wanted[1:] if n != -1]
        if wanted[0] != -1 or any(n == -1 for n in wanted[1:]):
            return None
        return wanted if prod(rest) == inner else None
    if -1 in wanted:
        wanted[wanted.index(-1)] = prod(have) // max(prod(n for n in wanted if n != -1), 1)
    return wanted if prod(wanted) == prod(have) else None


@grid_rule("transpose")
def transpose(func: Function, x: ChannelGrid, *perm: Any, **kwargs: Any) -> Any:
    """Rows become columns: the shuffle. Exact."""
    order = kwargs.get("perm", perm[0] if perm and isinstance(perm[0], (list, tuple)) else perm)
    if len(order) == 2 and x.ndim > 2:  # two axes that change places
        return x.transposed() if {axis % x.ndim for axis in order} == {1, 2} else NotImplemented
    turned = [0, 2, 1, *range(3, x.ndim)]
    return x.transposed() if [axis % x.ndim for axis in order] == turned else NotImplemented


@oct_rule("stack")
def stack(func: Function, tensors: Sequence[Any], axis: int = 0, name: Any = None) -> Any:
    """Maps as the rows of a grid: paths, to be weighted and added up. Exact."""
    first = tensors[0]
    if axis % (first.ndim + 1) != 1 or any(list(x.shape) != list(first.shape) for x in tensors):
        return NotImplemented
    joined = apply_rule("concat", concat, (list(tensors), 1), {})
    return (
        ChannelGrid(joined, len(tensors), first.shape[1]) if isinstance(joined, OctTensor) else NotImplemented
    )


@grid_rule("sum")
def sum_rows(func: Function, x: ChannelGrid, axis: Any = None, *args: Any, **kwargs: Any) -> Any:
    """The paths added up: (N, columns, *size). Exact; a channel that is low in all of them stays low."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis or ())
    if args or kwargs or [a % x.ndim for a in axes] != [1]:
        return NotImplemented
    paths = [x.row(i) for i in range(x.rows)]
    octave = [path for path in paths if isinstance(path, OctTensor)]
    if octave and (
        len(octave) < len(paths) or not any(reduce(common_layout, [x.channel_layout for x in octave])[1::2])
    ):
        return NotImplemented  # no channel is low in all of them
    return reduce(add, paths)


@grid_rule("mean")
def mean_of_rows(func: Function, x: ChannelGrid, axis: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Their mean. Exact."""
    total = sum_rows(func, x, axis, *args, **kwargs)
    return total if total is NotImplemented else total / x.rows


@grid_rule("unbind", "unstack")
def unbind(func: Function, x: ChannelGrid, axis: int = 0) -> Any:
    """The paths one by one. Exact."""
    return [x.row(i) for i in range(x.rows)] if axis % x.ndim == 1 else NotImplemented


@grid_rule("getitem")
def get_row(func: Function, x: ChannelGrid, position: Any) -> Any:
    """`x[:, i]`: one of the paths. Exact."""
    if not isinstance(position, tuple) or len(position) != 2 or position[0] != slice(None):
        return NotImplemented
    return x.row(range(x.rows)[position[1]]) if isinstance(position[1], int) else NotImplemented


def _by_map(rule: Rule) -> Rule:
    """Functions of one value at a time, and gates (N, rows, columns, 1, 1), act on the map. Exact."""

    def by_map(func: Function, *values: Any, **kwargs: Any) -> Any:
        x = next(value for value in values if isinstance(value, ChannelGrid))
        flat = [_flat(value, x) for value in values]
        if any(value is NotImplemented for value in flat):
            return NotImplemented
        y = rule(func, *flat, **kwargs)
        return ChannelGrid(y, x.rows, x.columns) if isinstance(y, OctTensor) else NotImplemented

    return by_map


for _name, _rule in RULES.items():
    if _rule in (pointwise, combine):
        ChannelGrid.rules[_name] = _by_map(_rule)


def _flat(value: Any, x: ChannelGrid) -> Any:
    """An operand of the grid `x` as an operand of its map."""
    if isinstance(value, ChannelGrid):
        return value.map if (value.rows, value.columns) == (x.rows, x.columns) else NotImplemented
    if not is_tensor(value) or value.ndim == 0:
        return value
    shape = [1] * (x.ndim - value.ndim) + list(value.shape)
    if len(shape) > x.ndim:
        return NotImplemented
    whole = value.reshape(shape).expand([shape[0], x.rows, x.columns, *shape[3:]])
    return reshape(whole, [shape[0], x.rows * x.columns, *shape[3:]])


@oct_rule("channel_shuffle")
def channel_shuffle(
    func: Function, x: OctTensor, groups: int, data_format: str = "NCHW", name: Any = None
) -> Any:
    """The channels viewed as a grid of `groups` rows and read by columns. Exact."""
    if x.shape[1] % groups or data_format != "NCHW":
        return NotImplemented
    return ChannelGrid(x, groups, x.shape[1] // groups).transposed().map
