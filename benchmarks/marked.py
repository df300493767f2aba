"""Parts of a page that a script writes, between two comments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def between(text: str, start: str, end: str, part: str) -> str:
    """The text with this part between the two marks. Ends the program where the page lacks them."""
    before, begun, rest = text.partition(start)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise SystemExit(f"the page has no {start.strip()} … {end}")
    return before + start + part + end + after


def write(page: Path, made: Callable[[str], str]) -> None:
    """Write what `made` makes of a page, of nothing where there is none yet."""
    page.write_text(made(page.read_text("utf-8") if page.exists() else ""), "utf-8")


def check(*pages: tuple[Path, Callable[[str], str]]) -> None:
    """End the program, with 1 if any page is not what its `made` makes of it."""
    stale = [page.name for page, made in pages if made(text := page.read_text("utf-8")) != text]
    said = f"{', '.join(stale)}: not as the results say; run {Path(sys.argv[0]).name}"
    raise SystemExit(said if stale else 0)


def add_options(parser: argparse.ArgumentParser, page: str) -> None:
    """`--tables` and `--check`, for a script that measures and then writes a page; see `make`."""
    parser.add_argument("--tables", action="store_true", help=f"only write {page} anew")
    parser.add_argument("--check", action="store_true", help=f"only compare {page} with the results")


def make(
    given: argparse.Namespace, measure: Callable[[], object], page: Path, made: Callable[[str], str]
) -> None:
    """Measure and write the page, or what the options of `add_options` say. `--check` ends the program."""
    if given.check:
        check((page, made))
    if not given.tables:
        measure()
    write(page, made)
