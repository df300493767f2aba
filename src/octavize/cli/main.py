"""The `octavize` command.

Heavy imports (torch, Lightning, matplotlib) stay inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import inspect
import io
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import requires
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from click import Abort

from octavize.bench.process import settle_process
from octavize.cli import adapt as cli_adapt
from octavize.cli import convert as cli_convert
from octavize.cli import deploy as cli_deploy
from octavize.cli import options as o
from octavize.cli import paddle as cli_paddle
from octavize.cli import study as cli_study
from octavize.cli import zoo as cli_zoo
from octavize.cli.answers import compared
from octavize.cli.telling import ANEW, RESUMED, Answer, AsJson, say, told, warn
from octavize.errors import InputError, extra_here
from octavize.text import Table

app = typer.Typer(
    name="octavize",
    help="Octave convolution for PyTorch: networks that keep their low frequencies at half resolution.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def name_of(function: Callable[..., Any]) -> str:
    """Of a command: its function's, which has an underscore more where Python keeps the word for itself."""
    return function.__name__.rstrip("_")


def command(function: Callable[..., Answer], kept: str = ANEW) -> Callable[..., Answer]:
    """Register a command; its docstring, lines joined to paragraphs, is its `--help`.

    Args:
        kept: what is left of it when it is stopped, and how to go on.
    """
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    app.command(name=name_of(function), help="\n\n".join(" ".join(p.split()) for p in paragraphs))(
        told(o.spelled_out(function), kept)
    )
    return function


resumed = partial(command, kept=RESUMED)
"""Register a command that trains."""


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"octavize {version_of('octavize')}")
        raise typer.Exit


@resumed
def compare(
    *,
    recipe: o.RecipeName = "quick",
    out: Annotated[
        Path | None, o.runs("--out", "-o", help="Run folder; by default runs/<name of the recipe>.")
    ] = None,
    model: Annotated[
        list[str] | None,
        o.runs("--model", "-m", help="Networks to compare, from `octavize models`.", metavar="NAME..."),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        o.runs(
            help="Share of low-frequency channels, 0 to 1; 0 is vanilla. Several: --alpha 0 0.25 0.5",
            metavar="SHARE...",
        ),
    ] = None,
    exchange: o.RecipeExchange = None,
    seed: o.Seeds = None,
    restart: o.Restart = False,
    backend: o.Backend = "torch",
    training: o.TrainingOptions,
    machine: o.MachineOptions,
) -> Answer:
    """Train vanilla and octave networks alike and write a report that compares them.

    Every network is trained at every α and every seed under one recipe. The run folder gets report.html,
    results.csv, results.json, figures and TensorBoard logs. Call it again with the same arguments: finished
    runs are skipped, an interrupted one goes on from its last epoch.

    With `--backend paddle` PaddlePaddle trains, without torch; live curves are VisualDL's. It has one device,
    and the optimizers sgd, momentum, adam and adamw; whatever else a recipe asks for is refused by name.

    [bold]Examples[/bold]

    [cyan]octavize compare[/cyan]

    [cyan]octavize compare --recipe cifar --data-dir ~/data --seed 0 1 2[/cyan]

    [cyan]octavize compare --model oct_resnet18_small --alpha 0 0.25 0.5 --epochs 20 --out runs/r18[/cyan]

    [cyan]octavize compare --recipe article --devices 4 --strategy ddp --precision bf16-mixed[/cyan]

    [cyan]octavize compare --backend paddle --model oct_resnet18_small --threads 4 --out runs/paddle[/cyan]
    """
    if cli_paddle.is_paddle(backend):
        given = {"models": model, "alphas": alpha, "exchange": exchange, "seeds": seed}
        return cli_paddle.compare(recipe, out, given, training, machine, restart)
    o.require_experiment()
    from octavize.training.compare import compare as run
    from octavize.training.recipe import load_recipe

    given = training.overrides() | {"models": model, "alphas": alpha, "exchange": exchange, "seeds": seed}
    chosen = load_recipe(recipe, **given)
    out = out or Path("runs") / chosen.name
    results = run(chosen, out, data_dir=training.data_dir, hardware=machine.hardware(), restart=restart)
    return compared(results, out)


@resumed
def train(
    name: Annotated[str, typer.Argument(help="A network from `octavize models`.")],
    *,
    out: Annotated[Path | None, o.runs("--out", "-o", help="Run folder; by default runs/NAME.")] = None,
    alpha: Annotated[
        list[float] | None,
        o.runs(help="Share of low channels, 0 to 1; 0 is vanilla. \\[default: 0.5]"),
    ] = None,
    exchange: o.RecipeExchange = None,
    seed: Annotated[
        list[int] | None,
        o.runs(help="Fixes initial weights, order of images and augmentation. \\[default: 0]"),
    ] = None,
    recipe: o.RecipeName = "quick",
    restart: o.Restart = False,
    training: o.TrainingOptions,
    machine: o.MachineOptions,
) -> Answer:
    """Train one network under a recipe.

    The run folder gets best.safetensors (the epoch with the best validation accuracy), metrics.csv,
    result.json and TensorBoard logs. Call it again and it goes on from the last finished epoch.

    [bold]Examples[/bold]

    [cyan]octavize train oct_mobilenet_v1_small[/cyan]

    [cyan]octavize train oct_resnet50 --alpha 0.25 --data folder --data-dir ~/flowers --size 224[/cyan]
    """
    o.require_experiment()
    from octavize.training.compare import train_one
    from octavize.training.recipe import load_recipe

    # More than one α or seed is refused by `train_one`.
    given = training.overrides() | {"models": [name], "alphas": alpha or [0.5], "exchange": exchange}
    given |= {"seeds": seed or [0]}
    out = out or Path("runs") / name
    chosen = load_recipe(recipe, **given)
    result = train_one(chosen, out, data_dir=training.data_dir, hardware=machine.hardware(), restart=restart)
    text = f"test accuracy {result['test_accuracy']:.2%}, of the weights of epoch {result['best_epoch']}"
    return Answer({**result, "folder": str(out)}, [text, f"network: {out / 'best.safetensors'}"])


@command
def bands(
    image: Annotated[Path, typer.Argument(help="Any image file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Figure to write: .png, .svg or .pdf.")] = Path(
        "bands.png"
    ),
) -> Answer:
    """Split an image into its low and its high band, and show the share of energy in each octave.

    [bold]Example[/bold]

    [cyan]octavize bands cat.jpg --out cat-bands.png[/cyan]
    """
    from octavize.data.bands import draw_bands

    found = draw_bands(image, out)
    table = Table(("octave", "share of energy"), [(octave, f"{share:.2%}") for octave, share in found])
    values = {"octaves": [{"octave": octave, "share": share} for octave, share in found], "figure": str(out)}
    return Answer(values, [table, f"figure: {out}"])


@command
def profile(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Names from `octavize models`, of torchvision or timm; or module:function that returns a "
            "vanilla network.",
        ),
    ],
    alpha: Annotated[
        list[float] | None,
        typer.Option(metavar="SHARE...", help="Shares of low-frequency channels. Several: --alpha 0 0.5"),
    ] = None,
    exchange: o.ExchangeName = None,
    size: Annotated[int, typer.Option(help="Side of the input in pixels.", min=1)] = 224,
    batch: Annotated[int, typer.Option(help="Images per timed call.", min=1)] = 1,
    num_classes: Annotated[
        int | None, typer.Option(help="Classes of the last layer; by default the network's own.", min=1)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed calls per network, taking turns.", min=1)] = 20,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    layers: Annotated[bool, typer.Option("--layers", help="The layers of one network instead.")] = False,
    backend: Annotated[
        str, typer.Option(help="torch; or paddle, for parameters and multiply-accumulates of its networks.")
    ] = "torch",
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="The result as CSV.", rich_help_panel="Output")
    ] = False,
) -> Answer:
    """Show parameters, multiply-accumulates, activation memory and latency side by side.

    Latency is the median of interleaved runs; ratios refer to the first α.

    [bold]Examples[/bold]

    [cyan]octavize profile oct_resnet50 --alpha 0 0.125 0.25 0.5 0.75 --size 224[/cyan]

    [cyan]octavize profile oct_mobilenet_v1 --alpha 0.5 --layers --csv[/cyan]

    [cyan]octavize profile timm:efficientnet_b0 mynets:build[/cyan]
    """
    if as_json and as_csv:
        raise InputError("--json and --csv are both given: choose one")
    if cli_paddle.is_paddle(backend):
        if (batch, rounds, threads) != (1, 20, None):
            raise InputError(
                "--batch, --rounds and --threads are of times, which --backend paddle leaves out"
            )
        how: dict[str, Any] = {"size": size, "num_classes": num_classes, "exchange": exchange}
        return cli_paddle.profile(names, alpha, layers, as_csv, **how)
    from octavize.bench.profile import layer_table, profile_models
    from octavize.zoo.find import find_origin

    if layers:
        if len(names) > 1 or len(alpha or []) > 1:
            raise InputError(f"--layers shows one network, not {', '.join(names)}: give one name and one α")
        share = alpha[0] if alpha else 0.5
        model = find_origin(names[0], num_classes=num_classes).octave(share, size, exchange)
        shown = layer_table(model, f"{names[0]} α={share:g}", size=size)
    else:
        origins = {name: find_origin(name, num_classes=num_classes) for name in names}
        shown = profile_models(
            {name: partial(origin.octave, size=size, exchange=exchange) for name, origin in origins.items()},
            alpha or [0.0, 0.5],
            size=size,
            batch=batch,
            rounds=rounds,
            threads=threads,
        )
    return Answer(shown.values, [shown.to_csv().rstrip("\n") if as_csv else shown.shown])


command(cli_zoo.models)
command(cli_zoo.tables)
command(cli_zoo.import_)
resumed(cli_study.study)
command(cli_convert.convert)
resumed(cli_adapt.adapt)
command(cli_deploy.export)
command(cli_deploy.predict)
command(cli_deploy.bench)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: a mistake of the user ends in one line on stderr and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settle_process()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without α or × shows a question mark instead
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            warnings.filterwarnings("ignore", "No ccache found")  # Paddle's remark on compiling extensions
            warnings.filterwarnings("ignore", "When training, we now always track global mean")
            sys.exit(app(o.spread(given or ["--help"]), prog_name="octavize", standalone_mode=False))
    except InputError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        _fail(f"{error.name} is not installed: run `pip install 'octavize[{extra}]'`")
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}; give another path or make room")
    except Exception as error:
        if isinstance(error, Abort):  # Typer's own name for Ctrl-C
            raise KeyboardInterrupt from None
        # Typer's complaints about options and arguments: it shows them as a box of several lines.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        commands = [found.name for found in app.registered_commands]
        about = f"octavize {given[0]}" if given[:1] and given[0] in commands else "octavize"
        _fail(f"{message}; given: octavize {shlex.join(given)}; see {about} --help")


def extra_of(module: str) -> str | None:
    """The smallest extra of octavize that brings a package to the framework at hand; None if none does."""
    extras: dict[str, list[str]] = {}
    for line in requires("octavize") or []:
        package, _, marker = line.partition(";")
        extra = marker.partition("extra == ")[2].strip().strip("'\"")
        extras.setdefault(extra, []).append(_normal(re.split(r"[^\w-]", package)[0]))
    wanted = _normal(PACKAGES.get(module, module))
    bring = [extra for extra, packages in extras.items() if wanted in packages]
    own = [extra for extra in bring if extra.startswith("paddle") == bool(extra_here(""))]
    return min(own or bring, key=lambda extra: len(extras[extra]), default=None)


def _normal(package: str) -> str:
    return package.lower().replace("_", "-")


PACKAGES = {"yaml": "pyyaml", "skimage": "scikit-image", "PIL": "pillow", "paddle": "paddlepaddle"}
"""What is installed under another name than it is imported by."""


def _fail(message: str) -> NoReturn:
    say("Error: ", "bold red", message)
    sys.exit(2)
