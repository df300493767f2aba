"""What a network's forward is called with: an image, or whatever an example of the user's holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from octavize.errors import InputError, shown
from octavize.nn._torch_internals import tree_leaves, tree_map

Shape = tuple[int, ...]
Example = Tensor | Sequence[int] | Sequence[Any] | Mapping[str, Any]
"""An input of the network, its shape, several inputs `(a, b)`, or inputs by name `{"image": …}`."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of a call of a network."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        return [value for value in tree_leaves((self.args, dict(self.kwargs))) if isinstance(value, Tensor)]

    @property
    def shape(self) -> Shape:
        """Of the first map among the tensors; without a map, of the first tensor that has axes."""
        found = [x for x in self.tensors if x.dim() >= 3 and x.is_floating_point()]
        found += [x for x in self.tensors if x.dim()]
        return tuple((found or self.tensors)[0].shape)

    @property
    def batch(self) -> int:
        """How many images these are: the first axis of `shape`."""
        return (*self.shape, 1)[0]

    def is_batched(self, x: Tensor) -> bool:
        """Whether a tensor has a row for each image: its first axis is as long."""
        return x.dim() > 0 and len(x) == self.batch

    def is_sized(self, x: Tensor) -> bool:
        """Whether a tensor is a map as large as the first one."""
        return x.is_floating_point() and x.dim() >= 3 and tuple(x.shape[2:]) == self.shape[2:]

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same with other tensors."""

        def of(value: Any) -> Any:
            return change(value) if isinstance(value, Tensor) else value

        return Inputs(*tree_map(of, (self.args, dict(self.kwargs))))

    def moved(self, device: torch.device | str, dtype: torch.dtype) -> Inputs:
        """The same on a device; tensors of whole numbers keep their dtype, others get this one."""
        return self.map(lambda x: x.detach().to(device, dtype if x.is_floating_point() else x.dtype))

    def rows(self, chosen: slice | Tensor) -> Inputs:
        """Some of the images, by a slice or by number, with their rows of all that has rows."""

        def of(x: Tensor) -> Tensor:
            if not self.is_batched(x):
                return x
            return x[chosen if isinstance(chosen, slice) else chosen.to(x.device)]

        return self.map(of)

    def split(self, size: int) -> list[Inputs]:
        """The images a few at a time."""
        return [self.rows(slice(first, first + size)) for first in range(0, self.batch, size)]

    def sized(self, size: Sequence[int]) -> Inputs:
        """Other values, for maps of another size in place of those that are as large as the first."""
        return self.map(lambda x: x.new_zeros(*x.shape[:2], *size) if self.is_sized(x) else x)

    def noisy(self) -> Inputs:
        """The same with noise, always the same, in place of all numbers but whole ones."""
        random = torch.Generator().manual_seed(0)
        return self.map(
            lambda x: torch.randn(x.shape, generator=random).to(x) if x.is_floating_point() else x
        )

    def negative(self) -> Inputs:
        """Other inputs of the same kind: real numbers with the other sign."""
        return self.map(lambda x: -x if x.is_floating_point() else x)

    def out_of(self, batch: Any) -> Inputs | None:
        """The inputs in a batch of a loader, which has them where this example has them; None if it has not.

        Labels may follow them, or have other names; or the batch is a pair of the inputs and the rest.
        """
        inner = batch[0] if isinstance(batch, (tuple, list)) and batch else None
        for found in (batch, inner):
            in_places = (found,) if isinstance(found, Tensor) else found
            try:
                if self.kwargs:
                    return Inputs(kwargs=_taken(self.kwargs, found))
                if len(self.args) == 1 and not isinstance(self.args[0], Tensor):
                    return Inputs((_taken(self.args[0], found),))
                if isinstance(in_places, (tuple, list)):
                    places = [*in_places, *[None] * len(self.args)]
                    return Inputs(tuple(map(_taken, self.args, places)))
            except _OtherKind:
                continue
        return None

    def named(self, forward: Callable[..., Any]) -> dict[str, Tensor]:
        """The tensors, in the order of `tensors`, by the names that a forward gives its arguments.

        In an argument that is a container, the keys follow: `pair_0`. Of a mapping that is the only argument,
        they alone are the names.
        """
        known = list(inspect.signature(forward).parameters.values())
        parts: list[tuple[tuple[str, ...], Any]] = []
        for place, value in enumerate(self.args):
            parameter = known[min(place, len(known) - 1)]
            several = parameter.kind is parameter.VAR_POSITIONAL
            parts.append(((f"{parameter.name}_{place}" if several else parameter.name,), value))
        if len(parts) == 1 and isinstance(parts[0][1], Mapping) and not self.kwargs:
            parts = [((), parts[0][1])]
        parts += [((name,), value) for name, value in self.kwargs.items()]
        found = [("_".join(path), x) for start, value in parts for path, x in _paths(start, value)]
        if [id(x) for _, x in found] == [id(x) for x in self.tensors] and len(dict(found)) == len(found):
            return dict(found)
        return {f"input_{place}": x for place, x in enumerate(self.tensors)}  # containers of other kinds

    def call(self, net: Callable[..., Any]) -> Any:
        return net(*self.args, **self.kwargs)

    def __str__(self) -> str:
        return ", ".join(str(tuple(x.shape)) for x in self.tensors)


def _paths(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The tensors in nested containers, with the keys that lead to each."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (Mapping, tuple, list)):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _paths((*path, str(key)), each)


class _OtherKind(Exception):
    """A batch is not like the example."""


def _taken(want: Any, found: Any) -> Any:
    """What a batch has in the place of a part of the example; a part without tensors stays."""
    if not any(isinstance(value, Tensor) for value in tree_leaves(want)):
        return want
    if isinstance(want, Tensor) and isinstance(found, Tensor):
        if want.dim() == found.dim() and want.is_floating_point() == found.is_floating_point():
            return found
    elif isinstance(want, Mapping) and isinstance(found, Mapping):
        return {key: _taken(value, found.get(key)) for key, value in want.items()}
    elif isinstance(want, (tuple, list)) and isinstance(found, (tuple, list)) and len(want) == len(found):
        taken = [_taken(*pair) for pair in zip(want, found, strict=True)]
        return taken if isinstance(want, list) else tuple(taken)
    raise _OtherKind


def joined(parts: Sequence[Inputs]) -> Inputs:
    """One batch of several; what has no row for each image is that of the first."""
    columns = iter(list(zip(*(part.tensors for part in parts), strict=True)))

    def of(first: Tensor) -> Tensor:
        column = next(columns)
        return torch.cat(column) if parts[0].is_batched(first) else first

    return parts[0].map(of)


def inputs_of(given: Inputs | Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Inputs:
    """Inputs on a device; of a shape, noise that is always the same."""
    if isinstance(given, Inputs):
        return given.moved(device, dtype)
    if torch.device(device).type == "meta":
        return Inputs((torch.empty(tuple(given), device="meta", dtype=dtype),))
    noise = torch.randn(tuple(given), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Inputs((noise.to(device=device, dtype=dtype),))


def tries(given: Inputs | Shape) -> list[Inputs | Shape]:
    """What to compare two networks on: noise, and the values of an example that has some."""
    return [given.noisy(), given] if isinstance(given, Inputs) else [given]


def checked_example(model: nn.Module, example: Example | Inputs) -> Inputs | Shape:
    """An example as inputs; as a shape if it is one, or if it is one map, whose values do not matter.

    A mapping holds the arguments of the forward by name, or is its one argument if it names none of them.

    Raises:
        InputError: it is neither a shape nor holds tensors.
    """
    if isinstance(example, Inputs):
        return example
    if isinstance(example, Tensor):
        example = (example,)
    if isinstance(example, Mapping):
        by_name = dict(example)
        made = Inputs(kwargs=by_name) if _takes(model, by_name) else Inputs((example,))
    elif isinstance(example, str) or not isinstance(example, Sequence):
        raise InputError(
            f"example={shown(example)} is neither an input nor its shape, such as (1, 3, 224, 224)"
        )
    elif not any(isinstance(value, Tensor) for value in tree_leaves(list(example))):
        return _checked_shape(example)
    else:
        made = Inputs(tuple(example))
    if not made.tensors:
        raise InputError(f"example={shown(example)} holds no tensor: give the inputs of the network")
    is_one_map = made.args == tuple(made.tensors) and len(made.args) == 1 and made.args[0].is_floating_point()
    return made.shape if is_one_map else made


def _checked_shape(example: Sequence[Any]) -> Shape:
    if not all(isinstance(n, int) and n > 0 for n in example):
        raise InputError(
            f"example={tuple(example)} is no shape: give whole numbers above 0, as (1, 3, 96, 96)"
        )
    return tuple(example)


def _takes(model: nn.Module, named: Mapping[str, Any]) -> bool:
    """Whether a forward can be called with arguments of these names."""
    try:
        inspect.signature(model.forward).bind(**named)
    except (TypeError, ValueError):
        return False
    return True
