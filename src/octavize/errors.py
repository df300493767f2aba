"""The one exception for mistakes a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message names the argument, its value and the remedy, on one line.

    It is a `ValueError`, so library users catch it as usual; the command line prints it without a
    traceback and exits with code 2.
    """


def one_line(error: BaseException, *, kind: bool = False) -> str:
    """What an exception says, on one line: whole if it is ours, else the first 300 signs.

    Args:
        kind: begin with the exception's kind; where it says nothing, that is all.
    """
    name, said = type(error).__name__, " ".join(str(error).split())
    if not isinstance(error, InputError):
        said = said[:300]
    return ": ".join(filter(None, (name, said))) if kind else said or name


def require_extra(module: str, extra: str) -> None:
    """Check that an optional dependency is installed.

    Raises:
        InputError: `module` cannot be found; the message names the extra that brings it.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise InputError(f"{module} is not installed: run `pip install 'octavize[{extra}]'`")
