"""One look for all figures, one way to save them, and those that several reports show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Vanilla is the quiet one. The others are told apart by color-blind readers too.
COLOURS = (
    "#475569",
    "#e8590c",
    "#0d9488",
    "#7c3aed",
    "#db2777",
    "#2563eb",
    "#65a30d",
    "#f59e0b",
    "#92400e",
    "#38bdf8",
    "#881337",
    "#a3a3a3",
)
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, FAINT = "#1e293b", "#e2e8f0"
DASHED: Any = (0, (4, 2))
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
METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": ""},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""The same figure is the same file, whenever it is drawn."""
WIDTH, HEIGHT = 5.2, 3.5
"""Of one figure, in inches: two stand side by side on a screen, one fills a phone."""


Curve = Mapping[str, Sequence[float | None]]
"""Of one run, by the name of a quantity a value for each epoch; None stands for what is not finite."""


def styled() -> AbstractContextManager[Any]:
    """The look of the figures that are made and saved inside."""
    return matplotlib.rc_context(STYLE)


def color(position: int) -> str:
    """Of the network with the n-th smallest α, here and in the report."""
    return COLOURS[position % len(COLOURS)]


def draw_curves(curves: Mapping[str, Sequence[Curve]], quantity: str, names: Sequence[str]) -> Figure:
    """Train (dashed) and validation (solid) against epoch: the mean over seeds and their range.

    Args:
        curves: by the name of a network, that of each seed, with `train_<quantity>` and `val_<quantity>`.
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
        Line2D([], [], color="#94a3b8", linewidth=1.4, linestyle=DASHED, label="train"),
    ]
    if quantity == "loss":
        _cut_spikes(axes, [seed for seeds in curves.values() for seed in seeds])
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy, %" if quantity == "accuracy" else "loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(axes, handles)
    return figure


def _cut_spikes(axes: Axes, runs: Sequence[Curve]) -> None:
    """End the loss axis where it still shows the training; a first epoch's validation may be far above."""
    shown = [value for run in runs for value in (*run["train_loss"], run["val_loss"][-1])]
    top = 1.25 * max(value for value in shown if value is not None)
    axes.set_ylim(bottom=0)
    if any(value is None or value > top for run in runs for value in run["val_loss"]):
        axes.set_ylim(top=top)


def _line(axes: Axes, curves: Sequence[Curve], field: str, ink: str, *, dashed: bool) -> None:
    # Of shape (seeds, epochs); where a value is not finite there is a gap.
    seeds = np.array([curve[field] for curve in curves], dtype=float)
    seeds *= 100 if field.endswith("accuracy") else 1
    epochs = np.arange(seeds.shape[1]) + 1
    marker = "." if len(epochs) <= 15 else ""
    style = DASHED if dashed else "-"
    width = 1.4 if dashed else 2
    axes.plot(epochs, seeds.mean(0), color=ink, linestyle=style, linewidth=width, marker=marker)
    if len(seeds) > 1:
        alpha = 0.12 if dashed else 0.2
        axes.fill_between(epochs, seeds.min(0), seeds.max(0), color=ink, alpha=alpha, linewidth=0)


@dataclass(frozen=True)
class Mark:
    """A network in a figure of accuracy against cost: where it lies, and by what it is recognized."""

    cost: float
    accuracy: float
    spread: float | None
    color: str
    group: str
    """What its marker stands for."""


def draw_trade_off(
    marks: Sequence[Mark],
    label: str,
    colors: Mapping[str, str],
    *,
    joined: bool = False,
    groups: bool = True,
    front: bool = False,
) -> Figure:
    """Test accuracy in per cent against a cost.

    Args:
        label: of the cost.
        colors: what the legend says of each color.
        joined: draw a line through the networks of a group.
        groups: tell in the legend what the markers stand for.
        front: draw the Pareto front: the best mean accuracy that each cost buys.
    """
    figure, axes = blank_figure()
    markers = dict(zip(dict.fromkeys(mark.group for mark in marks), itertools.cycle(MARKERS), strict=False))
    for group in markers if joined else ():
        own = [mark for mark in marks if mark.group == group]
        axes.plot([m.cost for m in own], [m.accuracy for m in own], color="#cbd5e1", linewidth=1.5, zorder=1)
    for mark in marks:
        axes.errorbar(
            mark.cost, mark.accuracy, yerr=mark.spread, marker=markers[mark.group], markersize=8, capsize=3,
            color=mark.color, zorder=2,
        )  # fmt: skip
    cost_axis(axes, [mark.cost for mark in marks])
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy, %")
    axes.margins(x=0.12, y=0.18)
    handles = [Line2D([], [], color=ink, linewidth=5, label=name) for name, ink in colors.items()]
    if groups:
        handles += [marker_handle(marker, group) for group, marker in markers.items()]
    if front:
        best = pareto_front(marks)
        costs, accuracies = [m.cost for m in best], [m.accuracy for m in best]
        axes.plot(
            costs, accuracies, color=INK, linewidth=1, linestyle=DASHED, drawstyle="steps-post", zorder=1
        )
        axes.plot(
            costs, accuracies, "o", markersize=15, markeredgecolor=INK, markerfacecolor="none", zorder=3
        )
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=DASHED, label="Pareto front"))
    add_legend(axes, handles)
    return figure


def pareto_front(marks: Sequence[Mark]) -> list[Mark]:
    """From the cheapest to the dearest, those more accurate than all that cost no more."""
    found: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.cost, -mark.accuracy)):
        if not found or mark.accuracy > found[-1].accuracy:
            found.append(mark)
    return found


def marker_handle(marker: str, label: str) -> Line2D:
    """A line of a legend that says what a marker stands for."""
    return Line2D([], [], color="#64748b", linestyle="", marker=marker, markersize=7, label=label)


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
    """A figure of the report's size with one pair of axes; draw it within `styled()`."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    return figure, figure.add_subplot()


def add_legend(axes: Axes, handles: list[Line2D]) -> None:
    """A legend above the axes; names are no mathematics. The figure grows by the rows of many names."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    fitting = int(figure.get_figwidth() / (0.07 * longest + 0.45))  # letters and a line, in inches
    columns = max(1, min(2 if len(handles) in (2, 4) else 3, fitting))
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, math.ceil(len(handles) / columns) - 3))
    for handle in handles:
        handle.set_label(str(handle.get_label()).replace("$", r"\$"))
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2,
        handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip


def save_figures(figures: Mapping[str, Figure], folder: Path) -> dict[str, str]:
    """Write `<name>.svg` and `<name>.png` of each; returns the SVG texts by name."""
    folder.mkdir(exist_ok=True)
    texts: dict[str, str] = {}
    for name, figure in figures.items():
        write_figure(figure, folder / f"{name}.png")
        write_figure(figure, path := folder / f"{name}.svg")
        text = path.read_text("utf-8")
        texts[name] = text[text.index("<svg") :]
    return texts


def write_figure(figure: Figure, path: Path) -> None:
    """Write one file; its suffix, .png, .svg or .pdf, says of which kind."""
    # The salt makes the ids inside an SVG differ between figures, since all end up in one page.
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, dpi=200, metadata=METADATA[path.suffix])
