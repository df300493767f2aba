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
    deploy: {runtime: openvino, precisions: [float32, int8]}    # test and time exported networks too

The settings of a level or an arm are those of a recipe, and three that stand for one network: `model`,
`alpha` and `arguments` (of its builder).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from octavize.errors import InputError
from octavize.study.design import cells_of
from octavize.study.model import (
    Arm,
    Deploy,
    Design,
    Given,
    Match,
    Name,
    Named,
    Settings,
    Study,
    merged,
    one_network,
)
from octavize.training.checking import tells_mistakes, told_of
from octavize.training.recipe import EXACTLY, OCTAVE_SWITCHES, check_patterns, read_recipe, read_shipped

SHIPPED = ("article", "alpha", "exchange", "networks", "rate", "resolution", "size")
OF_ALL_RUNS = ("data", "val_fraction", "limit_train")
"""Settings that no arm or level can have of its own."""
COSTLY = ("model", "alpha", "arguments", "size", "exchange", "downsample")
"""Settings that decide what a network costs."""


@tells_mistakes
@checked(frozen=True, config=EXACTLY)
class StudyFile:
    """A study's file, entry by entry."""

    recipe: Annotated[str, Field(examples=["cifar or the path of a file"])]
    models: list[Any]
    arms: Annotated[Named[Given], Field(min_length=1)]
    about: str = ""
    set: Given = field(default_factory=dict)
    seeds: list[Any] = field(default_factory=lambda: [0])
    reference: Name | None = None
    factors: Named[Annotated[Named[Given], Field(min_length=2)]] = field(default_factory=dict)
    design: Annotated[Design, Field(examples=["{kind: factorial}"])] = field(default_factory=Design)
    deploy: Annotated[Deploy | None, Field(examples=["{runtime: openvino}"])] = None


def load_study(name_or_path: str | Path, seeds: Sequence[int] | None = None, **overrides: Any) -> Study:
    """Read a shipped study by name, one of `SHIPPED`, or anybody's by path.

    Args:
        name_or_path: a shipped name, or a YAML file as described in this module.
        seeds: in the place of the file's.
        **overrides: settings that replace those of the recipe; None leaves a setting alone.

    Raises:
        InputError: no such study, not YAML, or anything in it that is unknown or does not fit.
    """
    given = read_shipped("study", name_or_path, SHIPPED, "study/studies")
    where = f"study {name_or_path}"
    if not isinstance(given, dict):
        raise InputError(f"{where} is {given!r}: give a mapping, as in the shipped studies")
    with told_of(where):
        file = StudyFile(**{str(key): value for key, value in given.items()})
        study = _read(file, Path(name_or_path), seeds, {k: v for k, v in overrides.items() if v is not None})
        return replace(study, cells=cells_of(study, file.design))


def _read(file: StudyFile, path: Path, seeds: Sequence[int] | None, changed: Settings) -> Study:
    settings = {**file.set, **changed}
    for key in ("name", "models", "alphas", "seeds"):
        if key in settings:
            raise InputError(f"set has {key}: models and seeds are entries of the study, α is an arm's")
    beside = path.parent / file.recipe
    shared = read_recipe(beside if beside.is_file() else file.recipe)
    seeds = seeds or file.seeds
    recipe = replace(shared, name=path.stem, models=file.models, seeds=seeds, **settings)
    check_patterns(recipe, {*shared.models, *recipe.models, *_own_models(file)})
    arms = tuple(_arm(name, given) for name, given in file.arms.items())
    study = Study(
        name=recipe.name,
        about=file.about.strip(),
        recipe=recipe,
        models=recipe.models,
        seeds=recipe.seeds,
        arms=arms,
        reference=arms[0].name if file.reference is None else file.reference,
        factors=file.factors,
        deploy=file.deploy,
    )
    _check(study)
    return study


def _own_models(file: StudyFile) -> list[str]:
    """The networks that arms and levels set themselves."""
    levels = (level for factor in file.factors.values() for level in factor.values())
    return [str(given["model"]) for given in (*file.arms.values(), *levels) if "model" in given]


def _arm(name: str, given: Settings) -> Arm:
    if "match" not in given:
        return Arm(name, given)
    with told_of(f"arm {name}"):
        match = Match(given["match"], **{key: given[key] for key in ("by", "to") if key in given})
    return Arm(name, {k: v for k, v in given.items() if k not in ("match", "by", "to")}, match)


def _check(study: Study) -> None:
    names = [arm.name for arm in study.arms]
    if study.reference not in names:
        raise InputError(f"reference is {study.reference!r}: name one of the arms, {' or '.join(names)}")
    if study.arm(study.reference).match:
        raise InputError(f"reference is {study.reference!r}, which is matched: give it an alpha")
    for pattern, arguments in study.recipe.model_arguments.items():
        _check_arguments(arguments, f"model_arguments of {pattern}")
    for arm in study.arms:
        _check_settings(study, arm.settings, f"arm {arm.name}")
        if not (arm.match or "alpha" in arm.settings or _sets_alpha(study)):
            raise InputError(f"arm {arm.name} has no alpha: give it one, 0 is the vanilla network")
        if arm.match and (arm.match.arm not in names or study.arm(arm.match.arm).match):
            raise InputError(f"arm {arm.name} matches {arm.match.arm!r}: name an arm that does not")
    for factor, levels in study.factors.items():
        for level, settings in levels.items():
            _check_settings(study, settings, f"{factor}={level}")
            matched = [arm.name for arm in study.arms if arm.match]
            if matched and any(key in settings for key in COSTLY):
                raise InputError(
                    f"factor {factor} changes what a network costs, but arm {matched[0]} is matched once for "
                    "all settings: give the factor a study of its own"
                )


def _sets_alpha(study: Study) -> bool:
    """Whether a factor gives every arm its alpha."""
    return any(all("alpha" in level for level in levels.values()) for levels in study.factors.values())


def _check_arguments(arguments: Any, where: str) -> None:
    if not isinstance(arguments, Mapping):
        raise InputError(f"{where}: arguments is {arguments!r}: give a mapping, such as {{width: 0.5}}")
    for key in OCTAVE_SWITCHES:
        if key in arguments:
            raise InputError(f"{where} has {key} among the arguments of a builder: set it beside them")


def _check_settings(study: Study, settings: Settings, where: str) -> None:
    for key in ("models", "alphas", "seeds", "model_arguments", "name"):
        if key in settings:
            raise InputError(f"{where} sets {key}: use model, alpha and arguments, which are of one network")
    for key in OF_ALL_RUNS:
        if key in settings:
            raise InputError(f"{where} sets {key}: all runs see the same images, so give it under set")
    _check_arguments(settings.get("arguments", {}), where)
    with told_of(where):
        one_network(study.recipe, merged({"model": study.models[0]}, settings), 0)
