"""Lengths of maps that only the running program knows: arithmetic on them is written into the program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import paddle
from paddle import Tensor

from octavize.errors import InputError
from octavize.paddle.dispatch import Octave, Rule, dense


class _EveryFunction(dict[str, Rule]):
    """Every function that is given an unknown length gets it as a tensor."""

    def get(self, name: str, default: Any = None) -> Rule:
        def rule(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return func(*map(dense, args), **{key: dense(value) for key, value in kwargs.items()})

        return rule


class Unknown(Octave):
    """A whole number that is not known while a program is built, such as the height of its images.

    Sums, products and whole quotients of it are unknown too. What would have to know it is refused, instead
    of computing with Paddle's -1. Functions of Paddle get it as a tensor.

    Args:
        key: what it is: equal lengths have equal keys.
        make: writes it into the program; called once, when it is needed.
    """

    rules: ClassVar[dict[str, Rule]] = _EveryFunction()
    strict = False

    def __init__(self, key: tuple[Any, ...], make: Callable[[], Any]) -> None:
        self.key, self._make, self._value = key, make, None

    def to_dense(self) -> Any:
        """The number as a tensor of the program."""
        if self._value is None:
            self._value = self._make()
        return self._value

    def _copy(self) -> Any:
        """The number once more, to compute with.

        Paddle 3.3 puts the result of `n + 1` in the place of n if it sees no other reader, and does not see
        those that read n in a list, as slices and interpolation do.
        """
        return paddle.stack([self.to_dense()])[0]

    def _with(self, name: str, other: Any, compute: Callable[[Any, Any], Any]) -> Unknown:
        return Unknown((name, self, other), lambda: compute(self._copy(), dense(other)))

    def __add__(self, other: Any) -> Any:
        return self if _is(other, 0) else self._with("add", other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> Any:
        return self if _is(other, 0) else self._with("sub", other, lambda a, b: a - b)

    def __mul__(self, other: Any) -> Any:
        return self if _is(other, 1) else self._with("mul", other, lambda a, b: a * b)

    def __floordiv__(self, other: Any) -> Any:
        return self if _is(other, 1) else self._with("floordiv", other, lambda a, b: a // b)

    def __neg__(self) -> Any:
        name, *rest = self.key
        if name == "neg":
            return rest[0]
        if name == "floordiv" and rest[0].key[0] == "neg":  # −(−n // s), the quotient rounded up
            return (rest[0].key[1] + (rest[1] - 1)) // rest[1]  # runtimes round negative numbers differently
        return Unknown(("neg", self), lambda: -self._copy())

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unknown) and self.key == other.key

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.key)

    def _refuse(self, *others: Any) -> NoReturn:
        raise InputError(
            "a part of this network decides by the height or width of its images: save it for one size"
        )

    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __float__ = __index__ = __mod__ = _refuse

    def __repr__(self) -> str:
        return "?"


def _is(value: Any, number: int) -> bool:
    return isinstance(value, int) and value == number


def size_of(x: Tensor) -> tuple[Any, ...]:
    """The spatial size of a plain map: numbers, and where a program does not know them, `Unknown`."""
    return tuple(n if n >= 0 else _length(x, axis) for axis, n in enumerate(x.shape[2:], start=2))


def _length(x: Tensor, axis: int) -> Unknown:
    return Unknown(("length", id(x), axis), lambda: paddle.shape(x)[axis])


def differ(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two sizes are known to differ. Paddle finds others out when the program runs."""
    return any(isinstance(n, int) and isinstance(m, int) and n != m for n, m in zip(a, b, strict=True))


def is_unknown(size: Sequence[Any]) -> bool:
    """Whether a size has an unknown part."""
    return any(isinstance(n, Unknown) for n in size)


def crop(x: Any, size: Sequence[Any]) -> Any:
    """The first pixels of a map, `size` of them along each axis."""
    if x is None or list(x.shape[2:]) == list(size):
        return x
    return x[(slice(None), slice(None), *(slice(0, dense(n)) for n in size))]
