"""One HTML page that holds everything it shows and needs no network, from a template of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from octavize.report.naming import network_name, pretty
from octavize.report.numbers import milliseconds, points, quantity, seconds, setting

FILTERS = {
    "count": "{:,}".format,
    "percent": lambda x: f"{100 * x:.2f}",
    "ratio": "{:.2f}".format,
    "points": points,
    "quantity": quantity,
    "bytes": lambda n: quantity(n) + "B",
    "seconds": seconds,
    "milliseconds": milliseconds,
    "pretty": pretty,
    "network": network_name,
    "setting": setting,
}


def render(template: str, *, figures: Mapping[str, str], **values: Any) -> str:
    """The page.

    Args:
        template: its name; it extends `base.html.j2`.
        figures: SVG texts by name: they are ours, made of paths and numbers, and go in as they are.
        values: of the template. All are escaped: names of folders may hold anything.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader("octavize", "report"),
    )
    environment.filters |= FILTERS
    drawn = {name: Markup(svg) for name, svg in figures.items()}
    return environment.get_template(template).render(figures=drawn, today=date.today().isoformat(), **values)
