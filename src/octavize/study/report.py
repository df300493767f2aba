"""Results, figures and the page of a study, written together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from octavize.bench.environment import environment
from octavize.files import write_json, write_text
from octavize.report.figures import color
from octavize.report.naming import pretty
from octavize.study.costs import Costs, cost_ratios
from octavize.study.figures import curve_titles, draw_figures
from octavize.study.work import finished
from octavize.training.journal import to_csv
from octavize.training.report import as_markup, points, render

COLUMNS = (
    "cell", "model", "arm", "seed", "test_accuracy", "test_loss", "val_accuracy", "best_epoch", "epochs",
    "alpha", "size", "width", "macs", "reason", "run",
)  # fmt: skip
"""Of `results.csv`."""


def write_results(results: dict[str, Any], out: Path) -> None:
    """Write `results.json` and `results.csv`."""
    write_json(out / "results.json", results)
    write_text(out / "results.csv", to_csv(COLUMNS, results["runs"]))


def write_report(results: dict[str, Any], costs: Costs, matched: Sequence[str], out: Path) -> None:
    """Write the figures and `report.html`; `matched` is what `told` says of matched arms."""
    rows = cost_ratios(results, costs)  # many settings have the same networks, which are shown once
    shown = {tuple(v for k, v in row.items() if k != "cell"): row for row in reversed(rows)}
    page = render(
        "study.html.j2",
        r=results,
        environment=where_trained(results, out),
        matched=matched,
        costs=costs,
        ratios=list(reversed(shown.values())),
        figures=as_markup(draw_figures(results, out)),
        headline=headline(results),
        caution=caution(results),
        titles=[
            (f"{pretty(model)}, {cell}", f"curves-{i}")
            for i, (cell, model) in enumerate(curve_titles(results))
        ],
        colors={arm: color(i) for i, arm in enumerate(results["arms"])},
        interval=interval,
    )
    write_text(out / "report.html", page)


def headline(results: dict[str, Any]) -> str:
    """What the differences say, in one sentence counted from their intervals."""
    found, reference = results["differences"], results["reference"]
    arms = [arm for arm in results["arms"] if arm != reference]
    if not found:
        return f"No pair of {' or '.join(arms) or 'arms'} and {reference} is finished yet."
    if all(d["low"] is None for d in found):
        low, high = (100 * f(d["mean"] for d in found) for f in (min, max))
        return (
            f"One seed so far: {points(low)} to {points(high)} points against {reference}, by chance or not."
        )
    clear = [d for d in found if d["low"] is not None]
    single = len(found) - len(clear)
    below = sum(d["high"] < 0 for d in clear)
    above = sum(d["low"] > 0 for d in clear)
    return (
        f"Differences to {reference}, by their 95 % intervals: {above} above zero, {below} below, "
        f"{len(clear) - above - below} undecided" + (f"; {single} with one seed." if single else ".")
    )


def caution(results: dict[str, Any]) -> str:
    """How far the numbers carry."""
    seeds = max((net["n"] for net in results["networks"]), default=0)
    done = f"{results['done']} of {results['planned']} runs are done"
    failed = f", {len(results['failed'])} failed" if results["failed"] else ""
    many = sum(row["low"] is not None for row in results["differences"] + results["effects"])
    if not many:
        return f"{done}{failed}. One seed tells no interval."
    return (
        f"{done}{failed}. Intervals are of the mean over at most {seeds} seeds, each on its own: of "
        f"{many} intervals about one in twenty misses its true value."
    )


def interval(row: dict[str, Any]) -> str:
    """`−1.2 (−2.0 to −0.4)`, in points; without the brackets where there is one seed."""
    if row["low"] is None:
        return points(100 * row["mean"])
    return f"{points(100 * row['mean'])} ({points(100 * row['low'])} to {points(100 * row['high'])})"


def where_trained(results: dict[str, Any], out: Path) -> dict[str, Any]:
    """Versions and hardware of the last finished run; of this process where none is finished."""
    known = (finished(out / "runs" / run["run"]) for run in reversed(results["runs"]))
    return next((result["environment"] for result in known if result), environment())
