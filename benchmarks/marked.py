"""Parts of a page that a script writes, between two comments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def between(text: str, start: str, end: str, part: str) -> str:
    """The text with this part between the two marks."""
    before, _, rest = text.partition(start)
    return before + start + part + end + rest.partition(end)[2]


def write(page: Path, made: Callable[[str], str]) -> None:
    """Write what `made` makes of a page."""
    page.write_text(made(page.read_text("utf-8")), "utf-8")


def check(*pages: tuple[Path, Callable[[str], str]]) -> None:
    """End the program, with 1 if any page is not what its `made` makes of it."""
    texts = [(page.read_text("utf-8"), made) for page, made in pages]
    raise SystemExit(any(made(text) != text for text, made in texts))
