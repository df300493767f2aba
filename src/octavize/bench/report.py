"""What `bench` found, for people: tables, and a figure."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavize.errors import require_extra
from octavize.report.tables import show
from octavize.text import Table

if TYPE_CHECKING:
    from rich.console import Console

FIGURES = (".png", ".svg", ".pdf")


def show_tables(results: dict[str, Any], title: str, console: Console) -> None:
    """Print a table for each batch and number of threads, a row a network in a runtime."""
    console.print(title, style="bold", markup=False, highlight=False)
    for place in dict.fromkeys((row["batch"], row["threads"]) for row in results["rows"]):
        show(_table(results["rows"], *place), console)


def _table(rows: list[dict[str, Any]], batch: int, threads: int) -> Table:
    """Time, its ratio to vanilla's, that of the arithmetic, and the saving realized."""
    own = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
    shown: list[tuple[str, ...]] = []
    for where, group in groupby(own, lambda row: (row["runtime"], row["precision"])):
        shown += [()] if shown else []
        shown += [(*(("", "") if i else where), *_cells(row)) for i, row in enumerate(group)]
    head = ("runtime", "precision", "network", "ms", "×", "× fastest", "MACs ×", "realized")
    note = "×: to vanilla in this precision; × fastest: to the fastest vanilla of this runtime in any of them"
    return Table(head, shown, align="lllr", title=_place(batch, threads), note=note)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    saving = row["saving_realized"]
    return (
        row["network"],
        f"{row['median_ms']:.2f}",
        f"{row['time_ratio']:.3f}",
        f"{row['fastest_ratio']:.3f}",
        f"{row['mac_ratio']:.3f}",
        "" if saving is None else f"{saving:.0%}",
    )


def _place(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads} thread{'s' * (threads > 1)}"


def draw(results: dict[str, Any], path: str | Path, title: str) -> None:
    """Time against arithmetic, both as shares of vanilla's: a panel for each batch and number of threads.

    A color is a runtime in a precision. Its octave networks are dots, joined by a line; crosses are vanilla
    networks on smaller images or of a smaller width. On the dashed line, time falls as much as arithmetic.

    Args:
        path: .png, .svg or .pdf.
    """
    require_extra("matplotlib", "experiment")
    from matplotlib.figure import Figure

    from octavize.report.figures import HEIGHT, WIDTH, color, styled, write_figure

    rows = [row for row in results["rows"] if row["mac_ratio"] < 1]
    panels = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    with styled():
        figure = Figure(figsize=(WIDTH * max(0.8 * len(panels), 1), HEIGHT), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
        for panel, (batch, threads) in zip(axes, panels, strict=False):
            panel.axline((0.5, 0.5), slope=1, color="#475569", linewidth=0.8, linestyle="--")
            for i, kind in enumerate(kinds):
                own = [r for r in rows if (r["batch"], r["threads"], _kind(r)) == (batch, threads, kind)]
                for octave, marks in ((True, "o-"), (False, "x")):
                    shares = sorted(
                        (r["mac_ratio"], r["time_ratio"]) for r in own if (r["alpha"] > 0) == octave
                    )
                    if shares:
                        label = kind if octave else None
                        panel.plot(*zip(*shares, strict=True), marks, color=color(i + 1), label=label)
            panel.set_title(_place(batch, threads))
            panel.set_xlabel("MACs, share of vanilla's")
        axes[0].set_ylabel("time, share of vanilla's")
        shown = (panel.get_legend_handles_labels() for panel in axes)
        lines = {label: line for found in shown for line, label in zip(*found, strict=True)}
        if lines:
            axes[-1].legend(lines.values(), lines)
        figure.suptitle(title)
        write_figure(figure, Path(path))


def _kind(row: dict[str, Any]) -> str:
    return row["runtime"] if row["precision"] == "float32" else f"{row['runtime']} {row['precision']}"
