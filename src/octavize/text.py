"""Tables as plain text, as Markdown and as CSV; `octavize.report.tables` shows them in a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GAP = "  "


@dataclass(frozen=True)
class Table:
    """A table of text cells for people; printing it gives plain text.

    Attributes:
        head: names of the columns.
        rows: one cell per column; an empty row is a line between groups of rows.
        align: one letter per column, `l` for text and `r` for numbers; the last letter serves the rest.
        title: a line above.
        note: a line below.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "lr"
    title: str = ""
    note: str = ""

    def is_left(self, column: int) -> bool:
        """Whether a column holds text."""
        return self.align[min(column, len(self.align) - 1)] == "l"

    def __str__(self) -> str:
        cells = [[_one_line(cell) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*filter(None, cells), strict=True)]
        rule = "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
        lines = [self._line(row, widths) if row else rule for row in cells]
        return "\n".join(filter(None, [self.title, lines[0], rule, *lines[1:], self.note]))

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        padded = (
            cell.ljust(width) if self.is_left(i) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return GAP.join(padded).rstrip()

    def markdown(self) -> str:
        """The table alone, without title and note."""
        rule = f"|{'|'.join('---' if self.is_left(i) else '---:' for i in range(len(self.head)))}|"
        head, *rows = (f"| {' | '.join(map(_escaped, row))} |" for row in (self.head, *self.rows) if row)
        return "\n".join([head, rule, *rows])


def _escaped(cell: str) -> str:
    return _one_line(cell).replace("|", r"\|")


def _one_line(cell: str) -> str:
    return " ".join(cell.splitlines())


def to_csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV text; missing values stay empty, and values without a column are left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
