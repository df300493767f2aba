"""The `octavize` command.

Heavy imports (torch, Lightning, matplotlib) stay inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from octavize.errors import InputError, require_extra

if TYPE_CHECKING:
    from octavize.experiment.train import Hardware

LISTS = {"--alpha": float, "--seed": int, "--model": str, "--epochs": str, "--batch-size": str, "--lr": str}
"""Options that may be followed by several values, and what a value has to look like."""

app = typer.Typer(
    name="octavize",
    help="Octave convolution for PyTorch: train, compare and measure networks that keep the low frequencies at "
    "half resolution.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

Alphas = Annotated[
    list[float] | None,
    typer.Option("--alpha", help="Share of low-frequency channels, 0 to 1; 0 is vanilla. Several: --alpha 0 0.25 0.5"),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="quick, article, cifar, or the path of a YAML file.")
]
Data = Annotated[str | None, typer.Option(help="textures (ships with octavize), cifar10, cifar100 or folder.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where the pictures lie. CIFAR is downloaded to it when it is not there yet.")
]
Size = Annotated[int | None, typer.Option(help="Side of the pictures the network sees, in pixels.")]
Epochs = Annotated[
    list[str] | None,
    typer.Option("--epochs", help="Passes over the training pictures; per network: 'oct_mob*=8' 'oct_res*=6'."),
]
BatchSize = Annotated[
    list[str] | None,
    typer.Option("--batch-size", help="Pictures per step over all devices; per network as for --epochs."),
]
Optimizer = Annotated[str | None, typer.Option(help="Any of timm's: sgd (Nesterov), momentum, adam, adamw, lamb, …")]
LearningRate = Annotated[
    list[str] | None, typer.Option("--lr", help="Peak learning rate; per network as for --epochs.")
]
Schedule = Annotated[str | None, typer.Option(help="Learning rate over time: constant, cosine or linear.")]
LimitTrain = Annotated[int | None, typer.Option(help="Use only so many training pictures.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting of the recipe, as in --set label_smoothing=0.1 --set flip=false"),
]
Restart = Annotated[
    bool, typer.Option("--restart/--resume", help="Forget what --out holds, or (default) go on from it.")
]
Accelerator = Annotated[str, typer.Option(help="Lightning's accelerator: auto, cpu, gpu, mps.")]
Devices = Annotated[str, typer.Option(help="Devices (or CPU processes) per node: auto, a number, or '0,2'.")]
Nodes = Annotated[int, typer.Option(help="Machines that share the work.")]
Strategy = Annotated[str, typer.Option(help="Lightning's strategy: auto, ddp, …")]
Precision = Annotated[str | None, typer.Option(help="32-true, bf16-mixed, 16-mixed, bf16-true or 64-true.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads per process.", min=1)]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"octavize {version_of('octavize')}")
        raise typer.Exit


@app.command()
def compare(
    recipe: RecipeOption = "quick",
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; report.html ends up in it.")] = Path("runs/compare"),
    data: Data = None,
    data_dir: DataDir = None,
    size: Size = None,
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Networks to compare; see `octavize models`.")] = None,
    alpha: Alphas = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="One run per seed. Several: --seed 0 1 2")] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    optimizer: Optimizer = None,
    lr: LearningRate = None,
    schedule: Schedule = None,
    limit_train: LimitTrain = None,
    settings: Settings = None,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = None,
    threads: Threads = None,
) -> None:
    """Train vanilla and octave networks alike and write a report that compares them.

    Every network is trained at every α and every seed under one recipe. The run folder gets report.html,
    results.csv, results.json, figures and TensorBoard logs. Call it again with the same arguments: finished
    runs are skipped, an interrupted one goes on from its last epoch.

    [bold]Examples[/bold]

        octavize compare

        octavize compare --recipe cifar --data-dir ~/data --seed 0 1 2 --out runs/cifar

        octavize compare --model oct_resnet18_small --alpha 0 0.125 0.25 0.5 --epochs 20

        octavize compare --recipe article --devices 4 --strategy ddp --precision bf16-mixed
    """
    _require_experiment()
    from octavize.experiment.compare import compare as run_all
    from octavize.experiment.recipe import load_recipe

    chosen = load_recipe(
        recipe,
        **_overrides(data, size, epochs, batch_size, optimizer, lr, schedule, limit_train, precision, settings),
        models=model,
        alphas=alpha,
        seeds=seed,
    )
    hardware = _hardware(accelerator, devices, nodes, strategy, threads)
    with _resumable():
        run_all(chosen, out, data_dir=data_dir, hardware=hardware, restart=restart)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="A network from `octavize models`.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; by default runs/NAME.")] = None,
    alpha: Annotated[float, typer.Option(help="Share of low-frequency channels, 0 to 1; 0 is vanilla.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Fixes initial weights, order of pictures and augmentation.")] = 0,
    recipe: RecipeOption = "quick",
    data: Data = None,
    data_dir: DataDir = None,
    size: Size = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    optimizer: Optimizer = None,
    lr: LearningRate = None,
    schedule: Schedule = None,
    limit_train: LimitTrain = None,
    settings: Settings = None,
    restart: Restart = False,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = None,
    threads: Threads = None,
) -> None:
    """Train one network under a recipe.

    The run folder gets best.safetensors (the epoch with the best validation accuracy), metrics.csv,
    result.json and TensorBoard logs. Call it again and it goes on from the last finished epoch.

    [bold]Examples[/bold]

        octavize train oct_mobilenet_v1_small

        octavize train oct_resnet50 --alpha 0.25 --data folder --data-dir ~/flowers --size 224 --epochs 30
    """
    _require_experiment()
    from octavize.experiment.compare import train_one
    from octavize.experiment.recipe import load_recipe

    chosen = load_recipe(
        recipe,
        **_overrides(data, size, epochs, batch_size, optimizer, lr, schedule, limit_train, precision, settings),
        models=[name],
        alphas=[alpha],
        seeds=[seed],
    )
    hardware = _hardware(accelerator, devices, nodes, strategy, threads)
    folder = out or Path("runs") / name
    with _resumable():
        result = train_one(chosen, folder, data_dir=data_dir, hardware=hardware, restart=restart)
    console = Console(highlight=False)
    console.print(f"test accuracy [bold]{result['test_accuracy']:.2%}[/bold] (weights of epoch {result['best_epoch']})")


@app.command()
def bands(
    picture: Annotated[Path, typer.Argument(help="Any picture file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Figure to write (.png, .svg or .pdf).")] = Path("bands.png"),
) -> None:
    """Split a picture into its low and its high band, and show how much energy each octave holds.

    [bold]Example[/bold]

        octavize bands cat.jpg --out cat-bands.png
    """
    from rich.table import Table

    from octavize.experiment.bands import draw_bands

    shown = Table("octave", "share of energy")
    for octave, share in draw_bands(picture, out):
        shown.add_row(octave, f"{share:.2%}")
    console = Console(highlight=False)
    console.print(shown)
    console.print(f"figure: [bold]{out}[/bold]")


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of lines.")] = False) -> None:
    """List the networks that octavize builds by name.

    [bold]Example[/bold]

        octavize models
    """
    import json

    from octavize.models import list_models

    names = list_models()
    typer.echo(json.dumps(names) if as_json else "\n".join(names))


@app.command()
def profile(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Networks from `octavize models`.")],
    alpha: Alphas = None,
    size: Annotated[int, typer.Option(help="Side of the input in pixels.", min=1)] = 224,
    batch: Annotated[int, typer.Option(help="Pictures per timed call.", min=1)] = 1,
    classes: Annotated[int, typer.Option(help="Classes of the last layer.", min=1)] = 1000,
    rounds: Annotated[int, typer.Option(help="Timed calls per network, taking turns.", min=1)] = 20,
    threads: Threads = None,
    layers: Annotated[bool, typer.Option("--layers", help="A table of the layers instead (one network).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Parameters, multiply-accumulates, activation memory and latency, side by side.

    Latency is the median of interleaved runs; ratios refer to the first α.

    [bold]Examples[/bold]

        octavize profile oct_resnet50 --alpha 0 0.125 0.25 0.5 0.75 --size 224

        octavize profile oct_mobilenet_v1 --alpha 0.5 --layers --csv
    """
    from octavize.profile import layer_table, profile_models

    alphas = alpha or [0.0, 0.5]
    if layers:
        if len(names) > 1 or (alpha and len(alpha) > 1):
            raise InputError(f"--layers shows one network, not {len(names)} × {len(alphas)}: give one name and one α")
        shown = layer_table(names[0], alpha[0] if alpha else 0.5, size=size)
    else:
        shown = profile_models(
            names, alphas, size=size, batch=batch, num_classes=classes, rounds=rounds, threads=threads
        )
    if as_json or as_csv:
        typer.echo(shown.to_json() if as_json else shown.to_csv())
    else:
        shown.print(Console())


def spread(arguments: Sequence[str]) -> list[str]:
    """Let one option take several values: `--alpha 0 0.5` becomes `--alpha 0 --alpha 0.5`.

    Only the options in `LISTS` do so. A value is taken as long as it does not start with a dash and, where
    numbers are expected, is one; `octavize profile --alpha 0 0.5 oct_resnet50` therefore means what it says.
    """
    result: list[str] = []
    option = ""
    for argument in arguments:
        if argument.startswith("-"):
            option = argument if argument in LISTS else ""
            result.append(argument)
        elif option and result[-1] != option and _fits(argument, LISTS[option]):
            result += [option, argument]
        else:
            option = option if result and result[-1] == option else ""
            result.append(argument)
    return result


def per_model(name: str, values: list[str] | None, kind: type[int] | type[float]) -> Any:
    """`['8']` is 8; `['oct_mob*=8', 'oct_res*=6']` a mapping from name patterns to numbers; None is None.

    Raises:
        InputError: not a number, or numbers with and without a pattern together.
    """
    if not values:
        return None
    pairs = [value.rpartition("=") for value in values]
    for value, (_, _, number) in zip(values, pairs, strict=True):
        if not _fits(number, kind):
            raise InputError(f"{name} is {value!r}: give a number, or pattern=number such as 'oct_resnet*=6'")
    if len(values) == 1 and not pairs[0][0]:
        return kind(values[0])
    if not all(pattern for pattern, _, _ in pairs):
        raise InputError(f"{name} is {' '.join(values)}: give one number, or pattern=number for each")
    return {pattern: kind(number) for pattern, _, number in pairs}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: mistakes of the user end in one line on stderr and exit code 2."""
    try:
        app(spread(sys.argv[1:] if arguments is None else arguments))
    except InputError as error:
        line = Text.assemble(("Error: ", "bold red"), " ".join(str(error).split()))
        Console(stderr=True, highlight=False, soft_wrap=True).print(line)
        sys.exit(2)


def _require_experiment() -> None:
    for module in ("lightning", "torchmetrics", "timm", "matplotlib", "jinja2", "tensorboard"):
        require_extra(module, "experiment")


def _hardware(accelerator: str, devices: str, nodes: int, strategy: str, threads: int | None) -> Hardware:
    from octavize.experiment.train import Hardware

    return Hardware(accelerator, int(devices) if devices.isdecimal() else devices, nodes, strategy, threads)


@contextmanager
def _resumable() -> Iterator[None]:
    """Say after Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            "\nInterrupted. Run the same command again: it goes on from the last finished epoch.", err=True
        )
        raise typer.Exit(130) from None


def _overrides(
    data: str | None,
    size: int | None,
    epochs: list[str] | None,
    batch_size: list[str] | None,
    optimizer: str | None,
    lr: list[str] | None,
    schedule: str | None,
    limit_train: int | None,
    precision: str | None,
    settings: list[str] | None,
) -> dict[str, Any]:
    """The options that `compare` and `train` share, as settings of a recipe; None where not given."""
    given = {
        "data": data,
        "size": size,
        "epochs": per_model("epochs", epochs, int),
        "batch_size": per_model("batch-size", batch_size, int),
        "optimizer": optimizer,
        "lr": per_model("lr", lr, float),
        "schedule": schedule,
        "limit_train": limit_train,
        "precision": precision,
    }
    for setting in settings or []:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set is {setting!r}: give name=value, as in --set label_smoothing=0.1")
        given[name] = _yaml(setting, text)
    return given


def _yaml(setting: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set is {setting!r}: its value is not YAML; give a number, true, false or text") from None


def _fits(value: str, kind: type) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True
