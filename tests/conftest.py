"""What many tests need: one thread, a fixed seed, nothing announced yet, narrow layers, image files."""

from __future__ import annotations

from importlib.util import find_spec

# Without torch only the tests of the other backend run, which have fixtures of their own.
pytest_plugins = ["tests.helpers.fixtures"] if find_spec("torch") is not None else []
