"""The command `study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from octavize.cli import options as o
from octavize.cli.telling import Answer
from octavize.errors import InputError


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="article, alpha, exchange, networks, rate, resolution, size, or a YAML file's path."
        ),
    ],
    *,
    out: Annotated[
        Path | None, o.runs("--out", "-o", help="Run folder; by default runs/study-<name>.")
    ] = None,
    list_runs: Annotated[bool, o.runs("--list", help="Only show the runs and how long they take.")] = False,
    analyze: Annotated[bool, o.runs("--analyze", help="Only write the report of what is there.")] = False,
    retry: Annotated[bool, o.runs("--retry", help="Train runs that failed anew.")] = False,
    seed: o.Seeds = None,
    data: o.Data = None,
    data_dir: o.DataDir = None,
    limit_train: o.LimitTrain = None,
    settings: o.Settings = None,
    precision: o.Precision = None,
    engine: Annotated[
        str,
        o.machine(
            help="local: worker processes of this machine. ray: a Ray cluster whose machines share the run "
            "folder; each run is a task with its share of the cores, or a GPU.",
            metavar="[local|ray]",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        o.machine(
            help="Of the Ray cluster, as host:port; by default auto, the one that this machine belongs to."
        ),
    ] = None,
    gpu_share: Annotated[
        float | None,
        o.machine(
            help="Part of a GPU that a run on a Ray cluster takes: 0.25 lets four train side by side on one."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        o.machine(help="Processes of the local engine; by default one a core, or a GPU.", min=1),
    ] = None,
    machine: o.MachineOptions,
) -> Answer:
    """Train a grid of settings with several seeds, and report the paired differences.

    Every arm is trained under every setting with every seed. The same command goes on after a kill, each run
    from its last finished epoch. The run folder gets report.html, results.csv, results.json and figures, at
    any time with --analyze. A study that says so also exports the trained networks, and tests and times
    them in OpenVINO or ONNX Runtime.

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
    from octavize.study.listing import listing
    from octavize.study.load import load_study
    from octavize.study.run import analyze_study, run_study

    if list_runs and analyze:
        raise InputError("--list and --analyze are both given: choose one")
    if (list_runs or analyze) and (engine != "local" or address is not None or gpu_share is not None):
        raise InputError("--list and --analyze train nothing: leave --engine, --address and --gpu-share out")
    given = o.TrainingOptions(
        data=data, limit_train=limit_train, settings=settings, precision=precision
    ).overrides()
    chosen = load_study(name, seeds=seed, **given)
    folder = out or Path("runs") / f"study-{chosen.name}"
    hardware = machine.hardware()
    if list_runs:
        values, table, told = listing(chosen, folder, data_dir, hardware, workers)
        return Answer(values, [table, told])
    if analyze:
        return _told(analyze_study(chosen, folder, data_dir=data_dir), folder)
    results = run_study(
        chosen, folder, data_dir=data_dir, hardware=hardware, engine=engine, address=address,
        gpu_share=gpu_share, workers=workers, retry=retry,
    )  # fmt: skip
    return _told(results, folder)


def _told(results: dict[str, Any], out: Path) -> Answer:
    """What a study found; nothing where another process of the same training answers."""
    if not results:
        return Answer({}, [])
    from octavize.study.estimate import hindsight
    from octavize.study.report import caution, headline, train_seconds

    report, file = out / "report.html", out / "results.json"
    told = {"headline": headline(results), "caution": caution(results)}
    if times := train_seconds(results, out):
        told["hindsight"] = hindsight(times, out)
    kept = ("reference", "done", "planned", "differences", "failed", "undeployed")
    values = {**told, **{key: results[key] for key in kept}, "report": str(report), "results": str(file)}
    failed = [f"failed  {one['run']}: {one['reason']}" for one in results["failed"]]
    failed += [
        f"failed  {one['run']} in {one['precision']}: {one['reason']}" for one in results["undeployed"]
    ]
    return Answer(values, [*failed, *told.values(), f"report: {report}"])
