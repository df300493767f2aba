"""What a network's forward is called with: an image, or whatever an example of the user's holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import Tensor, nn

from octavize.errors import InputError, shown
from octavize.plans.planning import Shape

Example = Tensor | Sequence[int] | Sequence[Any] | Mapping[str, Any]
"""An input of the network or its shape; several of them, `(a, b)`; or a mapping of them by name."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of a call of a network: tensors, shapes of tensors to make, and anything else."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> list[Shape]:
        """Of the tensors that are given or will be made."""
        found: list[Shape] = []
        self.each(lambda x: found.append(tuple(x.shape) if isinstance(x, Tensor) else x))
        return found

    @property
    def shape(self) -> Shape:
        """Of the first map among them, which has at least three dimensions.

        Raises:
            InputError: none of them is a map.
        """
        shape = next((shape for shape in self.shapes if len(shape) >= 3), None)
        if shape is None:
            raise InputError(
                "example: none of its entries is a map or its shape: give 'image': (1, 3, 224, 224)"
            )
        return shape

    def each(self, f: Callable[[Any], Any]) -> Inputs:
        """The same with `f` of every tensor and every shape."""
        return Inputs(_each(self.args, f), _each(dict(self.kwargs), f))

    def made(self, dtype: Any) -> Inputs:
        """The same with tensors of zeros instead of shapes."""
        return self.each(lambda x: x if isinstance(x, Tensor) else paddle.zeros(x, dtype))

    @property
    def tensors(self) -> list[Tensor]:
        found: list[Tensor] = []
        self.each(lambda x: found.append(x) if isinstance(x, Tensor) else None)
        return found

    def call(self, net: Callable[..., Any]) -> Any:
        return net(*self.args, **self.kwargs)

    def __str__(self) -> str:
        return ", ".join(map(str, self.shapes))


def inputs_of(model: nn.Layer, example: Example | Inputs) -> Inputs:
    """An example as inputs.

    A mapping holds the arguments of the forward by name, or is its one argument if it names none of them.

    Raises:
        InputError: it is neither a shape nor holds shapes or tensors.
    """
    if isinstance(example, Inputs):
        return example
    if isinstance(example, Tensor) or is_shape(example):
        return Inputs((example if isinstance(example, Tensor) else tuple(example),))
    if isinstance(example, Mapping):
        made = Inputs(kwargs=dict(example)) if _takes(model, example) else Inputs((dict(example),))
    elif isinstance(example, str) or not isinstance(example, Sequence):
        raise InputError(
            f"example={shown(example)} is neither an input nor its shape, such as (1, 3, 224, 224)"
        )
    else:
        made = Inputs(tuple(example))
    if not made.shapes:
        raise InputError(
            f"example={shown(example)} is no shape: give whole numbers above 0, as (1, 3, 96, 96)"
        )
    return made


def is_shape(value: Any) -> bool:
    """Whether a value is a row of whole numbers above 0."""
    row = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return row and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in value)


def _each(value: Any, f: Callable[[Any], Any]) -> Any:
    if isinstance(value, Tensor) or is_shape(value):
        return f(value if isinstance(value, Tensor) else tuple(value))
    if isinstance(value, Mapping):
        return {key: _each(entry, f) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_each(entry, f) for entry in value)
    return value


def _takes(model: nn.Layer, named: Mapping[str, Any]) -> bool:
    """Whether a forward can be called with arguments of these names."""
    try:
        inspect.signature(model.forward).bind(**named)
    except (TypeError, ValueError):
        return False
    return True
