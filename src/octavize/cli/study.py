"""The command `study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from octavize.cli import options as o
from octavize.errors import InputError


def study(
    name: Annotated[
        str, typer.Argument(help="article, alpha, exchange, networks, rate, or the path of a YAML file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run folder; by default runs/study-<name>.", rich_help_panel=o.RUNS),
    ] = None,
    list_runs: Annotated[
        bool,
        typer.Option("--list", help="Only show the runs and how long they take.", rich_help_panel=o.RUNS),
    ] = False,
    analyze: Annotated[
        bool,
        typer.Option("--analyze", help="Only write the report of what is there.", rich_help_panel=o.RUNS),
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Train runs that failed anew.", rich_help_panel=o.RUNS)
    ] = False,
    seed: o.Seeds = None,
    data: o.Data = None,
    data_dir: o.DataDir = None,
    limit_train: o.LimitTrain = None,
    settings: o.Settings = None,
    precision: o.Precision = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local: worker processes of this machine. ray: a Ray cluster whose machines share the run "
            "folder; each run is a task with its share of the cores, or a GPU.",
            metavar="[local|ray]",
            rich_help_panel=o.MACHINE,
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the Ray cluster, as host:port; by default auto, the one that this machine belongs to.",
            rich_help_panel=o.MACHINE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes of the local engine; by default one a core, or a GPU.",
            min=1,
            rich_help_panel=o.MACHINE,
        ),
    ] = None,
    accelerator: o.Accelerator = "auto",
    devices: o.Devices = "auto",
    nodes: o.Nodes = 1,
    strategy: o.Strategy = "auto",
    threads: o.Threads = None,
) -> None:
    """Train a grid of settings with several seeds, and report the paired differences.

    Every arm is trained under every setting with every seed. The same command goes on after a kill, each run
    from its last finished epoch. The run folder gets report.html, results.csv, results.json and figures, at
    any time with --analyze.

    Several machines: run [cyan]ray start --head[/cyan] on one, [cyan]ray start --address=…[/cyan] on the
    others, and the command with --engine ray on one of them. One run on several devices: --devices and
    --strategy.

    [bold]Examples[/bold]

    [cyan]octavize study article --data-dir ~/data --list[/cyan]

    [cyan]octavize study alpha --data-dir ~/data --workers 8[/cyan]

    [cyan]octavize study mine.yaml --out runs/mine --analyze[/cyan]

    [cyan]octavize study alpha --data-dir /shared/data --out /shared/alpha --engine ray --threads 2[/cyan]
    """
    o.require_experiment()
    from octavize.report.tables import show
    from octavize.study.listing import listing
    from octavize.study.load import load_study
    from octavize.study.run import analyze_study, run_study

    if list_runs and analyze:
        raise InputError("--list and --analyze are both given: choose one")
    if (list_runs or analyze) and (engine != "local" or address is not None):
        raise InputError("--list and --analyze train nothing: leave --engine and --address out")
    given = o.overrides(
        epochs=None, batch_size=None, lr=None, settings=settings, data=data, limit_train=limit_train,
        precision=precision,
    )  # fmt: skip
    chosen = load_study(name, seeds=seed, **given)
    folder = out or Path("runs") / f"study-{chosen.name}"
    hardware = o.make_hardware(accelerator, devices, nodes, strategy, threads)
    console = Console()
    if list_runs:
        table, told = listing(chosen, folder, data_dir, hardware, workers)
        show(table, console)
        console.print(told, highlight=False)
    elif analyze:
        analyze_study(chosen, folder, data_dir=data_dir, console=console)
    else:
        with o.resumable():
            run_study(
                chosen, folder, data_dir=data_dir, hardware=hardware, engine=engine, address=address,
                workers=workers, retry=retry, console=console,
            )  # fmt: skip
