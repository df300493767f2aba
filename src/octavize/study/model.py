"""What a study is: a YAML file with a recipe, arms to compare, factors to vary, and seeds.

    recipe: cifar                     # what all runs share; a shipped recipe or a file
    set: {epochs: 12}                 # settings that replace the recipe's
    models: [oct_cifar_resnet20]
    seeds: [0, 1, 2]
    arms:                             # what is compared under the same settings
      vanilla: {alpha: 0}
      octave: {alpha: 0.5}
      thinner: {match: octave, by: width, to: macs}
    reference: vanilla                # differences are taken to this arm, seed by seed
    factors:                          # what is varied: name, levels, settings of each level
      rate: {constant: {schedule: constant}, cosine: {schedule: cosine}}
    design: {kind: factorial}         # or one_at_a_time with bases, or list with cells

The settings of a level or an arm are those of a recipe, and three that stand for one network: `model`,
`alpha` and `arguments` (of its builder).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from octavize.errors import InputError, one_line
from octavize.training.recipe import OCTAVE_SWITCHES, Recipe, check_names, load_recipe, read_shipped

SHIPPED = ("article", "alpha", "exchange", "networks", "rate")
ONE_NETWORK = {"model": "models", "alpha": "alphas", "arguments": "model_arguments"}
"""Settings of one network, and the recipe's that they become."""
OF_ALL_RUNS = ("data", "val_fraction", "limit_train")
"""Settings that no arm or level can have of its own."""
COSTLY = ("model", "alpha", "arguments", "size", "exchange", "downsample")
"""Settings that decide what a network costs."""
KINDS = ("factorial", "one_at_a_time", "list")
BY, TO = ("width", "size"), ("macs", "time")

Settings = Mapping[str, Any]
Levels = dict[str, str]
"""Of each factor its level: one cell of the grid."""


@dataclass(frozen=True)
class Match:
    """An arm that is the reference network made cheaper in a plain way, down to the cost of another arm."""

    arm: str
    """The arm whose cost is to be reached."""
    by: str
    """`width` (fewer channels) or `size` (smaller images)."""
    to: str
    """`macs`, or `time` of a forward pass as measured on this machine."""


@dataclass(frozen=True)
class Arm:
    """One way to build a network, compared with the others under the same settings."""

    name: str
    settings: Settings
    match: Match | None = None


@dataclass(frozen=True)
class Cell:
    """One setting of all factors. `base` is the cell that it departs from, by name, in one factor or none."""

    name: str
    levels: Levels
    base: str
    alone: bool = False
    """Whether nothing is compared with it, as with the bases under `also`."""

    @property
    def is_base(self) -> bool:
        """Whether others depart from it, or could."""
        return self.name == self.base


@dataclass(frozen=True)
class Study:
    """A study as its file says it; `cells` is the design written out."""

    name: str
    about: str
    recipe: Recipe
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    reference: str
    factors: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def settings_of(self, cell: Cell) -> dict[str, Any]:
        """What the levels of a cell set, the later factors over the earlier ones."""
        return merged(*(self.factors[factor][level] for factor, level in cell.levels.items()))


def load_study(name_or_path: str | Path, seeds: Sequence[int] | None = None, **overrides: Any) -> Study:
    """Read a shipped study by name (`article`, `alpha`, `exchange`, `networks`, `rate`) or anybody's by path.

    Args:
        name_or_path: a shipped name, or a YAML file as described in this module.
        seeds: in the place of the file's.
        **overrides: settings that replace those of the recipe; None leaves a setting alone.

    Raises:
        InputError: no such study, not YAML, or anything in it that is unknown or does not fit.
    """
    text = read_shipped("study", name_or_path, SHIPPED, "study/studies")
    where = f"study {name_or_path}"
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML ({one_line(error)}): mend the file") from None
    given = _mapping(given, where)
    _known(
        given, ("about", "recipe", "set", "models", "seeds", "arms", "reference", "factors", "design"), where
    )
    for key in ("recipe", "models", "arms"):
        if not given.get(key):
            raise InputError(f"{where} has no {key}: add it, as in the shipped studies")
    folder = Path(name_or_path).parent
    changed = {k: v for k, v in overrides.items() if v is not None}
    recipe = load_recipe(_beside(folder, given["recipe"], where))
    seeds = seeds or _list(given.get("seeds", [0]), f"{where}: seeds")
    settings = {**_mapping(given.get("set", {}), f"{where}: set"), **changed}
    check_names(settings, where)
    for key in ("name", "models", "alphas", "seeds"):
        if key in settings:
            raise InputError(
                f"{where}: set has {key}: models and seeds are entries of the study, α is an arm's"
            )
    models = _list(given["models"], f"{where}: models")
    recipe = replace(recipe, name=Path(name_or_path).stem, models=models, seeds=seeds, **settings)
    arms = tuple(_arm(n, v, where) for n, v in _named(given["arms"], f"{where}: arms").items())
    factors = {
        factor: {
            level: _mapping({} if v is None else v, f"{where}: {factor}={level}")
            for level, v in _named(levels, f"{where}: {factor}").items()
        }
        for factor, levels in _named(given.get("factors", {}), f"{where}: factors").items()
    }
    study = Study(
        name=recipe.name,
        about=str(given.get("about", "")).strip(),
        recipe=recipe,
        models=recipe.models,
        seeds=recipe.seeds,
        arms=arms,
        reference=as_name(given.get("reference", arms[0].name)),
        factors=factors,
    )
    _check(study, where)
    from octavize.study.design import cells_of

    design = _mapping(given.get("design", {}), f"{where}: design")
    _known(design, ("kind", "bases", "also", "cells"), f"{where}: design")
    return replace(study, cells=cells_of(study, design))


def merged(*many: Settings) -> dict[str, Any]:
    """Settings over settings; builder arguments are added up instead of replaced."""
    result: dict[str, Any] = {}
    for settings in many:
        arguments = {**result.get("arguments", {}), **settings.get("arguments", {})}
        result |= settings
        if arguments:
            result["arguments"] = arguments
    return result


def one_network(recipe: Recipe, settings: Settings, seed: int) -> Recipe:
    """The recipe of a single run: the study's with these settings."""
    rest = {k: v for k, v in settings.items() if k not in ONE_NETWORK}
    model = settings["model"]
    arguments = {**replace(recipe, **rest).arguments_of(model), **settings.get("arguments", {})}
    arguments = {k: v for k, v in arguments.items() if k not in OCTAVE_SWITCHES}  # these are fields
    one = {"models": [model], "alphas": [settings.get("alpha", 0)], "seeds": [seed]}
    return replace(recipe, **rest, **one, model_arguments={"*": arguments} if arguments else {})


def _beside(folder: Path, recipe: Any, where: str) -> str | Path:
    """A recipe's file may lie beside the study's."""
    if not isinstance(recipe, str):
        raise InputError(f"{where} has recipe {recipe!r}: give a name or the path of a file")
    return folder / recipe if (folder / recipe).is_file() else recipe


def _arm(name: str, given: Any, where: str) -> Arm:
    where = f"{where}: arm {name}"
    settings = _mapping({} if given is None else given, where)
    if "match" not in settings:
        return Arm(name, settings)
    match = Match(as_name(settings.pop("match")), settings.pop("by", "width"), settings.pop("to", "macs"))
    if match.by not in BY or match.to not in TO:
        raise InputError(f"{where} has by={match.by!r}, to={match.to!r}: by is {_or(BY)}, to is {_or(TO)}")
    return Arm(name, settings, match)


def _check(study: Study, where: str) -> None:
    names = [arm.name for arm in study.arms]
    if study.reference not in names:
        raise InputError(f"{where} has reference {study.reference!r}: name one of its arms, {_or(names)}")
    if study.arm(study.reference).match:
        raise InputError(f"{where} has reference {study.reference!r}, which is matched: give it an alpha")
    for pattern, arguments in study.recipe.model_arguments.items():
        _check_arguments(arguments, f"{where}: model_arguments of {pattern}")
    for arm in study.arms:
        _check_settings(study, arm.settings, f"{where}: arm {arm.name}")
        if not (arm.match or "alpha" in arm.settings or _sets_alpha(study)):
            raise InputError(f"{where}: arm {arm.name} has no alpha: give it one, 0 is the vanilla network")
        if arm.match and (arm.match.arm not in names or study.arm(arm.match.arm).match):
            raise InputError(f"{where}: arm {arm.name} matches {arm.match.arm!r}: name an arm that does not")
    for factor, levels in study.factors.items():
        if len(levels) < 2:
            raise InputError(f"{where}: factor {factor} has {len(levels)} level: give two or more")
        for level, settings in levels.items():
            _check_settings(study, settings, f"{where}: {factor}={level}")
            matched = [arm.name for arm in study.arms if arm.match]
            if matched and any(key in settings for key in COSTLY):
                raise InputError(
                    f"{where}: factor {factor} changes what a network costs, but arm {matched[0]} is matched "
                    "once for all settings: give the factor a study of its own"
                )


def _sets_alpha(study: Study) -> bool:
    """Whether a factor gives every arm its alpha."""
    return any(all("alpha" in level for level in levels.values()) for levels in study.factors.values())


def _check_arguments(arguments: Any, where: str) -> None:
    for key in OCTAVE_SWITCHES:
        if key in _mapping(arguments, f"{where}: arguments"):
            raise InputError(f"{where} has {key} among the arguments of a builder: set it beside them")


def _check_settings(study: Study, settings: Settings, where: str) -> None:
    for key in ("models", "alphas", "seeds", "model_arguments", "name"):
        if key in settings:
            raise InputError(f"{where} sets {key}: use model, alpha and arguments, which are of one network")
    for key in OF_ALL_RUNS:
        if key in settings:
            raise InputError(f"{where} sets {key}: all runs see the same images, so give it under set")
    _check_arguments(settings.get("arguments", {}), where)
    check_names((k for k in settings if k not in ONE_NETWORK), where)
    try:
        one_network(study.recipe, merged({"model": study.models[0]}, settings), 0)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {value!r}: give a mapping, as in the shipped studies")
    return dict(value)


def _named(value: Any, where: str) -> dict[str, Any]:
    """A mapping from names, none of them twice (YAML tells 1 from "1", and on from "on")."""
    found: dict[str, Any] = {}
    for name, settings in _mapping(value, where).items():
        if as_name(name) in found:
            raise InputError(f"{where} has {as_name(name)!r} twice: give each name once")
        found[as_name(name)] = settings
    return found


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or any(isinstance(one, (list, dict)) for one in value):
        such = [0, 1] if isinstance(value, (list, dict)) else [value]
        raise InputError(f"{where} is {value!r}: give a list of single values, such as {such}")
    return value


def _known(given: Settings, keys: Sequence[str], where: str) -> None:
    for key in given:
        if key not in keys:
            raise InputError(f"{where} has an unknown entry {key!r}: choose from {', '.join(keys)}")


def as_name(value: Any) -> str:
    """A name as people write it: YAML reads on, off and 0.5 as values."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
