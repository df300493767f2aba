"""What is trained, and how: one frozen `Recipe`, read from YAML.

A recipe holds everything that decides a result. Where the data lies, how many devices share the work
and where the output goes are not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from octavize.errors import InputError, one_line
from octavize.geometry import DOWNSAMPLE, EXCHANGE

SHIPPED = ("quick", "article", "cifar")
SCHEDULES = ("constant", "cosine", "linear")
INITIALizERS = ("builder", "he", "torch", "framework")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")

T = TypeVar("T", int, float)


@dataclass(frozen=True)
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
    size: int | None = None
    """Side of the images the network sees, in pixels; none keeps the data's own size."""
    models: tuple[str, ...] = ("oct_mobilenet_v1", "oct_resnet50")
    """Names from `octavize models`."""
    model_arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Extra builder arguments for the networks that match a name pattern, such as a width."""
    octave_bias: bool = False
    """Give the convolutions of octave networks a bias for each path into an output, as the article does; its
    vanilla networks have none."""
    downsample: str = "pool"
    """How octave convolutions of stride 2 reach their high output: `pool` or `stride`."""
    exchange: str = "both"
    """Paths between the frequencies: `both`, `low_to_high`, `high_to_low` or `none`."""
    initializer: str = "builder"
    """Of all convolutions but the depthwise ones: `builder` leaves timm's, `he` is normal by fan-in, `torch`
    is torch's default, `framework` is the article's: normal by fan-in, groups ignored, path by path."""
    depthwise_initializer: str = "builder"
    """The same for depthwise convolutions."""
    alphas: tuple[float, ...] = (0.0, 0.5)
    """Shares of low-frequency channels; 0 is the vanilla network, which ratios refer to."""
    seeds: tuple[int, ...] = (0,)
    """One run per seed; a seed fixes initial weights, order of images and augmentation."""
    epochs: int | Mapping[str, int] = 10
    """Passes over the training images."""
    batch_size: int | Mapping[str, int] = 128
    """Images per step, over all devices together."""
    optimizer: str = "sgd"
    """Any optimizer of timm; `sgd` has Nesterov momentum, `momentum` is the plain kind."""
    lr: float | Mapping[str, float] = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Used by the optimizers that have it."""
    weight_decay: float = 0.0
    """Never applied to biases and normalization parameters."""
    schedule: str = "constant"
    """How the learning rate falls after warm-up, per step: `constant`, `cosine` or `linear` (to 0)."""
    warmup_epochs: float = 0.0
    """Epochs during which the learning rate climbs linearly from 0."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in the training loss only."""
    crop_padding: int = 0
    """Random crop after padding each side by so many pixels (of the stored image); 0 for none."""
    flip: bool = False
    """Mirror half of the training images left to right."""
    normalize: bool = True
    """Subtract the mean and divide by the standard deviation of the training images, per channel."""
    val_fraction: float = 0.1
    """Share of the training images held out for choosing the checkpoint."""
    limit_train: int | None = None
    """Use only so many training images; none for all."""
    norm_images: int = 0
    """Training images on which the batch norms' statistics are measured before every validation; 0 reads
    them as training left them, an average over its last steps that lags behind the weights."""
    precision: str = "32-true"
    """Lightning's name for the arithmetic: `32-true`, `bf16-mixed`, …"""

    def __post_init__(self) -> None:
        for name, values in (("models", self.models), ("alphas", self.alphas), ("seeds", self.seeds)):
            object.__setattr__(self, name, _as_tuple(name, values))
        object.__setattr__(self, "alphas", tuple(_number("alpha", a, 0, 1) for a in self.alphas))
        object.__setattr__(self, "seeds", tuple(_whole("seed", s, 0) for s in self.seeds))
        for name, least in (("epochs", 1), ("batch_size", 1)):
            object.__setattr__(self, name, _per_model(name, getattr(self, name), least))
        object.__setattr__(self, "lr", _rates(self.lr))
        for name, low, high in _RANGES:
            object.__setattr__(self, name, _number(name, getattr(self, name), low, high))
        object.__setattr__(self, "crop_padding", _whole("crop_padding", self.crop_padding, 0))
        object.__setattr__(self, "norm_images", _whole("norm_images", self.norm_images, 0))
        for name in ("size", "limit_train"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _whole(name, getattr(self, name), 1))
        for name in ("flip", "normalize", "octave_bias"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}: give true or false")
        for name, choices in _CHOICES:
            _choice(name, getattr(self, name), choices)
        _check_arguments(self.model_arguments)
        for name in ("epochs", "batch_size", "lr"):
            _order(name, getattr(self, name))
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
_CHOICES = (
    ("schedule", SCHEDULES),
    ("precision", PRECISIONS),
    ("downsample", DOWNSAMPLE),
    ("exchange", EXCHANGE),
    ("initializer", INITIALizERS),
    ("depthwise_initializer", INITIALizERS),
)
_RANGES = (
    ("momentum", 0.0, 1.0),
    ("weight_decay", 0.0, math.inf),
    ("warmup_epochs", 0.0, math.inf),
    ("label_smoothing", 0.0, 1.0),
    ("val_fraction", 0.01, 0.9),
)


def load_recipe(name_or_path: str | Path, **overrides: Any) -> Recipe:
    """Read a shipped recipe by name (`quick`, `article`, `cifar`) or anybody's by path.

    Args:
        name_or_path: a shipped name, or a YAML file whose keys are the fields of `Recipe`.
        **overrides: settings that replace those of the file; None leaves a setting alone.

    Raises:
        InputError: no such recipe, not YAML, an unknown setting, or a value out of range.
    """
    text = read_shipped("recipe", name_or_path, SHIPPED, "training/recipes")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(
            f"recipe {name_or_path} is not valid YAML ({one_line(error)}): mend the file"
        ) from None
    if not isinstance(settings, dict):
        raise InputError(f"recipe {name_or_path} holds no settings: write lines such as `epochs: 10`")
    check_names((*settings, *overrides), f"recipe {name_or_path}")
    recipe = Recipe(**{"name": Path(name_or_path).stem, **settings})
    return replace(recipe, **{k: v for k, v in overrides.items() if v is not None})


def check_names(settings: Iterable[str], where: str) -> None:
    """Raises InputError for the first of `settings` that a recipe does not have."""
    known = {f.name for f in fields(Recipe)}
    for key in settings:
        if key not in known:
            choices = ", ".join(sorted(known))
            raise InputError(f"{where} has an unknown setting {key!r}: choose from {choices}")


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML text that `load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True)


def read_shipped(what: str, name_or_path: str | Path, names: Sequence[str], room: str) -> str:
    """The text of a YAML file that ships under one of `names` in this package, or lies at a path.

    Raises:
        InputError: there is no such file, or it cannot be read; `what` says what it should have been.
    """
    if str(name_or_path) in names:
        return files("octavize").joinpath(f"{room}/{name_or_path}.yaml").read_text("utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        choices = ", ".join(names)
        raise InputError(f"{what} {name_or_path} does not exist: give one of {choices} or a YAML file's path")
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{what} {name_or_path} cannot be read ({error}): give a YAML text file") from None


def _as_tuple(name: str, values: Any) -> tuple[Any, ...]:
    values = (values,) if isinstance(values, (str, int, float)) else tuple(values or ())
    if not values:
        raise InputError(f"{name} is empty: give at least one")
    if len(set(values)) != len(values):
        raise InputError(f"{name} is {list(values)}: give each value once")
    return values


def _number(name: str, value: Any, low: float, high: float) -> float:
    # YAML reads 1e-3 as text, so text that is a number counts as one.
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high or math.isinf(number):
        upper = f" to {high:g}" if math.isfinite(high) else " up"
        raise InputError(f"{name} is {value!r}: give a number from {low:g}{upper}")
    return number


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}: give a whole number of at least {least}")
    return value


def _per_model(name: str, value: Any, least: int) -> int | dict[str, int]:
    if isinstance(value, Mapping):
        return {str(pattern): _whole(f"{name}[{pattern}]", v, least) for pattern, v in value.items()}
    return _whole(name, value, least)


def _rates(value: Any) -> float | dict[str, float]:
    if isinstance(value, Mapping):
        return {str(pattern): _positive(f"lr[{pattern}]", v) for pattern, v in value.items()}
    return _positive("lr", value)


def _positive(name: str, value: Any) -> float:
    number = _number(name, value, 0, math.inf)
    if number == 0:
        raise InputError(f"{name} is {value!r}: give a number above 0")
    return number


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}: choose from {', '.join(choices)}")


def _check_arguments(arguments: Any) -> None:
    if not isinstance(arguments, Mapping) or not all(isinstance(v, Mapping) for v in arguments.values()):
        example = "{'oct_mobilenet*': {width: 0.5}}"
        raise InputError(f"model_arguments is {arguments!r}: map name patterns to arguments, as in {example}")


def _order(name: str, value: Any) -> None:
    """The first pattern that matches counts, so those after '*' never do."""
    if isinstance(value, Mapping) and "*" in list(value)[:-1]:
        raise InputError(
            f"{name} is {dict(value)!r}: put '*' last, since the first pattern that matches counts"
        )


def _pick(name: str, value: T | Mapping[str, T], model: str) -> T:
    if not isinstance(value, Mapping):
        return value
    for pattern, number in value.items():
        if fnmatchcase(model, pattern):
            return number
    raise InputError(
        f"{name} has no pattern for {model}: add one to {list(value)}, '*' matches every network"
    )
