"""What `bench` found, for people: tables, and a figure."""

from __future__ import annotations

from itertools import cycle, groupby
from pathlib import Path
from typing import Any

from octavize.errors import require_extra
from octavize.text import Table

FIGURES = (".png", ".svg", ".pdf")


def tables(results: dict[str, Any]) -> list[Table]:
    """A table for each batch and number of threads, a row a network in a runtime."""
    places = dict.fromkeys((row["batch"], row["threads"]) for row in results["rows"])
    return [_table(results["rows"], *place) for place in places]


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


MARKS: dict[str, Any] = {
    "every": "o",
    "both": "o",
    "block": "s",
    "block:high_to_low": "^",
    "stage:high_to_low": "D",
}
"""Of the usual exchanges, the same in every figure; others share `OTHER_MARKS`."""
OTHER_MARKS = ("v", "P", "<", ">", "h")
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"linestyle": "-", "fillstyle": "full"},
    "bf16": {"linestyle": "--", "fillstyle": "left"},
    "int8": {"linestyle": ":", "fillstyle": "none"},
}
"""How a precision looks, also where a single α has no line."""
CROSSES = {"float32": "x", "bf16": "+", "int8": "1"}
"""Of vanilla networks, likewise."""


def draw(results: dict[str, Any], path: str | Path, title: str) -> None:
    """Time against arithmetic, both as shares of vanilla's: a panel for each batch and number of threads.

    A color is a runtime, a line and the filling of its marks the precision, a mark an exchange; lines join
    its α. Crosses are vanilla networks on smaller images or of a smaller width. On the dashed line, time
    falls as much as arithmetic.

    Args:
        path: .png, .svg or .pdf.
    """
    require_extra("matplotlib", "experiment")
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from octavize.report.figures import HEIGHT, WIDTH, color, styled, write_figure

    rows = [row for row in results["rows"] if row["mac_ratio"] < 1]
    panels = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    kinds = dict.fromkeys((row["runtime"], row["precision"]) for row in rows)
    colors = {runtime: color(i + 1) for i, runtime in enumerate(dict.fromkeys(r for r, _ in kinds))}
    others = cycle(OTHER_MARKS)
    exchanges = dict.fromkeys(row["exchange"] or "octave" for row in rows if row["alpha"] > 0)
    marks = {exchange: MARKS.get(exchange) or next(others) for exchange in exchanges}
    with styled():
        figure = Figure(figsize=(WIDTH * max(0.7 * len(panels), 1) + 2, HEIGHT * 1.3), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
        for panel, (batch, threads) in zip(axes, panels, strict=False):
            panel.axline((0.5, 0.5), slope=1, color="#475569", linewidth=0.8, linestyle="--")
            for (runtime, precision, exchange), own in _series(rows, batch, threads).items():
                look = {**PRECISIONS[precision], "marker": marks[exchange]} if exchange else _cross(precision)
                panel.plot(
                    *zip(*sorted(own), strict=True), color=colors[runtime], markersize=5, linewidth=1, **look
                )
            panel.set_title(_place(batch, threads))
            panel.set_xlabel("MACs, share of vanilla's")
        axes[0].set_ylabel("time, share of vanilla's")
        named = [
            Line2D(
                [], [], color=colors[run], marker="o", label=_told(run, precision), **PRECISIONS[precision]
            )
            for run, precision in kinds
        ]
        shapes = {**marks, "vanilla": "x"}
        named += [
            Line2D([], [], marker=mark, linestyle="", color="#475569", label=e) for e, mark in shapes.items()
        ]
        figure.legend(handles=named, loc="outside right center")
        figure.suptitle(title)
        write_figure(figure, Path(path))


def _series(
    rows: list[dict[str, Any]], batch: int, threads: int
) -> dict[tuple[str, str, str | None], list[tuple[float, float]]]:
    """The points of a panel by runtime, precision and exchange; None for vanilla networks."""
    found: dict[tuple[str, str, str | None], list[tuple[float, float]]] = {}
    for row in rows:
        if (row["batch"], row["threads"]) == (batch, threads):
            exchange = (row["exchange"] or "octave") if row["alpha"] > 0 else None
            kind = (row["runtime"], row["precision"], exchange)
            found.setdefault(kind, []).append((row["mac_ratio"], row["time_ratio"]))
    return found


def _cross(precision: str) -> dict[str, Any]:
    return {"linestyle": "", "marker": CROSSES[precision]}


def _told(runtime: str, precision: str) -> str:
    return runtime if precision == "float32" else f"{runtime} {precision}"
