"""What a user would do instead: the reference network, thinner or on smaller images, at another arm's cost.

Found once and kept in `arms.json`, since a measured time is never the same twice.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock
from torch import nn

from octavize.bench.contenders import Contender, size_for, width_for
from octavize.bench.profile import Profile, count_macs, measure
from octavize.bench.ratios import time_group
from octavize.bench.runtimes import Setting, choose_runtimes
from octavize.data.images import Images
from octavize.errors import InputError
from octavize.files import read_json, write_json
from octavize.study.model import Match, Settings, Study, merged, one_network
from octavize.training.recipe import Recipe
from octavize.training.runs import input_shape
from octavize.training.summary import key
from octavize.training.train import build_network

BATCH, ROUNDS = 64, 10
"""Images a timed call, and timed calls of each network, in torch."""
RUNTIME_ROUNDS = 50
"""Timed calls of each network in a runtime, of one image each."""
THREADS = 1
"""Of a measurement: as many as a worker has when all cores train."""
NEAR = 0.05
"""Share of the cost to be reached by which a matched arm may miss it without a word."""
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
        settings, match = one["settings"], Match(**one["match"])
        width = settings.get("arguments", {}).get("width")
        what = f"{settings['size']} pixels" if "size" in settings else f"width {width or 'unchanged'}"
        off = " (no such network comes nearer)" if abs(one["cost"] - 1) > NEAR else ""
        if off and settings == one["start"]:
            off = " (it costs less as it is)"
        cost = f"{one['cost']:.2f} of the {match.cost} of {match.arm}"
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
    if match.to == "macs" or not time:
        macs = macs_of(aim, images)
        found = merged(start, _of_macs(match.by, plain, macs, images))
        return found, macs_of(recipe_of(found), images) / macs
    with TemporaryDirectory() as folder:

        def ratio(settings: Settings) -> float:
            """Of its time to the time to be reached, taking turns."""
            return time_ratio(aim, recipe_of(settings), images, match.to, Path(folder))

        cost = ratio(start)
        if cost <= 1:  # it is as fast as it is
            return start, cost
        cheaper = [merged(start, settings) for settings in _cheaper(match.by, plain, images)]
        return nearest(cheaper, ratio)


def nearest(networks: Sequence[Settings], ratio: Callable[[Settings], float]) -> tuple[dict[str, Any], float]:
    """Of networks from the cheapest to the dearest the one whose ratio is nearest to 1, and that ratio.

    Few are timed, by halving; the two between which the ratio passes 1 are timed again.
    """
    over = bisect_right(networks, 1, key=ratio)
    near = [(dict(settings), ratio(settings)) for settings in networks[max(over - 1, 0) : over + 1]]
    return min(near, key=lambda found: abs(math.log(found[1])))


def _cheaper(by: str, plain: Recipe, images: Images) -> list[dict[str, Any]]:
    """The settings that bring a network down, from the cheapest to nearly what it costs as it is."""
    if by == "size":
        return [{"size": size} for size in sizes_up_to(plain.size or images.size)]
    _narrower(plain, images)(1.0)
    most = plain.arguments_of(plain.models[0]).get("width", 1.0)
    return [{"arguments": {"width": hundredths / 100}} for hundredths in range(1, round(100 * most) + 1)]


def sizes_up_to(side: int) -> range:
    """Sizes of images as people choose them: multiples of a power of two, 8 from 128 to 255 pixels."""
    step = 2 ** max(0, (side // 16).bit_length() - 1)
    return range(step, side + 1, step)


def _of_macs(by: str, plain: Recipe, macs: int, images: Images) -> dict[str, Any]:
    """The setting that brings a network down to so many MACs."""
    side = plain.size or images.size
    if by == "size":
        return {"size": size_for(network(plain, images), side, macs)}
    most = plain.arguments_of(plain.models[0]).get("width", 1.0)
    return {"arguments": {"width": width_for(_narrower(plain, images), side, macs, most=most)}}


def _narrower(plain: Recipe, images: Images) -> Callable[[float], nn.Module]:
    """What builds a network at other widths.

    Raises:
        InputError: what it returns does, where the network comes in one width only.
    """
    model = plain.models[0]
    arguments = plain.arguments_of(model)

    def at(width: float) -> nn.Module:
        recipe = replace(plain, model_arguments={model: {**arguments, "width": width}})
        try:
            return network(recipe, images)
        except InputError:
            raise InputError(
                f"model {model} comes in one width only: match it by size, or leave the arm out"
            ) from None

    return at


def time_ratio(aim: Recipe, ours: Recipe, images: Images, to: str, folder: Path) -> float:
    """Time of a forward pass, on one thread, of one network to that of another, each at its own size.

    Args:
        to: `time`, in torch, or the name of a runtime; see `Match`.
        folder: where exported networks lie; one that lies there is not exported again.
    """
    if to == "time":
        return profiles_of({"aim": aim, "ours": ours}, images, BATCH, ROUNDS)["ours"].latency_ratio
    networks = [contender(recipe, images, network(recipe, images)) for recipe in (aim, ours)]
    setting = Setting(1, THREADS, "cpu", folder)
    return time_group(networks, choose_runtimes([to]), setting, RUNTIME_ROUNDS)[-1]["time_ratio"]


def contender(recipe: Recipe, images: Images, model: nn.Module) -> Contender:
    """The network of a recipe of one, to be timed at its own size."""
    shape = input_shape(recipe, images)
    return Contender(network_key(recipe), model, shape[1:], count_macs(model, shape), recipe.alphas[0])


def network_key(recipe: Recipe) -> str:
    """What decides how fast a network trains."""
    model = recipe.models[0]
    arguments = json.dumps(recipe.arguments_of(model), sort_keys=True)
    return f"{key(model, recipe.alphas[0])} {arguments} {recipe.size} {recipe.precision}"


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
    """Multiply–accumulates of the forward pass of one image; counted once, since a study asks often."""
    shape = input_shape(recipe, images)
    asked = (network_key(recipe), shape, len(images.classes))
    if asked not in _MACS:
        _MACS[asked] = count_macs(network(recipe, images), shape)
    return _MACS[asked]


_MACS: dict[tuple[str, tuple[int, ...], int], int] = {}
