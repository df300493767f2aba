"""From finished runs to figures one can quote: costs measured, seeds averaged, files written."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch import nn

from octavize.bench.contenders import Contender
from octavize.bench.profile import count_macs, measure
from octavize.bench.ratios import time_group
from octavize.bench.runtimes import Setting, choose_runtimes
from octavize.data.images import Images
from octavize.deploy.formats import timed_formats
from octavize.files import known_json, write_json, write_text
from octavize.report.naming import network_name, pretty, run_slug
from octavize.report.tables import show
from octavize.text import Table, to_csv
from octavize.training.journal import read_metrics
from octavize.training.module import finite_or_none
from octavize.training.recipe import Recipe
from octavize.training.train import build_network, input_shape

Results = dict[str, Any]
Costs = dict[str, dict[str, Any]]
"""Per network (see `key`) the fields of `octavize.bench.profile.Profile`."""
RUN_COLUMNS = (
    "model", "alpha", "seed", "test_accuracy", "test_loss", "val_accuracy", "best_epoch", "epochs",
    "train_seconds", "params", "macs", "activation_bytes", "latency_ms", "latency_ratio",
    "train_step_ms", "train_step_ratio", "exported_ms", "exported_ratio",
)  # fmt: skip
CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
"""Of `metrics.csv`, what `results.json` holds of every epoch."""
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


def write_results(
    recipe: Recipe,
    images: Images,
    runs: list[dict[str, Any]],
    out: Path,
    timing: Timing,
    console: Console,
) -> Results:
    """Measure, average and write `profile.json`, `results.csv`, `results.json`, figures and report."""
    from octavize.training.figures import draw_figures
    from octavize.training.report import write_report

    console.print("[bold]measuring costs[/bold]")
    profile = measure_costs(recipe, images, out / "profile.json", timing)
    slugs = [run_slug(run["model"], run["alpha"], run["seed"]) for run in runs]
    results: Results = {
        "recipe": recipe.as_dict(),
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
    show(table(results), console)
    console.print(f"report: [bold]{out / 'report.html'}[/bold]")
    return results


def curve(folder: Path) -> dict[str, list[float | None]]:
    """Loss and accuracy of every epoch of a run; JSON has no word for what is not finite: None."""
    rows = read_metrics(folder)
    return {name: [finite_or_none(row[name]) for row in rows] for name in CURVES}


def key(model: str, alpha: float) -> str:
    """Name of a network (model × α) in `profile.json`."""
    return f"{model} α={alpha:g}"


def measure_costs(recipe: Recipe, images: Images, path: Path, timing: Timing) -> dict[str, Any]:
    """Costs of every network, measured once and kept in `profile.json`.

    The octave networks take turns with their vanilla twin, since only ratios of interleaved runs mean much.
    Networks are also timed as people deploy them: exported, if a runtime for exported files is installed.
    """
    runtime = next(iter(installed_runtimes()), None)
    shape = input_shape(recipe, images, timing.batch)
    conditions = {
        "input_shape": list(shape),
        "rounds": timing.rounds,
        "threads": torch.get_num_threads(),
        "models": list(recipe.models),
        "alphas": sorted(recipe.alphas),
        "exported_to": None if runtime is None else timed_formats()[runtime].runtime,
    }
    known = known_json(path)
    if all(known.get(k) == v for k, v in conditions.items()) and known.get("networks"):
        return known
    networks: Costs = {}
    for model in recipe.models:
        alphas = sorted(recipe.alphas)
        group = {key(model, alpha): build_network(recipe, images, model, alpha) for alpha in alphas}
        profiles = measure(group, shape, rounds=timing.rounds, train=True)
        exported = time_exported(group, shape, runtime, timing) if runtime else {}
        for name, profile in profiles.items():
            ms, ratio = exported.get(name, (None, None))
            networks[name] = asdict(profile) | {"exported_ms": ms, "exported_ratio": ratio}
    profile = {**conditions, "networks": networks}
    write_json(path, profile)
    return profile


def installed_runtimes() -> list[str]:
    """The runtimes of exported files that can be used here, OpenVINO first."""
    known = timed_formats()
    found = [name for name, kind in known.items() if all(map(find_spec, kind.needs))]
    return sorted(found, key=lambda name: name != "openvino")


def time_exported(
    models: dict[str, nn.Module], shape: tuple[int, ...], runtime: str, timing: Timing
) -> dict[str, tuple[float, float]]:
    """Milliseconds of each exported network for one batch, and its ratio to the first."""
    networks = [Contender(name, model, shape[1:], count_macs(model, shape)) for name, model in models.items()]
    with TemporaryDirectory() as folder:
        setting = Setting(shape[0], torch.get_num_threads(), "cpu", Path(folder))
        rows = time_group(networks, choose_runtimes([runtime]), setting, timing.rounds)
    return {row["network"]: (row["median_ms"], row["time_ratio"]) for row in rows}


def summarize(recipe: Recipe, runs: list[dict[str, Any]], costs: Costs) -> list[dict[str, Any]]:
    """One record per network: means over seeds, costs, ratios to the network of the smallest α."""
    records = []
    for model in recipe.models:
        baseline: dict[str, Any] | None = None
        for alpha in sorted(recipe.alphas):
            record = _record(model, alpha, runs, costs[key(model, alpha)])
            baseline = baseline or record
            record["ratios"] = {
                **{k: record[k] / baseline[k] for k in COUNTED},
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
    head = ("network", "accuracy", "MACs", "PyTorch", exported or "exported", "training step")
    return Table(head, rows, title="Test accuracy and cost, × is the ratio to the smallest α")
