"""Earlier rows of the scripts that train by hand-made builders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavize.files import read_json


def known_rows(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a file of results holds. Ends the program where they are of other settings."""
    saved = read_json(path) or {}
    rows: list[dict[str, Any]] = saved.pop("runs", [])
    if saved not in ({}, about):
        raise SystemExit(f"{path} has runs with other settings, {saved}: move it, or train with the same")
    return rows
