"""The report: one HTML page that holds everything it shows and needs no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from octavize.files import write_text
from octavize.report.figures import color
from octavize.report.naming import network_name, pretty

BARS = (
    ("macs", "Arithmetic"),
    ("activation_bytes", "Training memory"),
    ("latency", "Latency"),
    ("train_step", "Training step"),
)
"""Ratios drawn on the cards: field and label."""


SPACE = "\u00a0"
"""Keeps a number and its unit on one line."""


def write_report(results: dict[str, Any], figures: dict[str, str], path: Path) -> None:
    """Write the page.

    Args:
        results: what `results.json` holds.
        figures: SVG text by name, from `draw_figures`.
    """
    page = render(
        "report.html.j2",
        r=results,
        figures=as_markup(figures),
        headline=headline(results),
        caution=caution(results),
        pairs=pairs(results),
        colors={alpha: color(i) for i, alpha in enumerate(sorted(results["recipe"]["alphas"]))},
        bars=BARS,
    )
    write_text(path, page)


def as_markup(figures: dict[str, str]) -> dict[str, Markup]:
    """SVG texts as they are: they are ours, made of paths and numbers."""
    return {name: Markup(svg) for name, svg in figures.items()}


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder. Every value is escaped: names of folders may hold anything."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_template),
    )
    environment.filters |= {
        "count": lambda n: f"{n:,}",
        "percent": lambda x: f"{100 * x:.2f}",
        "points": points,
        "quantity": quantity,
        "bytes": lambda n: quantity(n) + "B",
        "seconds": seconds,
        "milliseconds": lambda x: f"{x:,.0f} ms" if x >= 100 else f"{x:.1f} ms",
        "ratio": lambda x: f"{x:.2f}",
        "pretty": pretty,
        "network": network_name,
        "setting": setting,
    }
    return environment.get_template(template).render(today=date.today().isoformat(), **values)


def _template(name: str) -> str:
    return files("octavize.report").joinpath(name).read_text(encoding="utf-8")


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
    base = network_name(results["baseline_alpha"])
    verb = "does" if len(octave) == 1 else "do"
    work = span([round(100 * n["ratios"]["macs"]) for n in octave], str, "%")
    change = accuracy_change([100 * n["accuracy_difference"] for n in octave])
    time = span([round(100 * n["ratios"]["latency"]) for n in octave], str, "%")
    return f"{subject} {verb} {work} of the {base} arithmetic in {time} of the time and {change}."


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


def span(values: Sequence[float], show: Callable[[float], str], unit: str) -> str:
    """`56 %`, or `56 to 58 %` where values differ as shown."""
    low, high = show(min(values)), show(max(values))
    return f"{low}{SPACE}{unit}" if low == high else f"{low} to {high}{SPACE}{unit}"


def points(difference: float) -> str:
    """A signed difference with one decimal and a real minus sign; never −0.0."""
    rounded = round(difference, 1)
    return "±0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")


def quantity(number: float) -> str:
    """Three significant digits with a decimal prefix: 25557032 is `25.6 M`."""
    if number == 0:
        return "0 "
    power = min(3, max(0, int(math.log10(abs(number)) // 3)))
    scaled = number / 1000**power
    digits = max(0, 2 - int(math.log10(abs(scaled)))) if power else 0
    return f"{scaled:.{digits}f} {('', 'k', 'M', 'G')[power]}"


def seconds(value: float) -> str:
    """`45 s`, `12 min`, `2 h 05 min`."""
    if value < 120:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def setting(value: Any) -> str:
    """A recipe's value as a person would write it."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {setting(v)}" for k, v in value.items()) or "—"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
