"""What a user would do instead: the reference network, thinner or on smaller images, at another arm's cost.

Found once and kept in `arms.json`, since a measured time is never the same twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import nn

from octavize.bench.contenders import size_for, width_for
from octavize.bench.profile import Profile, count_macs, measure
from octavize.data.images import Images
from octavize.errors import InputError
from octavize.files import read_json, write_json
from octavize.study.model import Match, Settings, Study, merged, one_network
from octavize.training.recipe import Recipe
from octavize.training.train import build_network, input_shape

BATCH, ROUNDS, STEPS = 64, 10, 6
"""Images a timed call, timed calls of each network, and halvings of the range in a search for a time."""
THREADS = 1
"""Of a measurement: as many as a worker has when all cores train."""
NEAR = 0.05
"""Share of the cost to be reached by which a matched arm may miss it without a word."""
COSTS = {"macs": "MACs", "time": "time"}
"""What a matched arm reaches, as people write it."""

Found = dict[str, dict[str, Any]]
"""What is kept: by model and arm together what was asked, the settings that answer it, and the share of the
cost to be reached that they have."""


def resolve_in(out: Path, study: Study, images: Images) -> Found:
    """`resolve`, or what it found before in this folder, whichever process asks first."""
    path = out / "arms.json"
    with FileLock(path.with_name("arms.lock")):
        known: dict[str, Any] = read_json(path) or {}
        found = resolve(study, images, known)
        if any(known.get(arm) != settings for arm, settings in found.items()):
            write_json(path, known | found)
    return found


def resolve(study: Study, images: Images, known: Found | None = None, *, time: bool = True) -> Found:
    """The width or the size of every matched arm, for every model, under the settings of the first cell.

    Args:
        known: found before; what was asked in the same way is not searched for again.
        time: False takes equal arithmetic in the place of equal time, and measures nothing.

    Raises:
        InputError: a network that comes in one width only.
    """
    found: Found = {}
    for model in study.models:
        for arm in study.arms:
            if arm.match:
                asked = {
                    "model": model,
                    "arm": arm.name,
                    "match": asdict(arm.match),
                    "first": merged({"model": model}, study.settings_of(study.cells[0])),
                    "start": merged(study.arm(study.reference).settings, arm.settings),
                    "aim": dict(study.arm(arm.match.arm).settings),
                }
                one = (known or {}).get(f"{model} {arm.name}", {})
                if any(one.get(key) != value for key, value in asked.items()):
                    settings, cost = _find(study, arm.match, asked, images, time)
                    one = {**asked, "settings": settings, "cost": cost}
                found[f"{model} {arm.name}"] = one
    return found


def told(found: Found) -> list[str]:
    """A line for every matched arm: what it was found to be, and how near it comes."""
    lines: list[str] = []
    for one in found.values():
        settings, match = one["settings"], one["match"]
        width = settings.get("arguments", {}).get("width")
        what = f"{settings['size']} pixels" if "size" in settings else f"width {width or 'unchanged'}"
        off = " (no such network comes nearer)" if abs(one["cost"] - 1) > NEAR else ""
        if off and settings == one["start"]:
            off = " (it costs less as it is)"
        cost = f"{one['cost']:.2f} of the {COSTS[match['to']]} of {match['arm']}"
        lines.append(f"{one['model']}, {one['arm']}: {what}, {cost}{off}")
    return lines


def _find(
    study: Study, match: Match, asked: dict[str, Any], images: Images, time: bool
) -> tuple[dict[str, Any], float]:
    """`start`, cheaper until it costs as `aim`, both over the settings `first`; and the ratio of costs."""

    def recipe_of(settings: Settings) -> Recipe:
        return one_network(study.recipe, merged(asked["first"], settings), 0)

    start = asked["start"]
    aim, plain = recipe_of(asked["aim"]), recipe_of(start)
    macs = macs_of(aim, images)

    def at(cost: int) -> dict[str, Any]:
        return merged(start, _cheaper(match.by, plain, cost, images))

    def ratio(settings: Settings) -> float:
        """Of its time to the time to be reached, taking turns."""
        return time_ratio(aim, recipe_of(settings), images)

    if match.to == "macs" or not time:
        found = at(macs)
        return found, macs_of(recipe_of(found), images) / macs
    cost = ratio(start)
    if cost <= 1:  # it is as fast as it is
        return start, cost
    found = _search(at, ratio, macs // 4, macs_of(plain, images))
    return found, ratio(found)


def _search(
    at: Callable[[int], dict[str, Any]], ratio: Callable[[Settings], float], low: int, high: int
) -> dict[str, Any]:
    """The dearest network, between two numbers of MACs, that takes no longer."""
    for _ in range(STEPS):
        middle = (low + high) // 2
        low, high = (middle, high) if ratio(at(middle)) <= 1 else (low, middle)
    return at(low)


def _cheaper(by: str, plain: Recipe, macs: int, images: Images) -> dict[str, Any]:
    """The setting that brings a network down to so many MACs."""
    model, side = plain.models[0], plain.size or images.size
    if by == "size":
        return {"size": size_for(network(plain, images), side, macs)}
    arguments = plain.arguments_of(model)

    def at(width: float) -> nn.Module:
        return network(replace(plain, model_arguments={model: {**arguments, "width": width}}), images)

    try:
        width = width_for(at, side, macs, most=arguments.get("width", 1.0))
    except InputError:
        raise InputError(
            f"model {model} comes in one width only: match it by size, or leave the arm out"
        ) from None
    return {"arguments": {"width": width}}


def time_ratio(aim: Recipe, ours: Recipe, images: Images) -> float:
    """Time of a forward pass, on one thread, of one network to that of another, each at its own size."""
    return profiles_of({"aim": aim, "ours": ours}, images, BATCH, ROUNDS)["ours"].latency_ratio


def profiles_of(
    recipes: Mapping[str, Recipe], images: Images, batch: int, rounds: int, *, train: bool = False
) -> dict[str, Profile]:
    """Costs of the networks of these recipes, each at its own size, taking turns; see `measure`."""
    networks = {name: network(recipe, images) for name, recipe in recipes.items()}
    shapes = {name: input_shape(recipe, images, batch) for name, recipe in recipes.items()}
    return measure(networks, shapes, rounds=rounds, threads=THREADS, train=train)


def network(recipe: Recipe, images: Images) -> nn.Module:
    """The network of a recipe of one, as it is built for these images."""
    return build_network(recipe, images, recipe.models[0], recipe.alphas[0])


def macs_of(recipe: Recipe, images: Images) -> int:
    """Multiply–accumulates of the forward pass of one image."""
    return count_macs(network(recipe, images), input_shape(recipe, images))
