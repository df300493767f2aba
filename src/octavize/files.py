"""Files written whole or not at all, text and JSON; and folders that a command may write to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from octavize.errors import InputError

LEFT = (".part", ".lock")
"""Endings of what a command that was killed leaves behind; a folder with nothing else counts as empty."""


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


def check_folder(
    folder: Path,
    owner: str | None = None,
    foreign: Callable[[Path], str] = lambda path: "",
    remedy: str = "",
) -> None:
    """Make sure that a command may write to a folder: it is new, empty, or was begun by the same command.

    Args:
        owner: name of the file that says whose the folder is; None where it has to be new or empty.
        foreign: reads that file, and says whose else the folder is; nothing where it is ours.
        remedy: what the user may do about that, beside giving another folder.

    Raises:
        InputError: the folder is a file, belongs to another command, or holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out is {folder}, which is a file: give a folder with --out")
    path = folder / owner if owner else None
    if path is not None and path.is_file():
        if whose := foreign(path):
            raise InputError(f"out is {folder}, {whose}: give another --out{remedy}")
    elif folder.is_dir() and any(found.suffix not in LEFT for found in folder.iterdir()):
        raise InputError(
            f"out is {folder}, which holds other files: give a new or an empty folder with --out"
        )
