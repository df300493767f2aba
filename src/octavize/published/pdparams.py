"""Paddle's .pdparams files, without Paddle: a pickle of arrays, read so that it can build nothing else."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from octavize.errors import InputError, one_line


def read_pdparams(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `paddle.save(net.state_dict(), path)`; nothing in it is executed.

    Raises:
        InputError: it is missing, cut short, or holds more than arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist: give the path of a .pdparams file")
    try:
        with path.open("rb") as file:
            state = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # pickle raises many kinds, all of which mean "no file of plain arrays"
        raise InputError(
            f"checkpoint {path} cannot be read as plain arrays ({one_line(error)}): save the state dict with "
            "paddle.save(net.state_dict(), path)"
        ) from None
    return as_arrays(state)


def as_arrays(state: Any) -> dict[str, np.ndarray]:
    """A state dict of tensors or arrays, or of (name, array), as Paddle writes a single tensor.

    Raises:
        InputError: it is none, or holds something else.
    """
    if not isinstance(state, Mapping):
        raise InputError(f"checkpoint holds a {type(state).__name__}: save net.state_dict()")
    found: dict[str, np.ndarray] = {}
    for key, value in state.items():
        if key == "StructuredToParameterName@@":
            continue
        array: Any = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        array = array.numpy() if hasattr(array, "numpy") else array
        if not isinstance(array, np.ndarray):
            raise InputError(f"checkpoint has a {type(array).__name__} at {key!r}: save net.state_dict()")
        found[key] = array
    return found


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays and containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        if name == "_reconstruct" and re.fullmatch(r"numpy\._?core\.multiarray", module):
            return np.empty(0).__reduce__()[0]  # wherever this NumPy has it
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _encoded(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, by which older pickles hold bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it wants the encoding {encoding!r}")
    return text.encode("latin1")


_HARMLESS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("_codecs", "encode"): _encoded,
}
