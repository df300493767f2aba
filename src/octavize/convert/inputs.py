"""What a network's forward is called with: an image, or whatever an example of the user's holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
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
        """Of the first map among the tensors; without a map, of the first tensor."""
        maps = [x for x in self.tensors if x.dim() >= 3 and x.is_floating_point()]
        return tuple((maps or self.tensors)[0].shape)

    def moved(self, device: torch.device | str, dtype: torch.dtype) -> Inputs:
        """The same on a device; tensors of whole numbers keep their dtype, others get this one."""
        args, kwargs = tree_map(lambda value: _moved(value, device, dtype), (self.args, dict(self.kwargs)))
        return Inputs(args, kwargs)

    def call(self, net: Callable[..., Any]) -> Any:
        return net(*self.args, **self.kwargs)

    def __str__(self) -> str:
        return ", ".join(str(tuple(x.shape)) for x in self.tensors)


def inputs_of(given: Inputs | Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Inputs:
    """Inputs on a device; of a shape, noise that is always the same."""
    if isinstance(given, Inputs):
        return given.moved(device, dtype)
    if torch.device(device).type == "meta":
        return Inputs((torch.empty(tuple(given), device="meta", dtype=dtype),))
    noise = torch.randn(tuple(given), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Inputs((noise.to(device=device, dtype=dtype),))


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


def _moved(value: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
