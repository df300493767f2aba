"""Results, figures and the page of a study, written together."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from octavize.deploy.formats import timed_formats
from octavize.files import write_json, write_text
from octavize.report.figures import color
from octavize.report.naming import pretty
from octavize.report.numbers import SPACE, points
from octavize.report.page import render
from octavize.study.arms import told
from octavize.study.costs import Costs, cost_ratios
from octavize.study.deployed import deployed_rows
from octavize.study.estimate import hindsight
from octavize.study.figures import curve_titles, draw_figures
from octavize.study.work import finished
from octavize.text import to_csv

COLUMNS = (
    "cell", "model", "arm", "seed", "test_accuracy", "test_loss", "val_accuracy", "best_epoch", "epochs",
    "alpha", "size", "width", "macs", "reason", "run",
)  # fmt: skip
"""Of `results.csv`, beside the accuracy in each precision of a runtime."""


def write_results(results: dict[str, Any], out: Path) -> None:
    """Write `results.json` and `results.csv`."""
    write_json(out / "results.json", results)
    precisions = results["deploy"]["precisions"] if results["deploy"] else ()
    columns = {f"test_accuracy_{name}": name for name in precisions}
    rows = [
        {**run, **{column: run["deployed"].get(name) for column, name in columns.items()}}
        for run in results["runs"]
    ]
    write_text(out / "results.csv", to_csv((*COLUMNS, *columns), rows))


def write_report(results: dict[str, Any], costs: Costs, out: Path) -> None:
    """Write the figures and `report.html`."""
    rows = cost_ratios(results, costs)  # many settings have the same networks, which are shown once
    shown = {tuple(v for k, v in row.items() if k != "cell"): row for row in reversed(rows)}
    times, deployed = train_seconds(results, out), deployed_rows(results, costs)
    page = render(
        "study.html.j2",
        r=results,
        times=times,
        hindsight=hindsight(times, out),
        matched=told(results["matched"]),
        costs=costs,
        ratios=list(reversed(shown.values())),
        deployed=deployed,
        runtime=timed_formats()[results["deploy"]["runtime"]].runtime if results["deploy"] else "",
        figures=draw_figures(results, out, deployed),
        headline=headline(results),
        caution=caution(results),
        titles=[
            (f"{pretty(model)}, {cell}", f"curves-{i}")
            for i, (cell, model) in enumerate(curve_titles(results))
        ],
        colors={arm: color(i) for i, arm in enumerate(results["arms"])},
        seconds_of=lambda net: statistics.median(times[run] for run in net["runs"]),
        interval=interval,
    )
    write_text(out / "report.html", page)


def train_seconds(results: dict[str, Any], out: Path) -> dict[str, float]:
    """Wall time of the training of each finished run; no part of `results.json`, where no clock counts."""
    ends = {run["run"]: finished(out / "runs" / run["run"]) for run in results["runs"]}
    return {run: end["train_seconds"] for run, end in ends.items() if end is not None}


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
        f"Differences to {reference}, by their 95{SPACE}% intervals: {above} above zero, {below} below, "
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
