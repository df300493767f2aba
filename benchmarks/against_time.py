"""What networks score against the milliseconds they take: a figure with a panel a precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from octavize.deploy.formats import PRECISIONS
from octavize.report.figures import WIDTH, color, marker_handle, styled, write_figure
from octavize.study.analysis import summary

BySeed = Mapping[int, float]
"""Scores, 0 … 1."""
Point = tuple[float | None, BySeed]
"""Milliseconds, None where they were not measured, and scores of an arm."""


def draw(rows: Mapping[str, Sequence[Sequence[Point]]], arms: Sequence[str], x: str, path: Path) -> None:
    """Means with their deviations over seeds.

    Args:
        rows: by what is scored, the label of its axis: for each precision a point an arm, in their order.
        arms: their names.
        x: what milliseconds are of, such as "ms an image".
        path: of the SVG.
    """
    from matplotlib.figure import Figure

    with styled():
        size = (2 * WIDTH, (0.2 + 0.4 * len(rows)) * WIDTH)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(rows), len(PRECISIONS), sharey="row", sharex="col", squeeze=False)
        for (label, panels), line in zip(rows.items(), grid, strict=True):
            for points, axes in zip(panels, line, strict=True):
                for number, (time, scores) in enumerate(points):
                    if scores and time is not None:
                        found = summary([100 * score for score in scores.values()])
                        axes.errorbar(
                            time, found["mean"], yerr=found["std"], marker="o", capsize=3, color=color(number)
                        )
            line[0].set_ylabel(label)
        for precision, top, bottom in zip(PRECISIONS, grid[0], grid[-1], strict=True):
            top.set_title(precision, fontsize=9)
            bottom.set_xlabel(x)
        handles = [marker_handle("o", name) for name in arms]
        for number, handle in enumerate(handles):
            handle.set_color(color(number))
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        write_figure(figure, path)


def with_deviation(scores: BySeed) -> str:
    """A mean in percent, and its deviation and n where there are several."""
    if not scores:
        return "–"
    found = summary(list(scores.values()))
    spread = "" if found["std"] is None else f" ± {100 * found['std']:.1f}"
    return f"{100 * found['mean']:.1f}{spread} ({found['n']})"
