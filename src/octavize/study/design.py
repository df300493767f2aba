"""Which cells of the grid a study fills, and the runs that follow."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from octavize.convert.trace import CONVOLUTIONS
from octavize.errors import InputError
from octavize.nn.conv import geometry_of
from octavize.study.model import Arm, Cell, Design, Levels, Study, merged, one_network
from octavize.training.recipe import OCTAVE_SWITCHES, Recipe
from octavize.training.runs import Run, fingerprint
from octavize.zoo.models import create_model


@dataclass(frozen=True)
class Planned:
    """One place in the grid, and the run that fills it. Several places may share a run."""

    cell: Cell
    model: str
    arm: str
    seed: int
    recipe: Recipe

    @property
    def run(self) -> Run:
        """What is trained."""
        return Run(self.recipe.models[0], self.recipe.alphas[0], self.seed)

    @cached_property
    def slug(self) -> str:
        """Name of the run's folder: the same for the same settings, in whichever study they occur."""
        told = json.dumps(fingerprint(self.recipe, self.run), sort_keys=True)
        return f"{self.run.slug}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"

    def folder(self, out: Path) -> Path:
        """Of the run, in the study's folder."""
        return out / "runs" / self.slug


def cells_of(study: Study, design: Design) -> tuple[Cell, ...]:
    """The design written out.

    Raises:
        InputError: an unknown factor or level, or a base twice.
    """
    if design.kind == "one_at_a_time":
        return _one_at_a_time(study, design.bases or {}, design.also or {})
    if design.kind == "list":
        return tuple(_listed(study, design.cells or []))
    levels = [list(found) for found in study.factors.values()]
    every = [dict(zip(study.factors, chosen, strict=True)) for chosen in itertools.product(*levels)]
    return tuple(Cell(_name(cell), cell, _name(every[0])) for cell in every)


def _one_at_a_time(study: Study, bases: Mapping[str, Levels], also: Mapping[str, Levels]) -> tuple[Cell, ...]:
    """From each base, every other level of every factor; a cell that two bases share is the first one's.
    `also` are bases that nothing departs from."""
    found: dict[str, Cell] = {}
    for base, given in bases.items():
        start = _full(study, given, f"base {base}")
        found[_name(start)] = Cell(base, start, base)
        for factor, levels in study.factors.items():
            for level in levels:
                cell = {**start, factor: level}
                found.setdefault(_name(cell), Cell(f"{base}, {factor}={level}", cell, base))
    for base, given in also.items():
        end = _full(study, given, f"base {base}")
        same = found.get(_name(end))
        if same is not None and same.is_base:
            raise InputError(f"also has {base}, which has the levels of {same.name}: leave it out")
        found[_name(end)] = Cell(base, end, base, alone=True)
    return tuple(found.values())


def _listed(study: Study, cells: Sequence[Levels]) -> Iterable[Cell]:
    full = [_full(study, given, f"cell {number}") for number, given in enumerate(cells, 1)]
    return {_name(levels): Cell(_name(levels), levels, _name(full[0])) for levels in full}.values()


def _full(study: Study, given: Levels, where: str) -> Levels:
    """A level for every factor; where none is given, the first."""
    for factor, level in given.items():
        if factor not in study.factors:
            raise InputError(f"{where} has {factor!r}: it is none of the factors")
        if level not in study.factors[factor]:
            choices = ", ".join(study.factors[factor])
            raise InputError(f"{where} has {factor}={level!r}: choose from {choices}")
    return {factor: given.get(factor, next(iter(levels))) for factor, levels in study.factors.items()}


def _name(levels: Levels) -> str:
    return ", ".join(f"{factor}={level}" for factor, level in levels.items()) or "as given"


def plan_study(study: Study, matched: Mapping[str, Mapping[str, Any]]) -> list[Planned]:
    """Every place of the grid, in the order in which it is trained: the bases first, with all their seeds,
    since they answer the main question; then seed by seed what departs from them.

    Args:
        matched: what matched arms were found to be, of `arms.resolve`.

    Raises:
        InputError: a setting is out of range.
    """
    bases = [cell for cell in study.cells if cell.is_base]
    rest = [cell for cell in study.cells if not cell.is_base]
    return [
        _planned(study, cell, model, arm, seed, matched.get(f"{model} {arm.name}"))
        for cells in (bases, rest)
        for seed in study.seeds
        for model in study.models
        for cell in cells
        for arm in study.arms
    ]


def _planned(
    study: Study, cell: Cell, model: str, arm: Arm, seed: int, match: Mapping[str, Any] | None
) -> Planned:
    own = match["settings"] if match else arm.settings
    settings = merged({"model": model}, study.settings_of(cell), own)
    recipe = one_network(study.recipe, settings, seed)
    return Planned(cell, model, arm.name, seed, _without_idle(recipe))


def _without_idle(recipe: Recipe) -> Recipe:
    """The recipe without settings that make no difference to its network, so that such places share a run."""
    idle: list[str] = []
    if recipe.alphas == (0.0,):
        idle += OCTAVE_SWITCHES
        if recipe.initializer == "he":  # vanilla layers have one path: weights drawn path by path are He's
            recipe = replace(recipe, initializer="framework")
    if not _has_depthwise(recipe.models[0]):
        idle.append("depthwise_initializer")
    return replace(recipe, **{name: getattr(Recipe, name) for name in idle})


@cache
def _has_depthwise(model: str) -> bool:
    with torch.device("meta"):
        layers = create_model(model, 0).modules()
    return any(isinstance(layer, CONVOLUTIONS) and geometry_of(layer).depthwise for layer in layers)


def distinct(places: Iterable[Planned]) -> list[Planned]:
    """A place for every run, the first where several share it."""
    found: dict[str, Planned] = {}
    for place in places:
        found.setdefault(place.slug, place)
    return list(found.values())
