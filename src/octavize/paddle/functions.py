"""Paddle's public functions by name: what rules are keyed by, and what `enable` wraps.

A function may have several public names (`concat` and `cat`), and its `__name__` may be none of them:
`F.sigmoid.__name__` is `_sigmoid`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from inspect import signature
from types import FunctionType, ModuleType
from typing import Any

import paddle
import paddle.nn.functional as F
import paddle.vision.ops

Function = Callable[..., Any]
VALUE: Any = paddle.pir.Value  # pyright: ignore[reportPrivateImportUsage]
"""The class of tensors of a program that is being built."""

HOMES: tuple[ModuleType, ...] = (paddle, F, paddle.vision.ops)
_READS_A_MAP = {
    *("x", "y", "x1", "input", "input1", "inputs", "tensors", "args", "condition", "arr"),
    *("query", "logit", "logits", "label", "anchor", "equation"),
}
"""Names of the first parameters of functions that take a map."""
_ABOUT_PYTHON = frozenset({"is_tensor", "save"})
"""Functions of a Python object, whatever it is."""


def _public() -> Iterator[tuple[str, Function]]:
    for home in HOMES:
        for name in home.__all__:
            function = getattr(home, name, None)
            if isinstance(function, FunctionType) and name not in _ABOUT_PYTHON and _reads_a_map(function):
                yield name, function
    # `nn.Conv2D` and `nn.Conv3D` call this, and no public function.
    private = getattr(F.conv, "_conv_nd", None)
    if private is not None:
        yield "_conv_nd", private


def _reads_a_map(function: Function) -> bool:
    names = list(signature(function).parameters)
    return bool(names) and names[0] in _READS_A_MAP


PUBLIC: tuple[tuple[str, Function], ...] = tuple(_public())
"""Names and functions as they were when octavize was loaded, before anything was wrapped."""


@lru_cache(None)
def _by_name() -> dict[str, Function]:
    return dict(reversed(PUBLIC))  # the first home counts


def function_named(name: str) -> Function | None:
    """Paddle's public function of this name, unwrapped; None if there is none."""
    return _by_name().get(name)


def names_of(function: str | Function) -> tuple[str, ...]:
    """All public names of a function, which is given itself, wrapped or not, or by one of them.

    Raises:
        LookupError: Paddle has no public function, and its tensors no method, of this kind.
    """
    if isinstance(function, str):
        own = [f for name, f in PUBLIC if name == function]
        if not own and not callable(getattr(paddle.Tensor, function, None)) and function not in OPERATORS:
            raise LookupError(f"Paddle has no function {function!r}: give oct_rule a public name")
        names = [name for name, f in PUBLIC if any(f is one for one in own)]
        return tuple(dict.fromkeys([function, *names]))
    plain = getattr(function, "__wrapped_by_octavize__", function)
    names = [name for name, f in PUBLIC if f is plain]
    if not names:
        raise LookupError(f"{function!r} is no public function of Paddle: give oct_rule its public name")
    return tuple(dict.fromkeys(names))


OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "pow",
    "matmul": "matmul",
    "and_": "bitwise_and",
    "or_": "bitwise_or",
    "xor": "bitwise_xor",
    "lt": "less_than",
    "le": "less_equal",
    "gt": "greater_than",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
    "neg": "neg",
    "abs": "abs",
    "invert": "bitwise_not",
    "getitem": "getitem",
}
"""Python's operators, by their name in `operator`, and the name of the rule that serves them."""


@lru_cache(None)
def method_named(name: str) -> Function:
    """A method of Paddle's tensors as a function: of a Tensor, or of a Value while a program is built."""

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    call.__name__ = name
    return call
