"""What a study shows so far: accuracies, paired differences by seed, and the effect of each factor.

Nothing here has to do with a clock or a machine, so the results of a study that was killed and resumed are
those of one that was left in peace, byte for byte.
"""

from __future__ import annotations

import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from octavize.bench.environment import environment
from octavize.data.augment import to_input
from octavize.data.bands import dataset_energy
from octavize.data.images import Images, Split
from octavize.study.arms import Found, network_key
from octavize.study.deployed import accuracies_in
from octavize.study.design import Planned
from octavize.study.estimate import all_macs
from octavize.study.model import Cell, Deploy, Study
from octavize.study.work import failure, finished
from octavize.training.metrics import curve
from octavize.training.runs import describe_data

LEVEL = 0.95
"""Of the confidence intervals."""
SAMPLE = 256
"""Images whose spectrum is averaged."""

BySeed = dict[int, float]
Place = tuple[str, str, str]
"""Cell, model and arm."""
Accuracies = dict[Place, BySeed]
"""The test accuracy of each seed."""
Names = dict[Place, set[str]]
"""The names of the runs."""


def analyze(
    study: Study,
    places: Sequence[Planned],
    images: Images,
    out: Path,
    matched: Found,
    undeployed: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """What `results.json` holds, from the runs that are finished in `out`.

    Args:
        matched: of `resolve`.
        undeployed: of `deploy_runs`.
    """
    macs = all_macs(places, images)
    ends = {place.slug: end for place in places if (end := finished(place.folder(out)))}
    runs = [_run(place, out, ends.get(place.slug, {}), macs, study.deploy) for place in places]
    accuracies = collect(runs)
    names = {place: {run["run"] for run in own} for place, own in by_place(runs).items()}
    return {
        "study": study.name,
        "about": study.about,
        "reference": study.reference,
        "models": list(study.models),
        "seeds": list(study.seeds),
        "arms": [arm.name for arm in study.arms],
        "matched": matched,
        "factors": {f: {k: dict(v) for k, v in levels.items()} for f, levels in study.factors.items()},
        "cells": [{"name": c.name, "base": c.base, "levels": c.levels} for c in study.cells],
        "recipe": study.recipe.as_dict(),
        "deploy": asdict(study.deploy) if study.deploy else None,
        "data": describe_data(images),
        "environment": [end["environment"] for end in ends.values()][-1] if ends else environment(),
        "energy": energies(places, images),
        "planned": len({place.slug for place in places}),
        "done": len(ends),
        "failed": list({run["run"]: run for run in runs if run["reason"]}.values()),
        "undeployed": list(undeployed),
        "runs": runs,
        "networks": networks(runs),
        "differences": differences(study, accuracies, names),
        "effects": effects(study, accuracies, names),
        "curves": {slug: curve(out / "runs" / slug) for slug in ends},
    }


def _run(
    place: Planned, out: Path, result: dict[str, Any], macs: dict[str, int], deploy: Deploy | None
) -> dict[str, Any]:
    recipe, folder = place.recipe, place.folder(out)
    reason = None if result else (failure(folder) or {}).get("reason")
    return {
        "cell": place.cell.name,
        "model": place.model,
        "arm": place.arm,
        "seed": place.seed,
        "alpha": recipe.alphas[0],
        "size": recipe.size,
        "width": recipe.arguments_of(place.run.model).get("width"),
        "epochs": recipe.epochs_of(place.run.model),
        "macs": macs[network_key(recipe)],
        "network": network_key(recipe),
        **{k: result.get(k) for k in ("test_accuracy", "test_loss", "val_accuracy", "best_epoch")},
        "deployed": accuracies_in(folder, deploy) if deploy else {},
        "reason": reason,
        "run": place.slug,
    }


def by_place(runs: Iterable[dict[str, Any]], *, done: bool = False) -> dict[Place, list[dict[str, Any]]]:
    """Runs by cell, model and arm; only those that are `done`, if that is asked for."""
    found: dict[Place, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        if not done or run["test_accuracy"] is not None:
            found[run["cell"], run["model"], run["arm"]].append(run)
    return found


def collect(runs: Iterable[dict[str, Any]]) -> Accuracies:
    """The accuracies of the finished runs."""
    groups = by_place(runs, done=True).items()
    return {place: {run["seed"]: run["test_accuracy"] for run in own} for place, own in groups}


def networks(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per cell, model and arm the mean over the seeds that are finished; `deployed` in each precision."""
    described = ("cell", "model", "arm", "alpha", "size", "width", "epochs", "macs", "network")
    return [
        {
            **{key: own[0][key] for key in described},
            "runs": [run["run"] for run in own],
            **summary([run["test_accuracy"] for run in own]),
            "deployed": {
                name: summary([run["deployed"][name] for run in own if name in run["deployed"]])
                for name in dict.fromkeys(name for run in own for name in run["deployed"])
            },
        }
        for own in by_place(runs, done=True).values()
    ]


def differences(study: Study, accuracies: Accuracies, names: Names) -> list[dict[str, Any]]:
    """Every arm against the reference arm under the same settings, paired by seed.

    An arm that shares its runs with the reference arm, such as one that should be made cheaper and cost less
    as it was, has no difference to tell of.
    """
    return [
        {"cell": cell.name, "base": cell.base, "model": model, "arm": arm.name, **paired(found)}
        for model in study.models
        for cell in study.cells
        for arm in study.arms
        if names.get((cell.name, model, arm.name)) != names.get((cell.name, model, study.reference))
        and (found := _difference(study, accuracies, cell, model, arm.name))
    ]


def _difference(study: Study, accuracies: Accuracies, cell: Cell, model: str, arm: str) -> BySeed:
    ours = accuracies.get((cell.name, model, arm), {})
    return minus(ours, accuracies.get((cell.name, model, study.reference), {}))


def effects(study: Study, accuracies: Accuracies, names: Names) -> list[dict[str, Any]]:
    """What a factor's level changes, by seed: in each arm's accuracy, and in its difference to the reference.

    A level is compared with the base's, all other factors alike. Where several such pairs of cells exist, as
    in a full grid, their mean is taken seed by seed first, over those pairs that every seed counted has. A
    factor that does not touch an arm's network, so that both cells share its runs (`names`), has no effect to
    tell of.
    """
    found: list[dict[str, Any]] = []
    for (base, factor, start, level), pairs in contrasts(study.cells).items():
        for model in study.models:
            touched = _touched(study, pairs, model, names)
            for arm in (arm.name for arm in study.arms):
                change = {"base": base, "factor": factor, "from": start, "to": level}
                what = {**change, "model": model, "arm": arm}
                if arm in touched:
                    own = [accuracies.get((c.name, model, arm), {}) for pair in pairs for c in pair]
                    found += _effect({**what, "of": "accuracy"}, own)
                if arm != study.reference and touched & {arm, study.reference}:
                    own = [_difference(study, accuracies, c, model, arm) for pair in pairs for c in pair]
                    found += _effect({**what, "of": "difference"}, own)
    return found


def _touched(study: Study, pairs: Sequence[tuple[Cell, Cell]], model: str, names: Names) -> set[str]:
    """The arms whose runs differ between the cells of any pair."""
    return {
        arm.name
        for arm in study.arms
        for a, b in pairs
        if names.get((a.name, model, arm.name)) != names.get((b.name, model, arm.name))
    }


def _effect(what: dict[str, Any], pairs: Sequence[BySeed]) -> list[dict[str, Any]]:
    """`pairs` are the values before and after, in turn."""
    changes = [minus(after, before) for before, after in zip(pairs[::2], pairs[1::2], strict=True)]
    seeds = set.intersection(*(set(change) for change in changes))
    means = {seed: statistics.fmean(change[seed] for change in changes) for seed in sorted(seeds)}
    return [{**what, "pairs": len(changes), **paired(means)}] if means else []


def contrasts(cells: Sequence[Cell]) -> dict[tuple[str, str, str, str], list[tuple[Cell, Cell]]]:
    """Pairs of cells that differ in one factor, of which the first has the base's level.

    Returns:
        By (base, factor, from, to). In a design of one base they are all the base's; one factor at a time,
        each has the base itself as its first.
    """
    by_levels = {_key(cell): cell for cell in cells}
    bases = {cell.name: cell for cell in cells if cell.is_base and not cell.alone}
    told: set[tuple[str, str]] = set()
    found: dict[tuple[str, str, str, str], list[tuple[Cell, Cell]]] = {}
    for base in bases.values():
        for cell in cells:
            for factor, start in base.levels.items():
                first = by_levels.get(_key(cell, {factor: start}))
                if first is None or cell.levels[factor] == start:
                    continue
                of_grid = len(bases) == 1 and not cell.alone and not first.alone
                if first != base and not of_grid:
                    continue
                if (cell.name, first.name) in told:  # two bases that are one factor apart
                    continue
                told.add((first.name, cell.name))
                found.setdefault((base.name, factor, start, cell.levels[factor]), []).append((first, cell))
    return found


def _key(cell: Cell, changed: dict[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({**cell.levels, **(changed or {})}.items()))


def minus(a: BySeed, b: BySeed) -> BySeed:
    """a − b, of the seeds that both have."""
    return {seed: a[seed] - b[seed] for seed in sorted(a) if seed in b}


def paired(values: BySeed) -> dict[str, Any]:
    """Mean and confidence interval of values by seed."""
    return {"values": {str(seed): value for seed, value in values.items()}, **summary(list(values.values()))}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, sample deviation, and Student's confidence interval of the mean; None where n is 1."""
    found: dict[str, Any] = {"n": len(values), "mean": statistics.fmean(values)}
    if len(values) < 2:
        return found | {"std": None, "low": None, "high": None}
    with warnings.catch_warnings():  # values that are all the same have no t, but an interval: themselves
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test: Any = stats.ttest_1samp(values, 0)
    low, high = test.confidence_interval(LEVEL)
    return found | {"std": statistics.stdev(values), "low": float(low), "high": float(high)}


def energies(places: Iterable[Planned], images: Images) -> list[dict[str, Any]]:
    """Share of the spectral energy in each octave of the images as networks see them, for each size."""
    sizes = sorted({place.recipe.size or images.size for place in places})
    return [{"size": size, "octaves": _energy(images, size)} for size in sizes]


def _energy(images: Images, size: int) -> list[list[Any]]:
    count = min(SAMPLE, len(images.train))
    index = torch.arange(count) * len(images.train) // count
    seen, labels = images.train.__getitems__(index)
    seen = to_input(seen, images.mean, images.std, size=size, normalize=False)
    return [[name, round(share, 7)] for name, share in dataset_energy(Split(seen, labels))]
