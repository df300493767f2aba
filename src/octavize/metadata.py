"""What files of octavize say of themselves, whichever framework wrote them."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any

from octavize.errors import InputError

KEY = "octavize"
"""Under this key a file carries its metadata, as JSON."""
OWN = {"input_shape", "dynamic_batch", "dynamic_size", "smallest_size", "octavize", "precision"}
OWN |= {"inputs", "outputs"}
"""Metadata of an exported network that nobody else can give."""


def check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Raises InputError if users give what an export says itself."""
    if own := OWN & {*(metadata or {})}:
        raise InputError(f"metadata has {', '.join(sorted(own))}, which export writes itself: leave it out")


def input_names(about: str) -> list[str]:
    """Of an exported file's inputs, by its metadata as JSON."""
    return [each["name"] for each in json.loads(about).get("inputs", [{"name": "input"}])]


def output_names(about: str) -> list[str]:
    """Of its outputs, likewise."""
    return [each["name"] for each in json.loads(about).get("outputs", [{"name": "output"}])]


def output_name(path: Sequence[object], taken: Container[str]) -> str:
    """Of a tensor that a network returns, by the keys and numbers that lead to it: `out`, `output.0`.

    Args:
        taken: names of the inputs, which no output gets.
    """
    name = ".".join(map(str, path))
    return f"output.{name}" if name[0].isdigit() or name in taken else name
