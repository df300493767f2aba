"""The report's figures, each as PNG and SVG: learning curves, and accuracy against cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from octavize.report.naming import network_name, pretty, run_slug
from octavize.training.journal import Row, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Vanilla is the quiet one. The others are told apart by color-blind readers too.
COLOURS = ("#475569", "#e8590c", "#0d9488", "#7c3aed", "#db2777", "#2563eb", "#65a30d", "#f59e0b", "#92400e")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, FAINT = "#1e293b", "#e2e8f0"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": "#64748b",
    "ytick.color": "#64748b",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",  # looks the same on a machine without these fonts
    "figure.facecolor": "white",
}
WIDTH, HEIGHT = 5.2, 3.5
"""Of one figure, in inches: two stand side by side on a screen, one fills a phone."""


def color(position: int) -> str:
    """Of the network with the n-th smallest α, here and in the report."""
    return COLOURS[position % len(COLOURS)]


def draw_figures(results: dict[str, Any], out: Path) -> dict[str, str]:
    """Draw every figure of a comparison into `out/figures`.

    Args:
        results: what `results.json` holds.
        out: the comparison's folder, whose `runs/*/metrics.csv` the curves come from.

    Returns:
        SVG text by figure name: `curves-<model>-accuracy`, `curves-<model>-loss`, `accuracy-macs`,
        `accuracy-latency`.
    """
    recipe = results["recipe"]
    alphas = sorted(recipe["alphas"])
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    drawn: dict[str, str] = {}
    with matplotlib.rc_context(STYLE):
        for model in recipe["models"]:
            curves = {
                network_name(a): [read_metrics(out / "runs" / run_slug(model, a, s)) for s in recipe["seeds"]]
                for a in alphas
            }
            for quantity in ("accuracy", "loss"):
                name = f"curves-{model}-{quantity}"
                drawn[name] = save_figure(draw_curves(curves, quantity, list(curves)), folder / name)
        batch = results["profile"]["input_shape"][0]
        for name, field, label in (
            ("accuracy-macs", "macs", "multiply–accumulates per image, millions"),
            ("accuracy-latency", "latency_ms", f"measured latency of {batch} images, ms"),
        ):
            drawn[name] = save_figure(_trade_off(results["networks"], alphas, field, label), folder / name)
    return drawn


def draw_curves(curves: dict[str, list[list[Row]]], quantity: str, names: Sequence[str]) -> Figure:
    """Train (dashed) and validation (solid) against epoch: the mean over seeds and their range.

    Args:
        curves: by the name of a network, a list per seed of the lines of its `metrics.csv`.
        quantity: `accuracy` or `loss`.
        names: of all networks, also of those without a curve yet: each keeps its color.
    """
    figure, axes = blank_figure()
    handles = []
    for name, seeds in curves.items():
        ink = color(names.index(name))
        _line(axes, seeds, f"train_{quantity}", ink, dashed=True)
        _line(axes, seeds, f"val_{quantity}", ink, dashed=False)
        handles.append(Line2D([], [], color=ink, linewidth=2, label=name))
    handles += [
        Line2D([], [], color="#94a3b8", linewidth=2, label="validation"),
        Line2D([], [], color="#94a3b8", linewidth=1.4, linestyle=(0, (4, 2)), label="train"),
    ]
    if quantity == "loss":
        _cut_spikes(axes, curves)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy, %" if quantity == "accuracy" else "loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(axes, handles)
    return figure


def _cut_spikes(axes: Axes, curves: dict[str, list[list[Row]]]) -> None:
    """End the loss axis where it still shows the training; a first epoch's validation may be far above."""
    rows = [row for seeds in curves.values() for run in seeds for row in run]
    last = [run[-1]["val_loss"] for seeds in curves.values() for run in seeds]
    top = 1.25 * max([row["train_loss"] for row in rows] + [v for v in last if math.isfinite(v)])
    axes.set_ylim(bottom=0)
    if max(row["val_loss"] for row in rows) > top:
        axes.set_ylim(top=top)


def _line(axes: Axes, seeds: Sequence[list[Row]], field: str, ink: str, *, dashed: bool) -> None:
    scale = 100 if field.endswith("accuracy") else 1
    epochs = [row["epoch"] for row in seeds[0]]
    columns = [[scale * rows[i][field] for rows in seeds] for i in range(len(epochs))]
    means = [statistics.fmean(column) for column in columns]
    marker = "." if len(epochs) <= 15 else ""
    style: Any = (0, (4, 2)) if dashed else "-"
    axes.plot(epochs, means, color=ink, linestyle=style, linewidth=1.4 if dashed else 2, marker=marker)
    if len(seeds) > 1:
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(epochs, low, high, color=ink, alpha=0.12 if dashed else 0.2, linewidth=0)


def _trade_off(networks: list[dict[str, Any]], alphas: list[float], field: str, label: str) -> Figure:
    """Accuracy against a cost: a marker per network, the α of one architecture joined by a line."""
    figure, axes = blank_figure()
    scale = 1e6 if field == "macs" else 1
    models = list(dict.fromkeys(n["model"] for n in networks))
    costs = [n[field] / scale for n in networks]
    for number, model in enumerate(models):
        own = [n for n in networks if n["model"] == model]
        x, y = [n[field] / scale for n in own], [100 * n["accuracy_mean"] for n in own]
        axes.plot(x, y, color="#cbd5e1", linewidth=1.5, zorder=1)
        for n, at, accuracy in zip(own, x, y, strict=True):
            spread = 100 * n["accuracy_std"] if n["accuracy_std"] is not None else None
            axes.errorbar(
                at, accuracy, yerr=spread, marker=MARKERS[number % len(MARKERS)], markersize=8, capsize=3,
                color=color(alphas.index(n["alpha"])), zorder=2,
            )  # fmt: skip
    cost_axis(axes, costs)
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy, %")
    axes.margins(x=0.12, y=0.18)
    handles = [
        Line2D([], [], color=color(i), linewidth=5, label=network_name(a)) for i, a in enumerate(alphas)
    ] + [
        Line2D(
            [],
            [],
            color="#64748b",
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            markersize=7,
            label=pretty(m),
        )
        for i, m in enumerate(models)
    ]
    add_legend(axes, handles)
    return figure


def cost_axis(axes: Axes, costs: list[float]) -> None:
    """Logarithmic where costs differ a lot, always with plain numbers at ticks people can read."""
    low, high = min(costs), max(costs)
    if high < 4 * low:
        return
    axes.set_xscale("log")
    steps = [m * 10.0**e for e in range(-3, 7) for m in (1, 2, 5)]
    axes.set_xticks([s for s in steps if low / 1.6 <= s <= high * 1.6])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def blank_figure() -> tuple[Figure, Axes]:
    """A figure of the report's size with one pair of axes; draw it within `rc_context(STYLE)`."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    return figure, figure.add_subplot()


def add_legend(axes: Axes, handles: list[Line2D]) -> None:
    """A legend above the axes; names are no mathematics."""
    for handle in handles:
        handle.set_label(str(handle.get_label()).replace("$", r"\$"))
    columns = 2 if len(handles) % 2 == 0 and len(handles) <= 4 else 3
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2,
        handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip


def save_figure(figure: Figure, path: Path) -> str:
    """Write `path`.svg and `path`.png; returns the SVG text."""
    # The salt makes the ids inside the SVG differ between figures, since all end up in one page.
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(Path(f"{path}.svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(Path(f"{path}.png"), dpi=200, metadata={"Software": ""})
    text = Path(f"{path}.svg").read_text("utf-8")
    return text[text.index("<svg") :]
