"""The options that commands share, and how the command line becomes settings of a recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from octavize.deploy.formats import PRECISIONS
from octavize.errors import InputError, require_extra
from octavize.files import parse_yaml
from octavize.plans.exchanging import check_exchange_policy

if TYPE_CHECKING:
    from octavize.training.hardware import Hardware

T = TypeVar("T")


def number_or_pattern(text: str) -> str:
    """The text itself, if it is a number or `pattern=number`; raises ValueError otherwise."""
    float(text.rpartition("=")[2])
    return text


def precision_name(text: str) -> str:
    """The text itself, if it is a precision of exported files; raises ValueError otherwise."""
    if text not in PRECISIONS:
        raise ValueError(text)
    return text


LISTS: dict[str, Callable[[str], Any]] = {
    **{"--alpha": float, "--seed": int, "--model": str, "-m": str},
    **{"--mean": float, "--std": float},
    **{"--runtime": str, "--batch": int, "--threads": int, "--precision": precision_name},
    "--exchange": check_exchange_policy,
    **dict.fromkeys(("--epochs", "--batch-size", "--lr"), number_or_pattern),
}
"""Options that may be followed by several values, and what a value has to look like."""

runs: Callable[..., Any] = partial(typer.Option, rich_help_panel="Runs")
network: Callable[..., Any] = partial(typer.Option, rich_help_panel="Network")
conversion: Callable[..., Any] = partial(typer.Option, rich_help_panel="Conversion")
training: Callable[..., Any] = partial(typer.Option, rich_help_panel="Training")
machine: Callable[..., Any] = partial(typer.Option, rich_help_panel="Machine")
"""Options under the headings of `--help`."""

Seeds = Annotated[
    list[int] | None, runs("--seed", help="One run per seed. Several: --seed 0 1 2", metavar="N...")
]
RecipeName = Annotated[str, runs("--recipe", "-r", help="quick, article, cifar, or the path of a YAML file.")]
Restart = Annotated[
    bool,
    runs("--restart/--resume", help="Forget what the run folder holds, or (default) go on from it."),
]
Data = Annotated[str | None, training(help="textures (ships with octavize), cifar10, cifar100 or folder.")]
DataDir = Annotated[
    Path | None,
    training(help="Where the images lie; CIFAR is downloaded to it when it is not there yet."),
]
LimitTrain = Annotated[int | None, training(help="Use only so many training images.")]
Settings = Annotated[
    list[str] | None,
    training(
        "--set",
        help="Any other setting of the recipe: --set label_smoothing=0.1 --set flip=false",
        metavar="NAME=VALUE",
    ),
]
EXCHANGE_HELP = (
    "Where the frequencies meet: every (layer, the paper), block or stage; with one path as in "
    "block:high_to_low."
)
ExchangeName = Annotated[
    str | None, network("--exchange", help=f"{EXCHANGE_HELP} \\[default: every]", metavar="WHERE")
]
RecipeExchange = Annotated[
    str | None, network("--exchange", help=f"{EXCHANGE_HELP} \\[default: the recipe's own]", metavar="WHERE")
]
Exchanges = Annotated[
    list[str] | None,
    typer.Option("--exchange", help=f"{EXCHANGE_HELP} Several are compared.", metavar="WHERE..."),
]
Backend = Annotated[
    str, typer.Option(help="torch; or paddle, for networks of paddle.vision.models, without torch.")
]
Precision = Annotated[str | None, machine(help="32-true, bf16-mixed, 16-mixed, bf16-true or 64-true.")]


@dataclass(frozen=True)
class TrainingOptions:
    """Options that replace settings of a recipe; None leaves a setting alone."""

    data: Data = None
    data_dir: DataDir = None
    size: Annotated[int | None, training(help="Side of the images the network sees, in pixels.")] = None
    epochs: Annotated[
        list[str] | None,
        training(
            help="Passes over the training images; per network: --epochs 'oct_mob*=8' 'oct_res*=6'",
            metavar="N...",
        ),
    ] = None
    batch_size: Annotated[
        list[str] | None,
        training(help="Images per step over all devices; per network as for --epochs.", metavar="N..."),
    ] = None
    optimizer: Annotated[
        str | None, training(help="Any of timm's: sgd (Nesterov), momentum, adam, adamw, lamb, …")
    ] = None
    lr: Annotated[
        list[str] | None,
        training(help="Peak learning rate; per network as for --epochs.", metavar="RATE..."),
    ] = None
    schedule: Annotated[
        str | None,
        training(help="Learning rate over time: constant, cosine or linear."),
    ] = None
    limit_train: LimitTrain = None
    settings: Settings = None
    precision: Precision = None

    def overrides(self) -> dict[str, Any]:
        """The settings of a recipe by name; None where not given.

        Raises:
            InputError: `--set` without a name and a value, or a number that is none.
        """
        given = asdict(self) | {
            "epochs": per_model("epochs", self.epochs, int),
            "batch_size": per_model("batch-size", self.batch_size, int),
            "lr": per_model("lr", self.lr, float),
        }
        del given["data_dir"], given["settings"]  # where the data lies is no setting
        for setting in self.settings or []:
            name, equals, text = setting.partition("=")
            if not equals:
                raise InputError(f"--set is {setting!r}: give name=value, as in --set label_smoothing=0.1")
            given[name] = _value(setting, text)
        return given


@dataclass(frozen=True)
class MachineOptions:
    """Options of the devices that train."""

    accelerator: Annotated[str, machine(help="Lightning's accelerator: auto, cpu, gpu, mps.")] = "auto"
    devices: Annotated[str, machine(help="Devices per node: auto, a number, or '0,2'.")] = "auto"
    nodes: Annotated[int, machine(help="Machines that share the work.", min=1)] = 1
    strategy: Annotated[str, machine(help="Lightning's strategy: auto, ddp, …")] = "auto"
    threads: Annotated[int | None, machine(help="CPU threads per process.", min=1)] = None

    def hardware(self) -> Hardware:
        """The devices as one value."""
        from octavize.training.hardware import Hardware

        devices = int(self.devices) if self.devices.isdecimal() else self.devices
        return Hardware(**{**asdict(self), "devices": devices})


def spelled_out(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command an option for every field of the dataclasses among its parameters.

    Typer reads options off the parameters of a function; the dataclasses hold those that commands share.
    """
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind
            options += inspect.signature(kind, eval_str=True).parameters.values()
        else:
            options.append(parameter)

    @wraps(command)
    def run(**given: Any) -> T:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    by_name = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    run.__signature__ = inspect.Signature(by_name)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def spread(arguments: Sequence[str]) -> list[str]:
    """Let one option take several values: `--alpha 0 0.5` becomes `--alpha 0 --alpha 0.5`.

    Only the options in `LISTS` do so. A value is taken as long as it does not start with a dash and, where
    numbers are expected, is one; `octavize profile --alpha 0 0.5 oct_resnet50` therefore means what it says.
    """
    result: list[str] = []
    option, filled = "", False
    for argument in arguments:
        if argument.startswith("-"):
            option, filled = argument.partition("=")[0], "=" in argument
        elif filled and option in LISTS and fits(argument, LISTS[option]):
            result.append(option)
        elif filled:
            option = ""  # an argument of its own ends the list
        else:
            filled = True
        result.append(argument)
    return result


def per_model(name: str, values: Sequence[str] | None, kind: type[int] | type[float]) -> Any:
    """`['8']` is 8; `['oct_mob*=8', 'oct_res*=6']` a mapping from name patterns to numbers; None is None.

    Raises:
        InputError: not a number, or numbers with and without a pattern together.
    """
    if not values:
        return None
    pairs = [value.rpartition("=") for value in values]
    for value, (_, _, number) in zip(values, pairs, strict=True):
        if not fits(number, kind):
            raise InputError(f"{name} is {value!r}: give a number, or pattern=number such as 'oct_resnet*=6'")
    if len(values) == 1 and not pairs[0][0]:
        return kind(values[0])
    if not all(pattern for pattern, _, _ in pairs):
        raise InputError(f"{name} is {' '.join(values)}: give one number, or pattern=number for each")
    return {pattern: kind(number) for pattern, _, number in pairs}


def require_experiment() -> None:
    """Raises InputError where a package that training needs is missing."""
    for module in (
        "lightning",
        "torchmetrics",
        "timm",
        "matplotlib",
        "jinja2",
        "tensorboard",
        "scipy",
        "filelock",
        "pydantic",
    ):
        require_extra(module, "experiment")


def fits(value: str, kind: Callable[[str], Any]) -> bool:
    """Whether the text reads as a value of this type."""
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _value(setting: str, text: str) -> Any:
    try:
        value = parse_yaml(text)
    except InputError as error:
        raise InputError(
            f"--set is {setting!r}: give a number, true, false or text as its value ({error})"
        ) from None
    if value is None:
        raise InputError(f"--set is {setting!r}: a setting cannot be emptied; write a recipe without it")
    return value
