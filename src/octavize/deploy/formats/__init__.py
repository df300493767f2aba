"""The kinds of files that networks are exported to: a module each, which holds all there is to know of one.

To add one, put a module here that calls its `Format` FORMAT. `export`, `load_runtime`, `octavize predict`
and, if it says so, `octavize bench` then know it: they look into this folder. Commands list the formats in
their `--help`, so a module imports torch, and whatever else is heavy, in the functions that use it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from octavize.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

Array: TypeAlias = "np.ndarray[Any, Any]"
Run: TypeAlias = "Callable[..., list[Array]]"
"""From the inputs of a network, one after the other, to its outputs."""
Write: TypeAlias = "Callable[[torch.export.ExportedProgram, Path, str], None]"
Load: TypeAlias = "Callable[[Path, int | None], tuple[Run, str | None]]"
FromOnnx: TypeAlias = "Callable[[Path, Path, str], object]"
Lower: TypeAlias = "Callable[[Path, Sequence[Array], str], None]"
PRECISIONS = ("float32", "bf16", "int8")
"""In which files compute. Weights and maps of bf16 are rounded, those of int8 are quantized."""


@dataclass(frozen=True)
class Format:
    """One kind of exported file: how it is written, and how it is read and run."""

    suffix: str
    """Of the file's name; no two formats have the same."""
    runtime: str
    """Who runs the file, for people."""
    write: Write
    """(frozen network, path, metadata as JSON) → nothing; the metadata come back out of `load`."""
    load: Load
    """(path, CPU threads, None for the runtime's choice) → what runs a batch in float32, and the metadata."""
    needed_to_write: tuple[str, ...] = ()
    """Modules, beside those of `needed_to_load`: what was written is read back."""
    needed_to_load: tuple[str, ...] = ()
    extra: str = "deploy"
    """The extra of octavize that brings these modules."""
    beside: tuple[str, ...] = ()
    """Suffixes of further files that are written under the same name."""
    from_onnx: FromOnnx | None = None
    """(float32 ONNX file, path, metadata as JSON) → nothing: writes the same network."""
    lower: Mapping[str, Lower] = field(default_factory=dict)
    """By precision: (float32 file, images to quantize on, metadata as JSON) → nothing; replaces the file."""
    needed_to_lower: tuple[str, ...] = ()
    """Further modules that int8 needs; the extra `quantize` brings them."""
    runs_code: bool = False
    """Whether reading a file may run code that lies in it."""
    timed_as: str | None = None
    """Its runtime's name in `octavize bench` and `tune`; without, it is not timed."""

    @property
    def needs(self) -> tuple[str, ...]:
        """All modules that an export needs."""
        return (*self.needed_to_write, *self.needed_to_load)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of its files."""
        return ("float32", *self.lower)

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files of a network that is exported to `path`, which is the first."""
        return (path, *(path.with_suffix(suffix) for suffix in self.beside))


def formats() -> dict[str, Format]:
    """All formats by suffix, in the order of the modules of this package.

    Raises:
        RuntimeError: two have one suffix.
    """
    found: dict[str, Format] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        made: Format = import_module(f"{__name__}.{module}").FORMAT
        if made.suffix in found:
            raise RuntimeError(f"{__name__}.{module}: another format has the suffix {made.suffix} already")
        found[made.suffix] = made
    return found


def format_of(argument: str, path: Path) -> Format:
    """The format of a file with this name.

    Args:
        argument: what the path is, for the message.

    Raises:
        InputError: there is no such format.
    """
    known = formats()
    if path.suffix not in known:
        raise InputError(f"{argument} {path} is none of {', '.join(known)}: give a name that ends in one")
    return known[path.suffix]


def timed_formats() -> dict[str, Format]:
    """Those that `octavize bench` times, by the names of their runtimes."""
    return {made.timed_as: made for made in formats().values() if made.timed_as}
