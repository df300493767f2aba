"""What the networks of a study cost: arithmetic, memory and time, measured while nobody trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from octavize.bench.environment import environment
from octavize.data.images import Images
from octavize.files import known_json, write_json
from octavize.study.arms import THREADS, macs_of, profiles_of
from octavize.study.design import Planned
from octavize.study.estimate import TRAINING, network_key
from octavize.study.work import finished
from octavize.training.recipe import Recipe
from octavize.training.results import Timing

MOST_MACS = 1e11
"""Of a timed training step."""
KEPT = ("params", "macs", "activation_bytes", "latency_ms", "train_step_ms")
"""Fields of `Profile`; its ratios are to a network that need not be the reference arm's."""

Costs = dict[str, dict[str, Any]]
"""By model: `networks`, with fields of `Profile` by `network_key`, and the conditions of the measurement."""


def costs_in(
    out: Path,
    places: Sequence[Planned],
    images: Images,
    timing: Timing,
    console: Console,
    *,
    measure: bool = True,
) -> Costs:
    """Costs of the networks that have a finished run, as `costs.json` keeps them.

    All networks of a model take turns, so that ratios between them mean something; a new one, or another
    machine, has them all measured again. Without `measure`, because runs are being trained, what is missing
    stays missing.
    """
    path = out / "costs.json"
    costs: Costs = known_json(path)
    trained = [place for place in places if finished(place.folder(out))]
    for model in dict.fromkeys(place.model for place in trained):
        recipes = {network_key(place.recipe): place.recipe for place in trained if place.model == model}
        conditions = {
            "batch": _batch(recipes.values(), images, timing),
            "rounds": timing.rounds,
            "environment": {**environment(), "threads": THREADS},
        }
        known = costs.get(model, {})
        if recipes.keys() <= known.get("networks", {}).keys() and known.items() >= conditions.items():
            continue
        if not measure:
            console.print("costs are not measured: a run is being trained")
            break
        console.print(f"measuring what networks cost: {model}")
        networks = _measured(recipes, images, conditions["batch"], timing.rounds)
        costs[model] = {**conditions, "networks": networks}
        write_json(path, costs)
    return costs


def _batch(recipes: Iterable[Recipe], images: Images, timing: Timing) -> int:
    """Fewer images than asked for where networks are so large that a training step would take long."""
    macs = max(macs_of(recipe, images) for recipe in recipes)
    return max(2, min(timing.batch, int(MOST_MACS / (TRAINING * macs))))


def _measured(recipes: dict[str, Recipe], images: Images, batch: int, rounds: int) -> dict[str, Any]:
    profiles = profiles_of(recipes, images, batch, rounds, train=True)
    return {key: {name: getattr(profile, name) for name in KEPT} for key, profile in profiles.items()}


def cost_ratios(results: dict[str, Any], costs: Costs) -> list[dict[str, Any]]:
    """What each network of a study costs, as a share of what the reference arm costs under the same settings.

    Args:
        results: of `analyze`.

    Returns:
        For each of `results["networks"]` that was measured, `cell`, `model`, `arm`, `network`, the `batch` of
        its times, and the ratios
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
        of_model = costs.get(net["model"], {})
        measured = of_model.get("networks", {})
        ours = measured.get(net["network"])
        base = measured.get(reference.get((net["cell"], net["model"])))
        if ours and base:
            row = {key: net[key] for key in ("cell", "model", "arm", "network")}
            row["batch"] = of_model["batch"]
            row |= {key: ours[key] / base[key] for key in ("macs", "params", "activation_bytes")}
            row |= {key: ours[f"{key}_ms"] / base[f"{key}_ms"] for key in ("latency", "train_step")}
            rows.append(row)
    return rows
