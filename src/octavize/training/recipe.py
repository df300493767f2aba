"""What is trained, and how: one frozen `Recipe`, read from YAML.

A recipe holds everything that decides a result. Where the data lies, how many devices share the work
and where the output goes are not part of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Strict, Tag
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticKnownError

from octavize.errors import InputError
from octavize.files import parse_yaml
from octavize.plans.exchanging import check_exchange_policy
from octavize.plans.geometry import Downsample
from octavize.training.checking import tells_mistakes, told_of

EXACTLY = ConfigDict(extra="forbid", allow_inf_nan=False)
SHIPPED = ("quick", "article", "cifar")

T = TypeVar("T")


def _no_switch(value: Any) -> Any:
    """Text that is a number counts as one, since YAML reads 1e-3 as text; true and false do not."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


def _listed(values: Any) -> Any:
    return (values,) if isinstance(values, (str, int, float)) else values


def _once(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("give each value once")
    return values


def _star_last(numbers: dict[str, T]) -> dict[str, T]:
    """The first pattern that matches counts, so those after '*' never do."""
    if "*" in list(numbers)[:-1]:
        raise ValueError("put '*' last, since the first pattern that matches counts")
    return numbers


def _form(value: Any) -> str:
    return "<patterns>" if isinstance(value, Mapping) else "<one>"


NUMBER = BeforeValidator(_no_switch)
Count = Annotated[int, Strict(), Field(ge=1)]
Whole = Annotated[int, Strict(), Field(ge=0)]
Switch = Annotated[bool, Strict()]
Share = Annotated[float, Field(ge=0, le=1), NUMBER]
Amount = Annotated[float, Field(ge=0), NUMBER]
Rate = Annotated[float, Field(gt=0), NUMBER]
Several = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(_listed), AfterValidator(_once)]
PerModel = Annotated[
    Annotated[T, Tag("<one>")] | Annotated[dict[str, T], AfterValidator(_star_last), Tag("<patterns>")],
    Discriminator(_form),
]
"""One value for all networks, or values by name pattern."""
Arguments = Annotated[dict[str, dict[str, Any]], Field(examples=["{'oct_mobilenet*': {width: 0.5}}"])]
Meeting = Annotated[str, AfterValidator(check_exchange_policy)]
Initializer = Literal["builder", "he", "torch", "framework"]


@tells_mistakes
@dataclass(frozen=True, config=EXACTLY)
class Recipe:
    """All settings of one comparison. Every network in `models` is trained at every α and every seed.

    `epochs`, `batch_size` and `lr` are one number for all networks, or a mapping from name patterns
    (`oct_resnet*`) to numbers, of which the first that matches a network's name counts.

    Raises:
        InputError: a setting has the wrong type or lies outside its range.
    """

    name: str = "custom"
    """What the report calls this recipe."""
    data: str = "textures"
    """`textures`, `cifar10`, `cifar100` or `folder`."""
    size: Count | None = None
    """Side of the images the network sees, in pixels; none keeps the data's own size."""
    models: Several[str] = ("oct_mobilenet_v1", "oct_resnet50")
    """Names from `octavize models`."""
    model_arguments: Arguments = field(default_factory=dict)
    """Extra builder arguments for the networks that match a name pattern, such as a width."""
    octave_bias: Switch = False
    """Give the convolutions of octave networks a bias for each path into an output, as the article does; its
    vanilla networks have none."""
    downsample: Downsample = "pool"
    """How octave convolutions of stride 2 reach their high output: `pool` or `stride`."""
    exchange: Meeting = "both"
    """Where the frequencies meet: once a `block` or a `stage`, with one path as in `block:high_to_low`; or
    the paths of every layer: `both` (the paper), `low_to_high`, `high_to_low` or `none`."""
    initializer: Initializer = "builder"
    """Of all convolutions but the depthwise ones: `builder` leaves timm's (or Paddle's), `he` is normal by
    fan-in, `torch` is torch's default, `framework` is the article's: normal by fan-in, groups ignored, path
    by path."""
    depthwise_initializer: Initializer = "builder"
    """The same for depthwise convolutions."""
    alphas: Several[Share] = (0.0, 0.5)
    """Shares of low-frequency channels; 0 is the vanilla network, which ratios refer to."""
    seeds: Several[Whole] = (0,)
    """One run per seed; a seed fixes initial weights, order of images and augmentation."""
    epochs: PerModel[Count] = 10
    """Passes over the training images."""
    batch_size: PerModel[Count] = 128
    """Images per step, over all devices together."""
    optimizer: str = "sgd"
    """Any optimizer of timm; `sgd` has Nesterov momentum, `momentum` is the plain kind."""
    lr: PerModel[Rate] = 0.1
    """Peak learning rate."""
    momentum: Share = 0.9
    """Used by the optimizers that have it."""
    weight_decay: Amount = 0.0
    """Never applied to biases and normalization parameters."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls after warm-up, per step: `constant`, `cosine` or `linear` (to 0)."""
    warmup_epochs: Amount = 0.0
    """Epochs during which the learning rate climbs linearly from 0."""
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes, in the training loss only."""
    crop_padding: Whole = 0
    """Random crop after padding each side by so many pixels (of the stored image); 0 for none."""
    flip: Switch = False
    """Mirror half of the training images left to right."""
    normalize: Switch = True
    """Subtract the mean and divide by the standard deviation of the training images, per channel."""
    val_fraction: Annotated[float, Field(ge=0.01, le=0.9), NUMBER] = 0.1
    """Share of the training images held out for choosing the checkpoint."""
    limit_train: Count | None = None
    """Use only so many training images; none for all."""
    norm_images: Whole = 0
    """Training images on which the batch norms' statistics are measured before every validation; 0 reads
    them as training left them, an average over its last steps that lags behind the weights."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "32-true"
    """Lightning's name for the arithmetic: `32-true`, `bf16-mixed`, …"""

    def __post_init__(self) -> None:
        for model in self.models:  # a pattern list that misses a network is found now, not hours later
            _ = self.epochs_of(model), self.batch_size_of(model), self.lr_of(model)

    def epochs_of(self, model: str) -> int:
        """Epochs for the network of this name."""
        return _pick("epochs", self.epochs, model)

    def batch_size_of(self, model: str) -> int:
        """Images per step for the network of this name."""
        return _pick("batch_size", self.batch_size, model)

    def lr_of(self, model: str) -> float:
        """Peak learning rate for the network of this name."""
        return _pick("lr", self.lr, model)

    def arguments_of(self, model: str) -> dict[str, Any]:
        """What builds the network of this name beside α: the arguments of every pattern that matches, of one
        argument the first, and the switches of its octave convolutions that are not as usual."""
        matching = [dict(v) for pattern, v in self.model_arguments.items() if fnmatchcase(model, pattern)]
        arguments = {key: value for found in reversed(matching) for key, value in found.items()}
        switches = {name: getattr(self, name) for name in OCTAVE_SWITCHES}
        return arguments | {k: v for k, v in switches.items() if v != getattr(Recipe, k)}

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values that JSON and YAML can hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def differences(self, other: Recipe) -> list[str]:
        """Names of the settings in which two recipes differ."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


OCTAVE_SWITCHES = ("octave_bias", "downsample", "exchange")
"""Settings of octave convolutions: the vanilla network has nothing that they could change."""


def load_recipe(name_or_path: str | Path, **overrides: Any) -> Recipe:
    """Read a shipped recipe by name (`quick`, `article`, `cifar`) or anybody's by path.

    Args:
        name_or_path: a shipped name, or a YAML file whose keys are the fields of `Recipe`.
        **overrides: settings that replace those of the file; None leaves a setting alone.

    Raises:
        InputError: no such recipe, not YAML, an unknown setting, a value out of range, or arguments for
            networks that neither the file nor the overrides name.
    """
    read = read_recipe(name_or_path)
    recipe = replace(read, **{k: v for k, v in overrides.items() if v is not None})
    with told_of(f"recipe {name_or_path}"):
        check_patterns(recipe, {*read.models, *recipe.models})
    return recipe


def read_recipe(name_or_path: str | Path) -> Recipe:
    """`load_recipe` of a file that need not have all the networks it has arguments for.

    Such is the `recipe.yaml` of a run folder, if some networks of a recipe were trained in it.
    """
    settings = read_shipped("recipe", name_or_path, SHIPPED, "training/recipes")
    with told_of(f"recipe {name_or_path}"):
        if not isinstance(settings, dict):
            raise InputError("it holds no settings: write lines such as `epochs: 10`")
        return Recipe(**{"name": Path(name_or_path).stem, **{str(k): v for k, v in settings.items()}})


def check_patterns(recipe: Recipe, models: Collection[str]) -> None:
    """Raises InputError where `model_arguments` has a pattern that matches none of these networks."""
    for pattern in recipe.model_arguments:
        if not any(fnmatchcase(model, pattern) for model in models):
            raise InputError(
                f"model_arguments has a pattern {pattern!r} that matches none of the networks "
                f"{', '.join(sorted(models))}: mend it, or leave it out"
            )


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML text that `load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True)


def read_shipped(what: str, name_or_path: str | Path, names: Sequence[str], room: str) -> Any:
    """What a YAML file says that ships under one of `names` in this package, or lies at a path.

    Raises:
        InputError: there is no such file, it cannot be read, or it is not YAML; `what` says what it should
            have been.
    """
    choices = f"give one of {', '.join(names)} or a YAML file's path"
    if not isinstance(name_or_path, (str, Path)):
        raise InputError(f"{what} {name_or_path!r}: {choices}")
    shipped = files("octavize").joinpath(f"{room}/{name_or_path}.yaml")
    path = shipped if str(name_or_path) in names else Path(name_or_path)
    if not path.is_file():
        raise InputError(f"{what} {name_or_path} does not exist: {choices}")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{what} {name_or_path} cannot be read ({error}): give a YAML text file") from None
    with told_of(f"{what} {name_or_path}"):
        return parse_yaml(text)


def _pick(name: str, value: T | dict[str, T], model: str) -> T:
    if not isinstance(value, dict):
        return value
    for pattern, number in value.items():
        if fnmatchcase(model, pattern):
            return number
    raise InputError(
        f"{name} has no pattern for {model}: add one to {list(value)}, '*' matches every network"
    )
