"""Tables in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavize.text import Table

if TYPE_CHECKING:
    from rich.console import Console


def show(table: Table, console: Console) -> None:
    """Print a table, never cut short: a terminal that is too narrow breaks lines."""
    from rich.box import SIMPLE_HEAD
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    made.title, made.title_justify = Text(table.title, "bold") if table.title else None, "left"
    made.caption, made.caption_justify = Text(table.note) if table.note else None, "left"
    for i, name in enumerate(table.head):
        made.add_column(Text(name), justify="left" if table.is_left(i) else "right", no_wrap=True)
    for row in table.rows:
        if row:
            made.add_row(*map(Text, row))  # names may hold what would be markup
        else:
            made.add_section()
    needed = Measurement.get(console, console.options.update(max_width=1000), made).maximum
    width = console.width
    try:
        console.width = max(width, needed)
        console.print(made)
    finally:
        console.width = width
