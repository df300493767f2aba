"""Rules that choose, join or rearrange channels: slices, concatenation, shuffles, sums of paths.

All of them are exact: an OctTensor knows which of its channels are low (its runs), so a channel can go
anywhere and keep its frequency. A choice without low channels is a plain tensor, and whatever follows it is
vanilla.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, ClassVar

import torch
from torch import Tensor

from octavize.nn.dispatch import Octave, Rule, apply_rule, oct_rule
from octavize.nn.rules.elementwise import Function, combine, named, pointwise
from octavize.nn.tensor import OctTensor
from octavize.split import common_runs, join_runs

# ---- joining and slicing --------------------------------------------------------------------------------


@oct_rule(torch.cat, torch.concat, torch.concatenate)
def concatenate(func: Function, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Concatenation over channels: high with high, low with low. Exact: the order of channels is tracked.

    A dense map counts as all high. Maps of equal split are also concatenated over the batch.
    """
    first = next(x for x in tensors if isinstance(x, OctTensor))
    if any(x.dim() != first.dim() for x in tensors):
        return NotImplemented
    maps = [
        x if isinstance(x, OctTensor) else OctTensor.all_high(x, octave_dims=first.octave_dims)
        for x in tensors
    ]
    if any(x.octave_dims != first.octave_dims for x in maps):
        return NotImplemented
    dim %= first.dim()
    if dim == 1:
        runs = join_runs([x.runs for x in maps])
    elif dim == 0 and all(x.runs == first.runs for x in maps):
        runs = first.runs
    else:
        return NotImplemented
    high, low = func([x.high for x in maps], dim), func([x.low for x in maps], dim)
    strict = any(x.strict for x in maps)
    return OctTensor(high, low, octave_dims=first.octave_dims, strict=strict, runs=runs)


@oct_rule(torch.Tensor.__getitem__)
def get_item(func: Function, x: OctTensor, position: Any) -> Any:
    """`x[a:b]` and `x[a:b, c:d]`: part of the batch and of the channels, by slices or a list of channels.

    An index into space, or one that drops an axis, falls back to the dense map.
    """
    batch, channels, *space = (
        (*position, *[slice(None)] * 2) if isinstance(position, tuple) else (position, ...)
    )
    if not isinstance(batch, slice) or (channels is Ellipsis and isinstance(position, tuple)):
        return NotImplemented
    if not all(s is Ellipsis or (isinstance(s, slice) and s == slice(None)) for s in space):
        return NotImplemented
    if batch != slice(None):
        x = x.like(func(x.high, batch), func(x.low, batch))
    if channels is Ellipsis:
        return x
    if isinstance(channels, slice):
        return x if channels == slice(None) else x.channels(range(x.shape[1])[channels])
    if isinstance(channels, list) and all(type(c) is int for c in channels):
        return x.channels([range(x.shape[1])[c] for c in channels])
    return NotImplemented


@oct_rule(*named("split split_with_sizes chunk tensor_split"))
def split(func: Function, x: OctTensor, sizes: Any, dim: int = 0) -> Any:
    """A map cut into several along the channels, or along the batch. Exact."""
    dim %= x.dim()
    if dim == 0:
        parts = zip(func(x.high, sizes), func(x.low, sizes), strict=True)
        return tuple(x.like(high, low) for high, low in parts)
    if dim != 1 or isinstance(sizes, Tensor):
        return NotImplemented
    total = x.shape[1]
    if func in named("tensor_split"):
        if isinstance(sizes, int):  # the first parts are the larger ones
            sizes = [i * (total // sizes) + min(i, total % sizes) for i in range(1, sizes)]
        ends = zip([None, *sizes], [*sizes, None], strict=True)
        return tuple(x.channels(range(total)[start:end]) for start, end in ends)
    if isinstance(sizes, int):
        step = -(-total // sizes) if func in named("chunk") else sizes
        sizes = [min(step, total - start) for start in range(0, total, step)]
    if sum(sizes) != total:
        return func(x.high, sizes, dim=1)  # torch's error, or its empty parts
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(x.channels(range(end - size, end)) for size, end in zip(sizes, ends, strict=True))


@oct_rule(*named("narrow"))
def narrow(func: Function, x: OctTensor, dim: int, start: Any, length: int) -> Any:
    """`length` channels, or images, from `start` on. Exact."""
    dim %= x.dim()
    if dim > 1 or isinstance(start, Tensor):
        return NotImplemented
    start %= x.shape[dim]
    if dim == 1:
        return x.channels(range(start, start + length))
    return x.like(func(x.high, 0, start, length), func(x.low, 0, start, length))


@oct_rule(*named("channel_shuffle native_channel_shuffle"))
def channel_shuffle(func: Function, x: OctTensor, groups: int) -> Any:
    """The channels seen as a grid of `groups` rows and read by columns. Exact."""
    if x.shape[1] % groups:
        return NotImplemented
    return ChannelGrid(x, groups, x.shape[1] // groups).transpose(1, 2).flatten(1, 2)


# ---- channels in a grid ---------------------------------------------------------------------------------


class ChannelGrid(Octave):
    """A map whose channels are seen as a grid: it stands for a tensor (N, rows, columns, *size).

    Networks make one between two lines of their code: to shuffle channels (view, transpose, view), or to add
    up paths (stack, multiply, sum). What it cannot do is done on the dense tensor, with the usual warning.

    Args:
        map: (N, rows · columns, *size), row by row.
    """

    rules: ClassVar[dict[Any, Rule]] = {}

    def __init__(self, map: OctTensor, rows: int, columns: int) -> None:
        self.map, self.rows, self.columns = map, rows, columns
        self.strict = map.strict

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
        map = self.map.channels(turned)
        if not isinstance(map, OctTensor):
            map = OctTensor.all_high(map, octave_dims=self.map.octave_dims)
        return ChannelGrid(map, self.columns, self.rows)

    def row(self, i: int) -> Any:
        """Path i: an OctTensor (N, columns, *size), or a plain tensor if none of its channels is low."""
        return self.map.channels(range(i * self.columns, (i + 1) * self.columns))


def grid_rule(*functions: Any) -> Any:
    """`oct_rule` for a ChannelGrid."""

    def register(rule: Rule) -> Rule:
        ChannelGrid.rules.update(dict.fromkeys(functions, rule))
        return rule

    return register


@oct_rule(*named("view reshape"))
def reshape_map(func: Function, x: OctTensor, *shape: Any) -> Any:
    """Channels laid out in a grid, (N, a·b, …) to (N, a, b, …). Exact.

    To (N, everything) is the way to a classifier, which like `flatten` reads the dense map.
    """
    wanted = _wanted_shape(x, shape)
    if wanted == list(x.shape):
        return x
    if wanted is not None and len(wanted) == 2:
        return func(x.to_dense(), *shape)
    if wanted is None or len(wanted) != x.dim() + 1 or wanted[:1] + wanted[3:] != [x.shape[0], *x.shape[2:]]:
        return NotImplemented
    return ChannelGrid(x, wanted[1], wanted[2])


@oct_rule(*named("unflatten"))
def unflatten_map(func: Function, x: OctTensor, dim: int, sizes: Sequence[int]) -> Any:
    """The same. Exact."""
    dim %= x.dim()
    return reshape_map(torch.reshape, x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


@grid_rule(*named("view reshape"))
def reshape_grid(func: Function, x: ChannelGrid, *shape: Any) -> Any:
    """The grid back in one axis of channels, row by row. Exact."""
    wanted = _wanted_shape(x, shape)
    return x.map if wanted == list(x.map.shape) else NotImplemented


@grid_rule(*named("flatten"))
def flatten_grid(func: Function, x: ChannelGrid, start_dim: int = 0, end_dim: int = -1) -> Any:
    """The same. Exact."""
    return x.map if (start_dim % x.dim(), end_dim % x.dim()) == (1, 2) else NotImplemented


def _wanted_shape(x: Any, shape: Sequence[Any]) -> list[int] | None:
    """The shape asked for by the arguments of `view` or `reshape`, with -1 filled in."""
    if len(shape) == 1 and isinstance(shape[0], Sequence):
        shape = tuple(shape[0])
    if not shape or any(isinstance(n, torch.dtype) for n in shape):
        return None
    wanted = list(shape)
    if -1 in wanted:
        known = torch.Size(n for n in wanted if n != -1).numel()
        wanted[wanted.index(-1)] = x.shape.numel() // max(known, 1)
    return wanted if torch.Size(wanted).numel() == x.shape.numel() else None


@grid_rule(*named("permute"))
def permute(func: Function, x: ChannelGrid, *dims: Any) -> Any:
    """Rows become columns: the shuffle. Exact."""
    order = [d % x.dim() for d in (dims[0] if isinstance(dims[0], Sequence) else dims)]
    return x.transposed() if order == [0, 2, 1, *range(3, x.dim())] else NotImplemented


@grid_rule(*named("transpose swapaxes swapdims"))
def transpose(func: Function, x: ChannelGrid, dim0: int, dim1: int) -> Any:
    """The same. Exact."""
    return x.transposed() if {dim0 % x.dim(), dim1 % x.dim()} == {1, 2} else NotImplemented


@oct_rule(torch.stack)
def stack(func: Function, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Maps as the rows of a grid: paths, to be weighted and added up. Exact."""
    if dim % (tensors[0].dim() + 1) != 1 or any(x.shape != tensors[0].shape for x in tensors):
        return NotImplemented
    joined = apply_rule(torch.cat, (list(tensors), 1), {})
    return (
        ChannelGrid(joined, len(tensors), tensors[0].shape[1])
        if isinstance(joined, OctTensor)
        else NotImplemented
    )


@grid_rule(*named("sum mean"))
def sum_rows(func: Function, x: ChannelGrid, dim: Any = None, keepdim: bool = False) -> Any:
    """The paths added up: (N, columns, *size). Exact; a channel stays low that is low in all of them."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if keepdim or [d % x.dim() for d in dims] != [1]:
        return NotImplemented
    paths = [x.row(i) for i in range(x.rows)]
    octave = [path for path in paths if isinstance(path, OctTensor)]
    if octave and (len(octave) < len(paths) or not any(reduce(common_runs, [x.runs for x in octave])[1::2])):
        return NotImplemented  # no channel is low in all of them
    total = reduce(add, paths)
    return total if func in named("sum") else total / x.rows


@grid_rule(*named("unbind"))
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
    """Functions of one value at a time, and gates (N, rows, columns, 1, 1): those of the map. Exact."""
    x = next(value for value in values if isinstance(value, ChannelGrid))
    flat = [_flat(value, x) for value in values]
    if any(value is NotImplemented for value in flat):
        return NotImplemented
    y = apply_rule(func, tuple(flat), kwargs)
    if not isinstance(y, OctTensor):  # by a dense operand
        return y.unflatten(1, (x.rows, x.columns))
    return ChannelGrid(y, x.rows, x.columns)


def _flat(value: Any, x: ChannelGrid) -> Any:
    """An operand of the grid `x` as one of its map."""
    if isinstance(value, ChannelGrid):
        return value.map if (value.rows, value.columns) == (x.rows, x.columns) else NotImplemented
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    shape = (1,) * (x.dim() - value.dim()) + tuple(value.shape)
    if len(shape) > x.dim():
        return NotImplemented
    return value.expand(shape[0], x.rows, x.columns, *shape[3:]).flatten(1, 2)
