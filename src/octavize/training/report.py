"""The report of a comparison, on one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavize.files import write_text
from octavize.report.figures import color
from octavize.report.naming import network_name, pretty
from octavize.report.numbers import SPACE, points, span
from octavize.report.page import render

BARS = (
    ("macs", "Arithmetic"),
    ("activation_bytes", "Training memory"),
    ("latency", "Latency, {framework}"),
    ("exported", "Latency, exported"),
    ("train_step", "Training step"),
)
"""Ratios drawn on the cards, where they are known: field and label."""


def write_report(results: dict[str, Any], figures: dict[str, str], path: Path) -> None:
    """Write the page.

    Args:
        results: what `results.json` holds.
        figures: SVG text by name, from `draw_figures`.
    """
    page = render(
        "comparison.html.j2",
        r=results,
        figures=figures,
        headline=headline(results),
        caution=caution(results),
        pairs=pairs(results),
        colors={alpha: color(i) for i, alpha in enumerate(sorted(results["recipe"]["alphas"]))},
        bars=[(field, label.format(framework=results["framework"])) for field, label in BARS],
    )
    write_text(path, page)


def headline(results: dict[str, Any]) -> str:
    """What the comparison found, in one sentence computed from its numbers."""
    chance = 1 / len(results["data"]["classes"])
    if all(n["accuracy_mean"] < chance + 0.05 * (1 - chance) for n in results["networks"]):
        share = f"{100 * chance:.0f}{SPACE}%"
        return f"Nothing learned yet: every network is near chance, which is {share}. Train longer."
    octave = [n for n in results["networks"] if n["alpha"] != results["baseline_alpha"]]
    if not octave:
        best = max(results["networks"], key=lambda n: n["accuracy_mean"])
        return f"{pretty(best['model'])} reaches {best['accuracy_mean']:.1%} on {results['data']['name']}."
    alphas = sorted({n["alpha"] for n in octave})
    subject = f"At α = {alphas[0]:g} the octave networks" if len(alphas) == 1 else "The octave networks"
    if len(octave) == 1:
        subject = f"{pretty(octave[0]['model'])} with octave convolutions at α = {alphas[0]:g}"
    if (exchange := results["recipe"]["exchange"]) not in ("both", "every"):  # which are the paper's
        subject += f" (exchange {exchange})"
    base = network_name(results["baseline_alpha"])
    verb = "does" if len(octave) == 1 else "do"
    work = span([round(100 * n["ratios"]["macs"]) for n in octave], str, "%")
    change = accuracy_change([100 * n["accuracy_difference"] for n in octave])
    runtime = results["profile"]["exported_to"]
    field, where = ("latency", results["framework"]) if runtime is None else ("exported", runtime)
    time = span([round(100 * n["ratios"][field]) for n in octave], str, "%")
    return f"{subject} {verb} {work} of the {base} arithmetic in {time} of the time ({where}) and {change}."


def accuracy_change(differences: list[float]) -> str:
    """Differences in points as part of a sentence: `lose 0.4 to 1.2 points of accuracy`."""
    rounded = [round(d, 1) for d in differences]
    sizes = sorted(abs(d) for d in rounded)
    singular = "s" if len(differences) == 1 else ""
    if not any(rounded):
        return f"keep{singular} the accuracy"
    if all(d <= 0 for d in rounded) or all(d >= 0 for d in rounded):
        verb = ("lose" if min(rounded) < 0 else "gain") + singular
        return f"{verb} {span(sizes, '{:.1f}'.format, 'points')} of accuracy"
    return f"change{singular} accuracy by {points(min(rounded))} to {points(max(rounded))}{SPACE}points"


def caution(results: dict[str, Any]) -> str:
    """How far the numbers carry."""
    n = len(results["recipe"]["seeds"])
    if n == 1:
        return (
            "One seed: another run may move every accuracy by a point or so; small differences mean nothing."
        )
    return f"Accuracies are means over {n} seeds, ± the sample standard deviation."


def pairs(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Per architecture its baseline and its other networks, in the recipe's order."""
    found = []
    for model in results["recipe"]["models"]:
        own = [n for n in results["networks"] if n["model"] == model]
        found.append({"model": model, "baseline": own[0], "others": own[1:]})
    return found
