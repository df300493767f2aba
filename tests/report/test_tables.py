"""The same rows in every form."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import pytest
from rich.console import Console

from octavize.report.tables import show
from octavize.text import Table, to_csv

ROWS = (("first", "x", "1"), (), ("a longer name", "y|z", "1,234"))
TABLE = Table(("name", "kind", "count"), ROWS, align="llr", title="A title", note="A note.")


def test_plain_text_is_aligned() -> None:
    assert str(TABLE).splitlines() == [
        "A title",
        "name           kind  count",
        "──────────────────────────",
        "first          x         1",
        "──────────────────────────",
        "a longer name  y|z   1,234",
        "A note.",
    ]


def test_a_column_of_text_at_the_end_leaves_no_spaces() -> None:
    assert str(Table(("n", "why"), [("1", "because"), ("22", "")], align="rl")).splitlines() == [
        " n  why",
        "───────────",
        " 1  because",
        "22",
    ]


def test_markdown_keeps_its_columns() -> None:
    assert TABLE.markdown().splitlines() == [
        "| name | kind | count |",
        "|---|---|---:|",
        "| first | x | 1 |",
        "| a longer name | y\\|z | 1,234 |",
    ]


def test_a_table_without_rows_has_a_head() -> None:
    table = Table(("a", "b"), [])
    assert table.markdown() == "| a | b |\n|---|---:|"
    assert str(table).splitlines()[0] == "a  b"


def test_a_cell_of_two_lines_is_one_in_text() -> None:
    table = Table(("a", "b"), [("x\ny", "1")])
    assert "| x y | 1 |" in table.markdown()
    assert "x y  1" in str(table)


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        str(Table(("a", "b"), [("x",)]))


@pytest.mark.parametrize("width", [12, 40, 200])
def test_a_narrow_terminal_cuts_nothing_short(width: int) -> None:
    """Nor is anything in a name taken for markup."""
    rows = [("a name that is long [bold]and odd[/bold]", f"{i},000,000", "9.99 G") for i in range(2)]
    console = Console(width=width, file=io.StringIO(), record=True)
    show(Table(("network", "parameters", "MACs"), rows, title="A title", note="A note."), console)
    lines = console.export_text().splitlines()
    for row in rows:
        assert any(all(cell in line for cell in row) for line in lines), lines
    assert any("A title" in line for line in lines)
    assert any("A note." in line for line in lines)
    assert console.width == width


def test_csv_can_be_read_back() -> None:
    text = to_csv(("a", "b", "c"), [{"a": 1, "b": 'x, "y"', "extra": 0}, {"a": 2.5, "c": None}])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"a": "1", "b": 'x, "y"', "c": ""},
        {"a": "2.5", "b": "", "c": ""},
    ]


def test_plain_text_needs_no_library() -> None:
    program = "import sys, octavize.text; assert not {'torch', 'rich'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
