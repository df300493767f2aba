"""The one exception for mistakes a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message names the argument, its value and the remedy, on one line.

    It is a `ValueError`, so library users catch it as usual; the command line prints it without a
    traceback and exits with code 2.
    """


def require_extra(module: str, extra: str) -> None:
    """Check that an optional dependency is installed.

    Raises:
        InputError: `module` cannot be found; the message names the extra that brings it.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise InputError(f"{module} is not installed: run `pip install 'octavize[{extra}]'`")
