"""Numbers as a person would write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

SPACE = "\u00a0"
"""Keeps a number and its unit on one line."""


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


def milliseconds(value: float) -> str:
    """`5.3 ms`, `1,204 ms`."""
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def setting(value: Any) -> str:
    """A recipe's value."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {setting(v)}" for k, v in value.items()) or "—"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
