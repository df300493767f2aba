"""A comparison's figures: learning curves, and accuracy against cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from octavize.report.figures import Mark, color, draw_curves, draw_trade_off, save_figures, styled
from octavize.report.naming import network_name, pretty, run_slug


def draw_figures(results: dict[str, Any], out: Path) -> dict[str, str]:
    """Draw every figure of a comparison into `out/figures`.

    Args:
        results: what `results.json` holds.
        out: the comparison's folder.

    Returns:
        SVG text by figure name: `curves-<model>-accuracy`, `curves-<model>-loss`, `accuracy-macs`,
        `accuracy-latency`.
    """
    batch = results["profile"]["input_shape"][0]
    with styled():
        made = {
            f"curves-{model}-{quantity}": _curves(results, model, quantity)
            for model in results["recipe"]["models"]
            for quantity in ("accuracy", "loss")
        }
        made["accuracy-macs"] = _trade_off(results, "macs", 1e6, "multiply–accumulates per image, millions")
        made["accuracy-latency"] = _trade_off(
            results, "latency_ms", 1, f"measured latency of {batch} images, ms"
        )
        return save_figures(made, out / "figures")


def _curves(results: dict[str, Any], model: str, quantity: str) -> Figure:
    recipe, curves = results["recipe"], results["curves"]
    found = {
        network_name(alpha): [curves[run_slug(model, alpha, seed)] for seed in recipe["seeds"]]
        for alpha in sorted(recipe["alphas"])
    }
    return draw_curves(found, quantity, list(found))


def _trade_off(results: dict[str, Any], field: str, scale: float, label: str) -> Figure:
    """A marker per network, the α of one architecture joined by a line."""
    colors = {alpha: color(i) for i, alpha in enumerate(sorted(results["recipe"]["alphas"]))}
    marks = [
        Mark(
            net[field] / scale,
            100 * net["accuracy_mean"],
            None if net["accuracy_std"] is None else 100 * net["accuracy_std"],
            colors[net["alpha"]],
            pretty(net["model"]),
        )
        for net in results["networks"]
    ]
    named = {network_name(alpha): ink for alpha, ink in colors.items()}
    return draw_trade_off(marks, label, named, joined=True)
