"""What a study is: a recipe, arms to compare, factors to vary, a design, and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass as checked

from octavize.deploy.formats import timed_formats
from octavize.errors import InputError
from octavize.training.checking import tells_mistakes
from octavize.training.recipe import EXACTLY, OCTAVE_SWITCHES, Recipe, Several

ONE_NETWORK = {"model": "models", "alpha": "alphas", "arguments": "model_arguments"}
"""Settings of one network, and the recipe's that they become."""
T = TypeVar("T")


def as_name(value: Any) -> str:
    """A name as people write it: YAML reads on, off and 0.5 as values."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _each_once(value: Any) -> Any:
    """YAML tells 1 from "1", and on from "on"; names do not."""
    names = [as_name(key) for key in value] if isinstance(value, Mapping) else []
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is there twice, give each name once")
    return value


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


def _one_of(value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise ValueError(f"choose from {', '.join(known)}")
    return value


def _runtime(value: str) -> str:
    return _one_of(value, timed_formats())


def _cost(value: str) -> str:
    return _one_of(value, (*COSTS, *timed_formats()))


COSTS = {"macs": "MACs", "time": "time"}
"""What a matched arm may reach beside the time in a runtime, as people write it."""
Runtime = Annotated[str, AfterValidator(_runtime)]
"""Of exported files, as `octavize bench` calls it."""
Name = Annotated[str, BeforeValidator(as_name)]
Named = Annotated[dict[Name, T], BeforeValidator(_each_once)]
Settings = Mapping[str, Any]
Given = Annotated[dict[str, Any], BeforeValidator(_or_empty)]
"""Settings as a file gives them; nothing stands for none."""
Levels = dict[str, str]
"""Of each factor its level: one cell of the grid."""
Place = Annotated[Named[Name], BeforeValidator(_or_empty)]
"""Levels of some factors; the others have their first."""
Bases = Annotated[Named[Place], Field(examples=["{article: {rate: constant}}"])]


@tells_mistakes
@checked(frozen=True, config=EXACTLY)
class Match:
    """An arm that is the reference network made cheaper in a plain way, down to the cost of another arm."""

    arm: Name
    """The arm whose cost is to be reached."""
    by: Literal["width", "size"] = "width"
    """`width` (fewer channels) or `size` (smaller images)."""
    to: Annotated[str, AfterValidator(_cost)] = "macs"
    """`macs`; or as measured on this machine, on one thread, the `time` of a forward pass in torch, or the
    time of one image in a runtime such as `openvino`, exported in float32."""

    @property
    def cost(self) -> str:
        """What is reached, as people write it."""
        return COSTS.get(self.to) or f"time in {timed_formats()[self.to].runtime}"


@tells_mistakes
@checked(frozen=True, config=EXACTLY)
class Deploy:
    """Where trained networks are tested and timed, beside torch."""

    runtime: Runtime
    """Of exported files, such as `openvino`."""
    precisions: Several[str] = ("float32",)
    """`float32`, `bf16`, `int8`: those of the runtime. int8 is quantized after training."""

    def __post_init__(self) -> None:
        known = timed_formats()[self.runtime].precisions
        for precision in self.precisions:
            if precision not in known:
                raise InputError(f"precisions has {precision!r}: {self.runtime} has {', '.join(known)}")

    @property
    def name(self) -> str:
        """Of the runtime, as people write it."""
        return timed_formats()[self.runtime].runtime


@tells_mistakes
@checked(frozen=True, config=EXACTLY)
class Design:
    """The design as a file gives it."""

    kind: Literal["factorial", "one_at_a_time", "list"] = "factorial"
    bases: Bases | None = None
    """Of `one_at_a_time`: cells that others depart from in one factor."""
    also: Bases | None = None
    """Of `one_at_a_time`: bases that nothing departs from."""
    cells: list[Place] | None = None
    """Of `list`."""

    def __post_init__(self) -> None:
        for entry, owner in (("bases", "one_at_a_time"), ("also", "one_at_a_time"), ("cells", "list")):
            if getattr(self, entry) is not None and self.kind != owner:
                raise InputError(f"design has {entry}, but kind is {self.kind}: give kind: {owner}")
        if self.kind == "one_at_a_time" and not self.bases:
            example = "{article: {rate: constant}}"
            raise InputError(f"design has no bases: name them with a level each, bases: {example}")
        if self.kind == "list" and not self.cells:
            raise InputError("design has no cells: list them, a level of each factor")


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
    deploy: Deploy | None = None

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def settings_of(self, cell: Cell) -> dict[str, Any]:
        """What the levels of a cell set, the later factors over the earlier ones."""
        return merged(*(self.factors[factor][level] for factor, level in cell.levels.items()))


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
    one = {"models": [settings["model"]], "alphas": [settings.get("alpha", 0)], "seeds": [seed]}
    single = replace(replace(recipe, **rest), **one)  # the inner one is checked against all networks
    arguments = {**single.arguments_of(single.models[0]), **settings.get("arguments", {})}
    arguments = {k: v for k, v in arguments.items() if k not in OCTAVE_SWITCHES}  # these are fields
    return replace(single, model_arguments={"*": arguments} if arguments else {})
