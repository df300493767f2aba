"""Files written whole or not at all: text and JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from octavize.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old content or the new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of JSON, readable by people."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote of a mapping; None where the file is not there.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"file {path} is damaged: delete it to have it made anew")
    return value


def known_json(path: Path) -> dict[str, Any]:
    """`read_json` of what can be made anew: nothing where the file is missing or damaged."""
    try:
        return read_json(path) or {}
    except InputError:
        return {}
