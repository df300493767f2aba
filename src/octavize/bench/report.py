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
    """Saving realized against α, a line a runtime, a panel for each batch and number of threads.

    Args:
        path: .png, .svg or .pdf.
    """
    require_extra("matplotlib", "experiment")
    from matplotlib.figure import Figure

    from octavize.report.figures import HEIGHT, WIDTH, color, styled, write_figure

    rows = [row for row in results["rows"] if row["alpha"] > 0 and row["saving_realized"] is not None]
    panels = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    with styled():
        figure = Figure(figsize=(WIDTH * max(0.8 * len(panels), 1), HEIGHT), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
        for panel, (batch, threads) in zip(axes, panels, strict=False):
            panel.axhline(100, color="#475569", linewidth=0.8, linestyle="--")
            for i, runtime in enumerate(runtimes):
                own = [
                    (row["alpha"], 100 * row["saving_realized"])
                    for row in rows
                    if (row["runtime"], row["batch"], row["threads"]) == (runtime, batch, threads)
                ]
                if own:
                    panel.plot(*zip(*sorted(own), strict=True), "o-", color=color(i + 1), label=runtime)
            panel.set_title(_place(batch, threads))
            panel.set_xlabel("α")
        axes[0].set_ylabel("saving realized, %")
        shown = (panel.get_legend_handles_labels() for panel in axes)
        lines = {label: line for found in shown for line, label in zip(*found, strict=True)}
        if rows:
            axes[-1].legend([lines[runtime] for runtime in runtimes], runtimes)
        figure.suptitle(title)
        write_figure(figure, Path(path))
