"""A study's figures: paired differences and effects with their intervals, accuracy against MACs, curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from octavize.report.figures import (
    MARKERS,
    STYLE,
    WIDTH,
    add_legend,
    blank_figure,
    color,
    cost_axis,
    draw_curves,
    save_figure,
)
from octavize.training.journal import read_metrics

ROW = 0.3
"""Height of a line of a forest plot, in inches."""


def draw_figures(results: dict[str, Any], out: Path) -> dict[str, str]:
    """Draw what the results allow into `out/figures`.

    Args:
        results: what `results.json` holds.
        out: the study's folder, whose `runs/*/metrics.csv` the curves come from.

    Returns:
        SVG text by name: `differences-<model>`, `effects-<model>`, `accuracy-<model>`,
        `curves-<n>-accuracy` and `-loss`. The curves are those of the base cells; `curve_titles` says which.
    """
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    made: dict[str, Figure] = {}
    several = len(base_cells(results)) > 1
    with matplotlib.rc_context(STYLE):
        for model in results["models"]:
            rows = [(label(d), d, d["arm"]) for d in results["differences"] if d["model"] == model]
            if rows:
                unit = f"test accuracy, points above {results['reference']}"
                made[f"differences-{model}"] = forest(rows, results["arms"], unit)
            rows = [(effect_label(e, several), e, e["arm"]) for e in told_effects(results, model)]
            if rows:
                unit = f"change of that difference to {results['reference']}, points"
                made[f"effects-{model}"] = forest(rows, results["arms"], unit)
            if any(net["model"] == model for net in results["networks"]):
                made[f"accuracy-{model}"] = accuracy_macs(results, model)
        for number, (cell, model) in enumerate(curve_titles(results)):
            for quantity in ("accuracy", "loss"):
                curves = {
                    net["arm"]: [read_metrics(out / "runs" / run) for run in net["runs"]]
                    for net in results["networks"]
                    if (net["cell"], net["model"]) == (cell, model)
                }
                made[f"curves-{number}-{quantity}"] = draw_curves(curves, quantity, results["arms"])
        return {name: save_figure(figure, folder / name) for name, figure in made.items()}


def base_cells(results: dict[str, Any]) -> list[str]:
    """Cells that others depart from."""
    return [cell["name"] for cell in results["cells"] if cell["name"] == cell["base"]]


def curve_titles(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Cell and model of each figure of curves."""
    found = {(net["cell"], net["model"]): None for net in results["networks"]}
    return [which for which in found if which[0] in base_cells(results)]


def told_effects(results: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """The effects on differences; those on plain accuracies stand in the report's table."""
    return [e for e in results["effects"] if e["model"] == model and e["of"] == "difference"]


def label(difference: dict[str, Any]) -> str:
    """A line of the forest plot of differences."""
    return f"{difference['cell']} · {difference['arm']}"


def effect_label(effect: dict[str, Any], several: bool) -> str:
    """A line of the forest plot of effects; where several cells are bases it names the one."""
    base = f" (from {effect['base']})" if several else ""
    return f"{effect['factor']}: {effect['from']} → {effect['to']}{base} · {effect['arm']}"


def forest(rows: Sequence[tuple[str, dict[str, Any], str]], arms: Sequence[str], unit: str) -> Figure:
    """A line each: the mean as a mark, the 95 % interval as a bar, single seeds as dots."""
    longest = max(len(text) for text, _, _ in rows)
    size = (WIDTH * 1.2 + 0.055 * longest, 1.1 + ROW * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="#94a3b8", linewidth=1)
    for number, (_, row, arm) in enumerate(rows):
        ink, mean = color(arms.index(arm)), 100 * row["mean"]
        seeds = [100 * value for value in row["values"].values()]
        axes.plot(seeds, [number] * len(seeds), ".", color=ink, alpha=0.4, markersize=5)
        if row["low"] is not None:
            axes.plot([100 * row["low"], 100 * row["high"]], [number] * 2, color=ink, linewidth=2)
        axes.plot(mean, number, "D", color=ink, markersize=6)
    axes.set_yticks(range(len(rows)), [text.replace("$", r"\$") for text, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(unit.replace("$", r"\$"))
    return figure


def accuracy_macs(results: dict[str, Any], model: str) -> Figure:
    """Test accuracy of a model against its MACs in the base cells: a color an arm, a marker a cell."""
    figure, axes = blank_figure()
    own = [net for net in results["networks"] if net["model"] == model]
    shown = [net for net in own if net["cell"] in base_cells(results)] or own
    cells = list(dict.fromkeys(net["cell"] for net in shown))
    arms = [arm for arm in results["arms"] if any(net["arm"] == arm for net in shown)]
    for net in shown:
        spread = None if net["low"] is None else 100 * (net["high"] - net["mean"])
        axes.errorbar(
            net["macs"] / 1e6, 100 * net["mean"], yerr=spread, marker=_marker(cells.index(net["cell"])),
            markersize=7, capsize=3, color=color(results["arms"].index(net["arm"])),
        )  # fmt: skip
    cost_axis(axes, [net["macs"] / 1e6 for net in shown])
    axes.set_xlabel("multiply–accumulates per image, millions")
    axes.set_ylabel("test accuracy, %")
    axes.margins(x=0.12, y=0.18)
    colors = [(arm, color(results["arms"].index(arm))) for arm in arms]
    handles = [Line2D([], [], color=ink, linewidth=5, label=arm) for arm, ink in colors]
    if len(cells) > 1:
        handles += [
            Line2D([], [], color="#64748b", linestyle="", marker=_marker(i), markersize=7, label=cell)
            for i, cell in enumerate(cells)
        ]
    add_legend(axes, handles)
    return figure


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]
