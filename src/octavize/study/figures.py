"""A study's figures: paired differences and effects with their intervals, accuracy against MACs, curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from octavize.report.figures import WIDTH, Mark, color, draw_curves, draw_trade_off, save_figures, styled

ROW = 0.3
"""Height of a line of a forest plot, in inches."""


def draw_figures(results: dict[str, Any], out: Path, deployed: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Draw what the results allow into `out/figures`.

    Args:
        results: what `results.json` holds.
        out: the study's folder.
        deployed: of `deployed_rows`.

    Returns:
        SVG text by name: `differences-<model>`, `effects-<model>`, `accuracy-<model>`,
        `deployed-<model>-<precision>`, `curves-<n>-accuracy` and `-loss`. The curves are those of the base
        cells; `curve_titles` says which.
    """
    made: dict[str, Figure] = {}
    with styled():
        for model in results["models"]:
            made |= {f"{kind}-{model}": figure for kind, figure in _of_model(results, model).items()}
            made |= _deployed(results, model, deployed)
        for number, (cell, model) in enumerate(curve_titles(results)):
            curves = {
                net["arm"]: [results["curves"][run] for run in net["runs"]]
                for net in results["networks"]
                if (net["cell"], net["model"]) == (cell, model)
            }
            for quantity in ("accuracy", "loss"):
                made[f"curves-{number}-{quantity}"] = draw_curves(curves, quantity, results["arms"])
        return save_figures(made, out / "figures")


def _of_model(results: dict[str, Any], model: str) -> dict[str, Figure]:
    """Those of `differences`, `effects` and `accuracy` that there is something to draw of."""
    made: dict[str, Figure] = {}
    reference, several = results["reference"], len(base_cells(results)) > 1
    rows = [(label(d), d, d["arm"]) for d in results["differences"] if d["model"] == model]
    if rows:
        made["differences"] = forest(rows, results["arms"], f"test accuracy, points above {reference}")
    rows = [(effect_label(e, several), e, e["arm"]) for e in told_effects(results, model)]
    if rows:
        unit = f"change of that difference to {reference}, points"
        made["effects"] = forest(rows, results["arms"], unit)
    if any(net["model"] == model for net in results["networks"]):
        made["accuracy"] = accuracy_macs(results, model)
    return made


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
        axes.plot(
            seeds, [number] * len(seeds), "o", color=ink, markerfacecolor="white", markersize=4, zorder=3
        )
        if row["low"] is not None:
            axes.plot([100 * row["low"], 100 * row["high"]], [number] * 2, color=ink, linewidth=2)
        axes.plot(mean, number, "D", color=ink, markersize=6, zorder=2.5)
    axes.set_yticks(range(len(rows)), [text.replace("$", r"\$") for text, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(unit.replace("$", r"\$"))
    return figure


def accuracy_macs(results: dict[str, Any], model: str) -> Figure:
    """Test accuracy of a model against its MACs in the base cells: a color an arm, a marker a cell."""
    own = [net for net in results["networks"] if net["model"] == model]
    shown = [net for net in own if net["cell"] in base_cells(results)] or own
    costs = [net["macs"] / 1e6 for net in shown]
    return _trade_off(results, shown, costs, "multiply–accumulates per image, millions")


def _deployed(results: dict[str, Any], model: str, deployed: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """Test accuracy in a runtime against the time of an image there, a figure a precision, where both are
    known."""
    made: dict[str, Figure] = {}
    timed = [row for row in deployed if row["model"] == model and row["ms"]]
    for precision in dict.fromkeys(row["precision"] for row in timed):
        own = [row for row in timed if row["precision"] == precision]
        shown = [row for row in own if row["cell"] in base_cells(results)] or own
        label = f"milliseconds an image, one at a time, one thread, {precision}"
        made[f"deployed-{model}-{precision}"] = _trade_off(
            results, shown, [row["ms"]["1"] for row in shown], label, front=True
        )
    return made


def _trade_off(
    results: dict[str, Any],
    shown: Sequence[dict[str, Any]],
    costs: Sequence[float],
    label: str,
    *,
    front: bool = False,
) -> Figure:
    """Mean accuracies, each with its interval, against costs: a color an arm, a marker a cell."""
    colors = {arm: color(i) for i, arm in enumerate(results["arms"])}
    marks = [
        Mark(
            cost,
            100 * row["mean"],
            None if row["low"] is None else 100 * (row["high"] - row["mean"]),
            colors[row["arm"]],
            row["cell"],
        )
        for row, cost in zip(shown, costs, strict=True)
    ]
    named = {arm: ink for arm, ink in colors.items() if any(row["arm"] == arm for row in shown)}
    several = len({row["cell"] for row in shown}) > 1
    return draw_trade_off(marks, label, named, groups=several, front=front)
