"""From finished runs and their costs to figures one can quote, and the files of a run folder. No framework is
needed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavize.files import write_json, write_text
from octavize.report.naming import alpha_text, network_name, pretty, run_slug
from octavize.text import Table, to_csv
from octavize.training.metrics import curve
from octavize.training.recipe import Recipe
from octavize.training.runs import TORCH

Results = dict[str, Any]
Costs = dict[str, dict[str, Any]]
"""Per network (see `key`) the fields of `octavize.bench.profile.Profile`."""
RUN_COLUMNS = (
    "model", "alpha", "seed", "test_accuracy", "test_loss", "val_accuracy", "best_epoch", "epochs",
    "train_seconds", "params", "macs", "activation_bytes", "latency_ms", "latency_ratio",
    "train_step_ms", "train_step_ratio", "exported_ms", "exported_ratio",
)  # fmt: skip
COUNTED = ("params", "macs", "activation_bytes")
"""Costs whose ratio to the baseline is a plain division; measured times bring their own."""


@dataclass(frozen=True)
class Timing:
    """How costs are measured once training is done."""

    batch: int = 64
    """Images per timed call."""
    rounds: int = 10
    """Timed calls per network, the networks taking turns."""


DEFAULT_TIMING = Timing()


def write_summary(recipe: Recipe, runs: list[dict[str, Any]], profile: dict[str, Any], out: Path) -> Results:
    """Average, and write `results.csv`, `results.json`, figures and report.

    Args:
        runs: what `result.json` of each run holds.
        profile: what `profile.json` holds.
    """
    from octavize.training.figures import draw_figures
    from octavize.training.report import write_report

    slugs = [run_slug(run["model"], run["alpha"], run["seed"]) for run in runs]
    results: Results = {
        "recipe": recipe.as_dict(),
        "framework": runs[0].get("framework", TORCH),
        "data": runs[0]["data"],
        "environment": runs[0]["environment"],
        "profile": {k: v for k, v in profile.items() if k != "networks"},
        "baseline_alpha": min(recipe.alphas),
        "networks": summarize(recipe, runs, profile["networks"]),
        "curves": {slug: curve(out / "runs" / slug) for slug in slugs},
    }
    rows = [{**run, **profile["networks"][key(run["model"], run["alpha"])]} for run in runs]
    write_text(out / "results.csv", to_csv(RUN_COLUMNS, rows))
    write_json(out / "results.json", results)
    write_report(results, draw_figures(results, out), out / "report.html")
    return results


def key(model: str, alpha: float) -> str:
    """Name of a network (model × α) in `profile.json`."""
    return f"{model} α={alpha_text(alpha)}"


def summarize(recipe: Recipe, runs: list[dict[str, Any]], costs: Costs) -> list[dict[str, Any]]:
    """One record per network: means over seeds, costs, ratios to the network of the smallest α."""
    records = []
    for model in recipe.models:
        baseline: dict[str, Any] | None = None
        for alpha in sorted(recipe.alphas):
            record = _record(model, alpha, runs, costs[key(model, alpha)])
            baseline = baseline or record
            record["ratios"] = {
                **{k: None if record[k] is None else record[k] / baseline[k] for k in COUNTED},
                "latency": record["latency_ratio"],
                "train_step": record["train_step_ratio"],
                "exported": record["exported_ratio"],
            }
            record["accuracy_difference"] = record["accuracy_mean"] - baseline["accuracy_mean"]
            records.append(record)
    return records


def _record(model: str, alpha: float, runs: list[dict[str, Any]], costs: dict[str, Any]) -> dict[str, Any]:
    own = [run for run in runs if run["model"] == model and run["alpha"] == alpha]
    accuracies = [run["test_accuracy"] for run in own]
    return {
        "model": model,
        "alpha": alpha,
        "n": len(own),
        "epochs": own[0]["epochs"],
        "accuracies": accuracies,
        "accuracy_mean": statistics.fmean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if len(own) > 1 else None,
        "train_seconds": statistics.fmean(run["train_seconds"] for run in own),
        **costs,
    }


def table(results: Results) -> Table:
    """The comparison for a terminal of 80 columns; the rest is in the report."""
    rows = []
    for record in results["networks"]:
        std, ratios = record["accuracy_std"], record["ratios"]
        rows.append(
            (
                f"{pretty(record['model'])}\n{network_name(record['alpha'])}",
                f"{record['accuracy_mean']:.2%}" + (f"\n± {std:.2%}" if std is not None else ""),
                f"{record['macs'] / 1e6:,.1f} M\n× {ratios['macs']:.2f}",
                f"{record['latency_ms']:.1f} ms\n× {ratios['latency']:.2f}",
                "–"
                if record["exported_ms"] is None
                else f"{record['exported_ms']:.1f} ms\n× {ratios['exported']:.2f}",
                f"{record['train_step_ms']:.1f} ms\n× {ratios['train_step']:.2f}",
            )
        )
    exported = results["profile"]["exported_to"]
    head = ("network", "accuracy", "MACs", results["framework"], exported or "exported", "training step")
    return Table(head, rows, title="Test accuracy and cost, × is the ratio to the smallest α")
