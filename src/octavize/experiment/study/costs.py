"""What the networks of a study cost: arithmetic, memory and time, measured while nobody trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from octavize.environment import environment
from octavize.errors import InputError
from octavize.experiment.checkpoint import read_json, write_json
from octavize.experiment.pictures import Pictures
from octavize.experiment.recipe import Recipe
from octavize.experiment.results import Timing
from octavize.experiment.study.arms import network
from octavize.experiment.study.design import Planned, distinct
from octavize.experiment.study.estimate import network_key
from octavize.experiment.study.queue import finished, held
from octavize.experiment.train import input_shape
from octavize.profile import measure

THREADS = 1
"""Of the measurement: as many as a worker has when all cores train."""

Costs = dict[str, dict[str, Any]]
"""By model: `networks`, with a `Profile` by `network_key`, and under which conditions they were measured."""


def costs_in(
    out: Path, places: Sequence[Planned], pictures: Pictures, timing: Timing, console: Console
) -> Costs:
    """Costs of the networks that have a finished run, as `costs.json` keeps them.

    All networks of a model take turns, so that ratios between them mean something; one that is new has them
    all measured again. While a run is being trained nothing is measured, and what is missing stays missing.
    """
    path, runs = out / "costs.json", distinct(places)
    try:
        costs: Costs = read_json(path) or {}
    except InputError:  # cut short: measuring again mends it
        costs = {}
    conditions = {"batch": timing.batch, "rounds": timing.rounds, "threads": THREADS}
    trained = [place for place in runs if finished(place.folder(out))]
    for model in dict.fromkeys(place.model for place in trained):
        recipes = {network_key(place.recipe): place.recipe for place in trained if place.model == model}
        known = costs.get(model, {})
        if recipes.keys() <= known.get("networks", {}).keys() and known.items() >= conditions.items():
            continue
        if any(held(place.folder(out)) for place in runs):
            break
        console.print(f"measuring what networks cost: {model}", highlight=False)
        costs[model] = {
            **conditions,
            "environment": environment(),
            "networks": _measured(recipes, pictures, timing),
        }
        write_json(path, costs)
    return costs


def _measured(recipes: dict[str, Recipe], pictures: Pictures, timing: Timing) -> dict[str, Any]:
    networks = {key: network(recipe, pictures) for key, recipe in recipes.items()}
    shapes = {key: input_shape(recipe, pictures, timing.batch) for key, recipe in recipes.items()}
    profiles = measure(networks, shapes, rounds=timing.rounds, threads=THREADS, train=True)
    return {key: asdict(profile) for key, profile in profiles.items()}


def cost_ratios(results: dict[str, Any], costs: Costs) -> list[dict[str, Any]]:
    """What each network of a study costs, as a share of what the reference arm costs under the same settings.

    Args:
        results: of `analyse`.

    Returns:
        For each of `results["networks"]` that was measured, `cell`, `model`, `arm`, `network`, and the ratios
        `macs`, `params`, `activation_bytes` (what a training step keeps for its backward pass), `latency` and
        `train_step`.
    """
    reference = {
        (net["cell"], net["model"]): net["network"]
        for net in results["networks"]
        if net["arm"] == results["reference"]
    }
    rows: list[dict[str, Any]] = []
    for net in results["networks"]:
        measured = costs.get(net["model"], {}).get("networks", {})
        ours = measured.get(net["network"])
        base = measured.get(reference.get((net["cell"], net["model"])))
        if ours and base:
            row = {key: net[key] for key in ("cell", "model", "arm", "network")}
            row |= {key: ours[key] / base[key] for key in ("macs", "params", "activation_bytes")}
            row |= {key: ours[f"{key}_ms"] / base[f"{key}_ms"] for key in ("latency", "train_step")}
            rows.append(row)
    return rows
