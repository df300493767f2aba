"""What the networks of a study cost: arithmetic, memory and time, measured while nobody trains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from octavize.bench.environment import environment
from octavize.data.images import Images
from octavize.files import known_json, write_json
from octavize.study.arms import THREADS, macs_of, network_key, profiles_of
from octavize.study.deployed import time_conditions, times_of, to_time
from octavize.study.design import Planned
from octavize.study.estimate import TRAINING
from octavize.study.model import Deploy
from octavize.study.work import finished
from octavize.training.recipe import Recipe
from octavize.training.summary import Timing

logger = logging.getLogger(__name__)
MOST_MACS = 1e11
"""Of a timed training step."""
KEPT = ("params", "macs", "activation_bytes", "latency_ms", "train_step_ms")
"""Fields of `Profile`; its ratios are to a network that need not be the reference arm's."""

Costs = dict[str, dict[str, Any]]
"""By model: `networks`, with fields of `Profile` by `network_key`, and the conditions of the measurement; the
same as `deployed`, with times by precision and batch, where networks were timed in a runtime."""


def costs_in(
    out: Path,
    places: Sequence[Planned],
    images: Images,
    timing: Timing,
    *,
    deploy: Deploy | None = None,
    measure: bool = True,
) -> Costs:
    """Costs of the networks that have a finished run, as `costs.json` keeps them.

    All networks of a model take turns, so that ratios between them mean something; a new one, or another
    machine, has them all measured again. Without `measure`, because runs are being trained, what is missing
    stays missing.

    Args:
        deploy: where networks that were tested there are timed too; see `deployed`.
    """
    path = out / "costs.json"
    costs: Costs = known_json(path)
    trained = [place for place in places if finished(place.folder(out))]
    for model in dict.fromkeys(place.model for place in trained):
        own = [place for place in trained if place.model == model]
        for part in _parts(own, images, timing, deploy, out):
            known = costs.get(model, {})
            if part.holds_in(known):
                continue
            if not measure:
                logger.info("costs are not measured: a run is being trained")
                return costs
            logger.info("measuring what networks cost%s: %s", part.where, model)
            costs[model] = part.added_to(known)
            write_json(path, costs)
    return costs


@dataclass(frozen=True)
class _Part:
    """Costs of some networks that are measured together."""

    networks: Collection[str]
    conditions: Mapping[str, Any]
    measure: Callable[[], dict[str, Any]]
    """The costs, by network."""
    entry: str | None = None
    """Of a model's costs, where these are kept; None for the costs themselves."""
    where: str = ""

    def holds_in(self, known: Mapping[str, Any]) -> bool:
        """Whether all these networks were measured under these conditions."""
        own = known.get(self.entry, {}) if self.entry else known
        measured = own.get("networks", {}).keys()
        return measured >= set(self.networks) and own.items() >= self.conditions.items()

    def added_to(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """A model's costs with these."""
        own = {**self.conditions, "networks": self.measure()}
        return {**known, self.entry: own} if self.entry else {**known, **own}


def _parts(
    places: Sequence[Planned], images: Images, timing: Timing, deploy: Deploy | None, out: Path
) -> Iterator[_Part]:
    """What is measured of a model: in torch, and in a runtime where that is asked for."""
    recipes = {network_key(place.recipe): place.recipe for place in places}
    batch = _batch(recipes.values(), images, timing)
    where = {**environment(), "threads": THREADS}
    conditions = {"batch": batch, "rounds": timing.rounds, "environment": where}
    yield _Part(recipes, conditions, lambda: _measured(recipes, images, batch, timing.rounds))
    if deploy:
        precisions, networks = to_time(places, deploy, out)
        asked = time_conditions(deploy, precisions, timing.rounds)
        if networks:
            measure = partial(times_of, networks.values(), images, out, asked)
            yield _Part(networks, asked, measure, "deployed", f" in {deploy.name}")


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
