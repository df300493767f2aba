"""`octavize study`: plan, train what is missing, analyze what is there.

study.yaml         what was asked for; the folder belongs to this recipe
arms.json          what matched arms were found to be
workers.log        what workers had to say
runs/<run>         as of `compare`, with `claim` (who has it), `log.txt`, `machine.json`, and `failed.json`
results.json       accuracies, paired differences, effects, curves: the same bytes however often the study was
                   killed
results.csv        a line per run
costs.json         time, memory and arithmetic of the networks, measured while nobody trains
figures/           PNG and SVG
report.html        everything on one page
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout
from rich.console import Console

from octavize.data.images import Images
from octavize.errors import InputError
from octavize.files import write_text
from octavize.study.analysis import analyze
from octavize.study.arms import Found, by_model, resolve_in, told
from octavize.study.costs import costs_in
from octavize.study.crew import Crew
from octavize.study.design import Planned, distinct, plan_study
from octavize.study.model import Study
from octavize.study.queue import LEASE, failure, finished, lease
from octavize.study.worker import is_of_run, leave_launcher, mark
from octavize.training.compare import check_data, check_networks, check_settings
from octavize.training.hardware import HERE, Hardware, is_first_process, named_device
from octavize.training.recipe import dump_recipe, load_recipe
from octavize.training.results import DEFAULT_TIMING, Timing
from octavize.training.train import load_images, train_run


@dataclass(frozen=True)
class Prepared:
    """A study with its images, its matched arms, its places in the grid, and one place for every run."""

    study: Study
    images: Images
    matched: Found
    places: list[Planned]
    runs: list[Planned]


def run_study(
    study: Study,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    hardware: Hardware = HERE,
    workers: int | None = None,
    retry: bool = False,
    timing: Timing = DEFAULT_TIMING,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train what a study lacks, and write its report.

    Called again, or on another machine that shares the folder, it takes part: no run is trained twice.

    Args:
        out: folder to write to; made if need be.
        data_dir: where the images lie, for the data sets that need it.
        hardware: of one run. Several devices or nodes, or a strategy, train one run at a time on all of them.
        workers: processes; by default one for each core or GPU, with its share of the threads.
        retry: forget the runs that have failed, and train them anew.
        timing: how the networks' costs are measured once training is done.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: a setting is wrong, `out` holds something else, or the disk is full.
    """
    out, console = Path(out), console or Console()
    if not shared(hardware):
        leave_launcher()
    elif workers is not None:
        raise InputError(
            f"workers is {workers}: with several devices or nodes, or a strategy, runs take turns on all of "
            "them; leave workers out"
        )
    plan = prepare(study, out, data_dir, hardware)
    if retry and is_first_process():
        _forget(place.folder(out) for place in plan.runs)
    console.print(
        f"[bold]octavize[/bold]  study {study.name}: {len(plan.runs)} runs in {out}", highlight=False
    )
    for line in told(plan.matched):
        console.print(f"[dim]{line}[/dim]", highlight=False)
    if shared(hardware):
        with _alone(out):
            _take_turns(plan, out, hardware, console)
    else:
        Crew(plan.runs, study.recipe, plan.images, out, data_dir, hardware, workers).train(console)
    return report(plan, out, timing, console) if is_first_process() else {}


def analyze_study(
    study: Study,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    timing: Timing = DEFAULT_TIMING,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write the report of what a study's folder holds, while it runs or afterwards.

    Args, Returns, Raises:
        See `run_study`.
    """
    out = Path(out)
    if not (out / "study.yaml").is_file():
        raise InputError(f"out is {out}, which is no folder of a study: give the one it runs in with --out")
    return report(prepare(study, out, data_dir), out, timing, console or Console())


def prepare(study: Study, out: Path, data_dir: str | Path | None, hardware: Hardware = HERE) -> Prepared:
    """Find every mistake that can be found before training, load the data, claim the folder, plan the runs.

    Raises:
        InputError: see `run_study`.
    """
    check_settings(study.recipe, replace(hardware, devices="auto", nodes=1, strategy="auto"))
    images = load_images(study.recipe, data_dir)
    claim_folder(out, study)
    matched = resolve_in(out, study, images)
    places = plan_study(study, by_model(matched))
    runs = distinct(places)
    check_runs(runs, images)
    check_data((folder for place in runs if finished(folder := place.folder(out))), images)
    return Prepared(study, images, matched, places, runs)


def check_runs(runs: Sequence[Planned], images: Images) -> None:
    """Raises InputError for a model, an optimizer or a builder argument that does not fit."""
    seen: list[Any] = []
    for place in runs:
        recipe = place.recipe
        kind = (recipe.models, recipe.alphas[0] > 0, recipe.model_arguments, recipe.optimizer)
        if kind not in seen:
            seen.append(kind)
            check_settings(recipe, HERE)
            check_networks(recipe, images)


def claim_folder(out: Path, study: Study) -> None:
    """Make `out` the folder of this study's recipe.

    Arms, factors, models, seeds and the name may change: runs go by settings.

    Raises:
        InputError: it belongs to another study, or holds files that are not a study's.
    """
    path, ours = out / "study.yaml", replace(study.recipe, seeds=(0,))
    if out.exists() and not out.is_dir():
        raise InputError(f"out is {out}, which is a file: give a folder with --out")
    with lease(out / "study.lock"):  # another process may be about the same
        if path.is_file():
            changed = replace(load_recipe(path), name=ours.name, models=ours.models).differences(ours)
            if changed:
                raise InputError(
                    f"out is {out}, a folder of another study ({', '.join(changed)}): give another --out"
                )
        elif any(not found.name.startswith("study.") for found in out.iterdir()):
            raise InputError(
                f"out is {out}, which holds other files: give a new or an empty folder with --out"
            )
        else:
            write_text(path, dump_recipe(ours))


def report(plan: Prepared, out: Path, timing: Timing, console: Console) -> dict[str, Any]:
    """Write results, figures and report of what is there."""
    from octavize.study.report import write_report, write_results

    with lease(out / "report.lock"):
        results = analyze(plan.study, plan.places, plan.images, out, plan.matched)
        write_results(results, out)  # before anything that takes long
        costs = costs_in(out, plan.places, plan.images, timing, console)
        write_report(results, costs, out)
    for failed in results["failed"]:
        console.print(f"[red]failed[/red]  {failed['run']}: {failed['reason']}", highlight=False)
    console.print(f"report: [bold]{out / 'report.html'}[/bold]", highlight=False)
    return results


def shared(hardware: Hardware) -> bool:
    """Whether several processes train each run together, as Lightning or its launcher started them."""
    several = str(hardware.devices) not in ("auto", "1") and named_device(hardware) is None
    return hardware.nodes > 1 or hardware.strategy != "auto" or several


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep the folder from a second job that trains on several devices: its runs have no claims.

    Raises:
        InputError: there is such a job.
    """
    if not is_first_process():
        yield
        return
    try:
        with SoftFileLease(out / "turns.lock", lease_duration=LEASE, timeout=0):
            yield
    except Timeout:
        raise InputError(
            f"out is {out}, where another command trains on several devices: wait, or give another --out"
        ) from None


def _take_turns(plan: Prepared, out: Path, hardware: Hardware, console: Console) -> None:
    """Every process of a launcher walks the same list; Lightning brings them together in each run.

    A run that goes wrong is marked and ends the command: the processes could not agree on going on.
    """
    for place in plan.runs:
        if failure(place.folder(out)) is None:
            console.print(f"[bold]{place.run}[/bold] ({place.cell.name})", highlight=False)
            folder = place.folder(out)
            try:
                train_run(place.run, place.recipe, plan.images, folder, hardware=hardware, console=console)
            except Exception as error:
                if is_first_process() and is_of_run(error):
                    mark(folder, error)  # the next start leaves it out
                raise


def _forget(folders: Iterable[Path]) -> None:
    for folder in folders:
        if failure(folder) is not None:
            shutil.rmtree(folder, ignore_errors=True)
