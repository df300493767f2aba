"""The one exception for mistakes that a user can correct, the checks that raise it, and our warning."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """Bad input: the message names the argument, its value and the remedy, on one line.

    It is a `ValueError`, so library users catch it as usual; the command line prints it without a
    traceback and exits with code 2.
    """


class DenseFallbackWarning(UserWarning):
    """A function without an octave rule was computed on the dense feature map."""


def one_line(error: BaseException, *, kind: bool = False) -> str:
    """An exception's message on one line: all of it if it is ours, else its first 300 characters.

    Args:
        kind: begin with the exception's class; without a message, the class is all.
    """
    name, said = type(error).__name__, " ".join(str(error).split())
    if not isinstance(error, InputError):
        said = said[:300]
    return ": ".join(filter(None, (name, said))) if kind else said or name


def shown(value: object) -> str:
    """A value in a message: the first 100 signs of what Python shows of it, on one line."""
    return shortened(" ".join(repr(value).split()))


def shortened(text: str) -> str:
    """The first 100 signs of a text."""
    return text if len(text) <= 100 else f"{text[:99]}…"


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number of at least `least`, and at most `most` if that is given.

    Raises:
        InputError: the value is not a whole number (True and False are not), or is out of range.
    """
    fits = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
    if not fits or (most is not None and int(value) > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}={shown(value)}: give a whole number {span}")
    return int(value)


def number(
    name: str, value: Any, low: float, high: float = inf, *, above: bool = False, meaning: str = ""
) -> float:
    """Return a finite number from `low` to `high`, both included.

    Args:
        above: exclude `low` itself.
        meaning: what the number means, for the error message.

    Raises:
        InputError: the value is not a number (True and False are not), or is out of range.
    """
    fits = isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high
    if not fits or value == inf or (above and value == low):
        start = f"above {low:g}" if above else f"from {low:g}"
        upper = "" if high == inf else f" to {high:g}"
        told = f"give a number {start}{upper}{meaning and f', {meaning}'}"
        raise InputError(f"{name}={shown(value)}: {told}")
    return float(value)


def require_extra(module: str, extra: str) -> None:
    """Check that an optional dependency is installed.

    Raises:
        InputError: `module` is not found; the message names the extra that installs it.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise InputError(f"{module} is not installed: run `pip install 'octavize[{extra}]'`")


def extra_here(extra: str) -> str:
    """The name of an extra for the framework at hand: users of Paddle need no torch for it."""
    from importlib.util import find_spec

    for_paddle = find_spec("torch") is None and find_spec("paddle") is not None
    return f"paddle-{extra}" if for_paddle else extra


def refuse_options(name: str, options: Mapping[str, object]) -> None:
    """Check that nothing is asked of a network that is built already.

    Raises:
        InputError: one of the options is not None.
    """
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{option} is given and {name} is a network of its own: leave it out")
