"""Rules for a map whose channels are viewed as a grid: to shuffle channels, or to add up paths.

All of them are exact, like those of `channels.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from typing import Any, ClassVar

import torch
from torch import Tensor

from octavize.nn.dispatch import Octave, Rule, apply_rule, functions_named, oct_rule, on_dense, register
from octavize.nn.recompute import version_of
from octavize.nn.rules.elementwise import Function, combine, pointwise
from octavize.nn.tensor import OctTensor, changed_under
from octavize.split import common_layout


class ChannelGrid(Octave):
    """A map whose channels are viewed as a grid: it stands for a tensor (N, rows, columns, *size).

    Networks make one for a few lines of their code: to shuffle channels (view, transpose, view), or to add
    up paths (stack, multiply, sum). Other functions get the dense tensor, with the usual warning.

    Args:
        map: (N, rows · columns, *size), row by row.
    """

    rules: ClassVar[dict[Any, Rule]] = {}

    def __init__(self, map: OctTensor, rows: int, columns: int) -> None:
        self._map, self.rows, self.columns = map, rows, columns
        self.strict = map.strict
        self.origin: OctTensor | None = None  # of whose channels this is a copy in another order
        self.copied: Any = None  # the state of the origin then

    @property
    def map(self) -> OctTensor:
        """The map.

        Raises:
            ChangeRefused: it is a copy of one that has changed since; torch's would be a view of that.
        """
        if self.origin is not None and self.copied != _state(self.origin):
            raise changed_under("a view of it with its channels in another order")
        return self._map

    @property
    def shape(self) -> torch.Size:
        n, _, *size = self.map.shape
        return torch.Size((n, self.rows, self.columns, *size))

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.map.dim() + 1

    def to_dense(self) -> Tensor:
        return self.map.to_dense().unflatten(1, (self.rows, self.columns))

    def transposed(self) -> ChannelGrid:
        """Rows become columns."""
        turned = [row * self.columns + column for column in range(self.columns) for row in range(self.rows)]
        map = self.map.channels(turned, copy=True)  # for what torch copies, once it is reshaped
        if not isinstance(map, OctTensor):
            map = OctTensor.all_high(map, octave_dims=self.map.octave_dims)
        turned_grid = ChannelGrid(map, self.columns, self.rows)
        turned_grid.origin, turned_grid.copied = self.map, _state(self.map)
        return turned_grid

    def row(self, i: int) -> Any:
        """Path i: an OctTensor (N, columns, *size), or a plain tensor if none of its channels is low."""
        if self.origin is not None:  # torch's row would be a view of it
            self.origin.watch((self.map.high, self.map.low))
        return self.map.channels(range(i * self.columns, (i + 1) * self.columns))


def _state(x: OctTensor) -> Any:
    """What changes with each change of a map in place."""
    if torch.compiler.is_compiling():
        return None
    return [(id(half), version_of(half)) for half in (x.high, x.low)]


grid_rule = partial(register, ChannelGrid.rules)
"""`oct_rule` for a ChannelGrid."""


@oct_rule(*functions_named("view reshape"))
def reshape_map(func: Function, x: OctTensor, *shape: Any) -> Any:
    """Channels laid out in a grid, (N, a·b, …) to (N, a, b, …). Exact.

    (N, everything) leads to a classifier, which reads the dense map, like `flatten`.
    """
    wanted = _wanted_shape(x, shape)
    if wanted == list(x.shape):
        return x
    if wanted is not None and len(wanted) == 2:
        return on_dense(torch.reshape, (x, wanted), {})  # of our memory, whose layout nobody else knows
    if wanted is None or len(wanted) != x.dim() + 1 or wanted[:1] + wanted[3:] != [x.shape[0], *x.shape[2:]]:
        return NotImplemented
    return ChannelGrid(x, int(wanted[1]), int(wanted[2]))  # -1 is a symbol, but channels are numbers


@oct_rule(*functions_named("unflatten"))
def unflatten_map(func: Function, x: OctTensor, dim: int, sizes: Sequence[int]) -> Any:
    """The same. Exact."""
    dim %= x.dim()
    return reshape_map(torch.reshape, x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


@grid_rule(*functions_named("view reshape"))
def reshape_grid(func: Function, x: ChannelGrid, *shape: Any) -> Any:
    """The grid back in one axis of channels, row by row. Exact."""
    wanted = _wanted_shape(x, shape)
    return x.map if wanted == list(x.map.shape) else NotImplemented


@grid_rule(*functions_named("flatten"))
def flatten_grid(func: Function, x: ChannelGrid, start_dim: int = 0, end_dim: int = -1) -> Any:
    """The same. Exact."""
    return x.map if (start_dim % x.dim(), end_dim % x.dim()) == (1, 2) else NotImplemented


def _wanted_shape(x: Any, shape: Sequence[Any]) -> list[int] | None:
    """The shape that the arguments of `view` or `reshape` request, with -1 filled in.

    `torch.Size.numel` would make numbers of symbols, and an exported network would take one batch only.
    """
    if len(shape) == 1 and isinstance(shape[0], Sequence):
        shape = tuple(shape[0])
    if not shape or any(isinstance(n, torch.dtype) for n in shape):
        return None
    wanted = list(shape)
    if -1 in wanted:
        known = math.prod([n for n in wanted if n != -1])
        wanted[wanted.index(-1)] = math.prod(x.shape) // max(known, 1)
    return wanted if math.prod(wanted) == math.prod(x.shape) else None


@grid_rule(*functions_named("permute"))
def permute(func: Function, x: ChannelGrid, *dims: Any) -> Any:
    """Rows become columns: the shuffle. Exact."""
    order = [d % x.dim() for d in (dims[0] if isinstance(dims[0], Sequence) else dims)]
    return x.transposed() if order == [0, 2, 1, *range(3, x.dim())] else NotImplemented


@grid_rule(*functions_named("transpose swapaxes swapdims"))
def transpose(func: Function, x: ChannelGrid, dim0: int, dim1: int) -> Any:
    """The same. Exact."""
    return x.transposed() if {dim0 % x.dim(), dim1 % x.dim()} == {1, 2} else NotImplemented


@oct_rule(torch.stack)
def stack(func: Function, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Maps as the rows of a grid: paths, to be weighted and added up. Exact."""
    if dim % (tensors[0].dim() + 1) != 1 or any(x.shape != tensors[0].shape for x in tensors):
        return NotImplemented
    joined = apply_rule(torch.cat, (list(tensors), 1), {})
    if not isinstance(joined, OctTensor):
        return NotImplemented
    return ChannelGrid(joined, len(tensors), tensors[0].shape[1])


@grid_rule(*functions_named("sum mean"))
def sum_rows(func: Function, x: ChannelGrid, dim: Any = None, keepdim: bool = False) -> Any:
    """The paths added up: (N, columns, *size). Exact; a channel that is low in all of them stays low."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if keepdim or [d % x.dim() for d in dims] != [1]:
        return NotImplemented
    paths = [x.row(i) for i in range(x.rows)]
    octave = [path for path in paths if isinstance(path, OctTensor)]
    if octave and (
        len(octave) < len(paths) or not any(reduce(common_layout, [x.channel_layout for x in octave])[1::2])
    ):
        return NotImplemented  # no channel is low in all of them
    total = reduce(add, paths)
    return total if func in functions_named("sum") else total / x.rows


@grid_rule(*functions_named("unbind"))
def unbind(func: Function, x: ChannelGrid, dim: int = 0) -> Any:
    """The paths one by one. Exact."""
    return tuple(x.row(i) for i in range(x.rows)) if dim % x.dim() == 1 else NotImplemented


@grid_rule(torch.Tensor.__getitem__)
def get_row(func: Function, x: ChannelGrid, position: Any) -> Any:
    """`x[:, i]`: one of the paths. Exact."""
    if not isinstance(position, tuple) or len(position) != 2 or position[0] != slice(None):
        return NotImplemented
    return x.row(range(x.rows)[position[1]]) if isinstance(position[1], int) else NotImplemented


@grid_rule(*(f for f, rule in OctTensor.rules.items() if rule in (pointwise, combine)))
def by_map(func: Function, *values: Any, **kwargs: Any) -> Any:
    """Functions of one value at a time, and gates (N, rows, columns, 1, 1), act on the map. Exact."""
    x = next(value for value in values if isinstance(value, ChannelGrid))
    flat = [_flat(value, x) for value in values]
    if any(value is NotImplemented for value in flat):
        return NotImplemented
    y = apply_rule(func, tuple(flat), kwargs)
    if not isinstance(y, OctTensor):  # an operand was dense
        return y.unflatten(1, (x.rows, x.columns))
    return ChannelGrid(y, x.rows, x.columns)


def _flat(value: Any, x: ChannelGrid) -> Any:
    """An operand of the grid `x` as an operand of its map."""
    if isinstance(value, ChannelGrid):
        return value.map if (value.rows, value.columns) == (x.rows, x.columns) else NotImplemented
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    shape = (1,) * (x.dim() - value.dim()) + tuple(value.shape)
    if len(shape) > x.dim():
        return NotImplemented
    return value.expand(shape[0], x.rows, x.columns, *shape[3:]).flatten(1, 2)


@oct_rule(*functions_named("channel_shuffle native_channel_shuffle"))
def channel_shuffle(func: Function, x: OctTensor, groups: int) -> Any:
    """The channels viewed as a grid of `groups` rows and read by columns. Exact."""
    if x.shape[1] % groups:
        return NotImplemented
    return ChannelGrid(x, groups, x.shape[1] // groups).transpose(1, 2).flatten(1, 2)
