"""The options that commands share, and how the command line becomes settings of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavize.errors import InputError, require_extra

if TYPE_CHECKING:
    from octavize.training.hardware import Hardware


def number_or_pattern(text: str) -> str:
    """The text itself, if it is a number or `pattern=number`; raises ValueError otherwise."""
    float(text.rpartition("=")[2])
    return text


LISTS: dict[str, Callable[[str], Any]] = {
    **{"--alpha": float, "--seed": int, "--model": str, "-m": str},
    **{"--mean": float, "--std": float},
    **{"--runtime": str, "--batch": int, "--threads": int},
    **dict.fromkeys(("--epochs", "--batch-size", "--lr"), number_or_pattern),
}
"""Options that may be followed by several values, and what a value has to look like."""

RUNS, TRAINING, MACHINE = "Runs", "Training", "Machine"
"""Headings of the options in `--help`."""

Alphas = Annotated[
    list[float] | None,
    typer.Option(
        "--alpha",
        help="Share of low-frequency channels, 0 to 1; 0 is vanilla. Several: --alpha 0 0.25 0.5",
        metavar="SHARE...",
        rich_help_panel=RUNS,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="Networks to compare, from `octavize models`.",
        metavar="NAME...",
        rich_help_panel=RUNS,
    ),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", help="One run per seed. Several: --seed 0 1 2", metavar="N...", rich_help_panel=RUNS
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", help="quick, article, cifar, or the path of a YAML file.", rich_help_panel=RUNS
    ),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart/--resume",
        help="Forget what the run folder holds, or (default) go on from it.",
        rich_help_panel=RUNS,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="textures (ships with octavize), cifar10, cifar100 or folder.", rich_help_panel=TRAINING
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Where the images lie; CIFAR is downloaded to it when it is not there yet.",
        rich_help_panel=TRAINING,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(help="Side of the images the network sees, in pixels.", rich_help_panel=TRAINING),
]
Epochs = Annotated[
    list[str] | None,
    typer.Option(
        "--epochs",
        help="Passes over the training images; per network: --epochs 'oct_mob*=8' 'oct_res*=6'",
        metavar="N...",
        rich_help_panel=TRAINING,
    ),
]
BatchSize = Annotated[
    list[str] | None,
    typer.Option(
        "--batch-size",
        help="Images per step over all devices; per network as for --epochs.",
        metavar="N...",
        rich_help_panel=TRAINING,
    ),
]
Optimizer = Annotated[
    str | None,
    typer.Option(
        help="Any of timm's: sgd (Nesterov), momentum, adam, adamw, lamb, …", rich_help_panel=TRAINING
    ),
]
LearningRate = Annotated[
    list[str] | None,
    typer.Option(
        "--lr",
        help="Peak learning rate; per network as for --epochs.",
        metavar="RATE...",
        rich_help_panel=TRAINING,
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(help="Learning rate over time: constant, cosine or linear.", rich_help_panel=TRAINING),
]
LimitTrain = Annotated[
    int | None, typer.Option(help="Use only so many training images.", rich_help_panel=TRAINING)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any other setting of the recipe: --set label_smoothing=0.1 --set flip=false",
        metavar="NAME=VALUE",
        rich_help_panel=TRAINING,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(help="32-true, bf16-mixed, 16-mixed, bf16-true or 64-true.", rich_help_panel=MACHINE),
]
Accelerator = Annotated[
    str, typer.Option(help="Lightning's accelerator: auto, cpu, gpu, mps.", rich_help_panel=MACHINE)
]
Devices = Annotated[
    str, typer.Option(help="Devices per node: auto, a number, or '0,2'.", rich_help_panel=MACHINE)
]
Nodes = Annotated[int, typer.Option(help="Machines that share the work.", min=1, rich_help_panel=MACHINE)]
Strategy = Annotated[str, typer.Option(help="Lightning's strategy: auto, ddp, …", rich_help_panel=MACHINE)]
Threads = Annotated[int | None, typer.Option(help="CPU threads per process.", min=1, rich_help_panel=MACHINE)]


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


def overrides(
    *,
    epochs: list[str] | None,
    batch_size: list[str] | None,
    lr: list[str] | None,
    settings: list[str] | None,
    **plain: Any,
) -> dict[str, Any]:
    """Command-line values as settings of a recipe; None where not given.

    Raises:
        InputError: `--set` without a name and a value, or a number that is none.
    """
    given = {
        **plain,
        "epochs": per_model("epochs", epochs, int),
        "batch_size": per_model("batch-size", batch_size, int),
        "lr": per_model("lr", lr, float),
    }
    for setting in settings or []:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set is {setting!r}: give name=value, as in --set label_smoothing=0.1")
        given[name] = _yaml(setting, text)
        if given[name] is None:
            raise InputError(f"--set is {setting!r}: a setting cannot be emptied; write a recipe without it")
    return given


@contextmanager
def resumable() -> Iterator[None]:
    """Say after Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. The same command goes on from the last finished epoch.", err=True)
        raise typer.Exit(130) from None


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


def make_hardware(accelerator: str, devices: str, nodes: int, strategy: str, threads: int | None) -> Hardware:
    """The machine options as one value."""
    from octavize.training.hardware import Hardware

    return Hardware(accelerator, int(devices) if devices.isdecimal() else devices, nodes, strategy, threads)


def fits(value: str, kind: Callable[[str], Any]) -> bool:
    """Whether the text reads as a value of this type."""
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _yaml(setting: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set is {setting!r}: give a number, true, false or text as its value") from None
