"""What the scripts that train by hand-made builders share: earlier rows, and the shape of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavize.data.images import Images
from octavize.files import read_json
from octavize.training.recipe import Recipe


def known_rows(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a file of results holds. Ends the program where they are of other settings."""
    saved = read_json(path) or {}
    rows: list[dict[str, Any]] = saved.pop("runs", [])
    if saved not in ({}, about):
        raise SystemExit(f"{path} has runs with other settings, {saved}: move it, or train with the same")
    return rows


def shape_of(recipe: Recipe, images: Images) -> tuple[int, int, int, int]:
    """(N, C, H, W) of an image as networks see it."""
    side = recipe.size or images.size
    return 1, images.channels, side, side
