"""The report of a comparison, on one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavize.files import write_text
from octavize.report.figures import color
from octavize.report.page import render
from octavize.training.headline import caution, headline

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


def pairs(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Per architecture its baseline and its other networks, in the recipe's order."""
    found = []
    for model in results["recipe"]["models"]:
        own = [n for n in results["networks"] if n["model"] == model]
        found.append({"model": model, "baseline": own[0], "others": own[1:]})
    return found
