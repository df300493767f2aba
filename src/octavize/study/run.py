"""`octavize study`: plan, train what is missing, analyze what is there.

study.yaml         what was asked for; the folder belongs to this recipe
arms.json          what matched arms were found to be
runs/<run>         as of `compare`, with `log.txt`, `failed.json` if the run failed, and `deployed.json` if
                   its network was tested in a runtime
estimate.json      how long runs were expected to train, before they began
results.json       accuracies, paired differences, effects, curves: the same bytes however often the study was
                   killed
results.csv        a line per run
costs.json         time, memory and arithmetic of the networks, measured while nobody trains
figures/           PNG and SVG
report.html        everything on one page
study.lock         held while a command trains here or measures
ray.log            what Ray had to say
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from octavize.data.images import Images
from octavize.errors import InputError, number, require_extra
from octavize.files import check_folder, write_text
from octavize.study.analysis import analyze
from octavize.study.arms import Found, resolve_in, told
from octavize.study.costs import costs_in
from octavize.study.deployed import check_runtimes, deploy_runs
from octavize.study.design import Planned, distinct, plan_study
from octavize.study.engine import default_workers, hardware_of, train_here
from octavize.study.estimate import foretell
from octavize.study.model import Study
from octavize.study.progress import Progress
from octavize.study.ray_engine import Cluster, train_on_cluster
from octavize.study.work import ended, failure, finished, is_of_run, leave_launcher, mark
from octavize.training.compare import check_networks, check_settings
from octavize.training.folder import alone_in, folder_lock, is_first_process
from octavize.training.hardware import HERE, Hardware, named_device
from octavize.training.recipe import Recipe, dump_recipe, read_recipe
from octavize.training.runs import check_data
from octavize.training.summary import DEFAULT_TIMING, Timing
from octavize.training.train import load_images, train_run

logger = logging.getLogger(__name__)
ENGINES = ("local", "ray")
LOCK = "study.lock"


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
    engine: str = "local",
    address: str | None = None,
    gpu_share: float | None = None,
    workers: int | None = None,
    retry: bool = False,
    timing: Timing = DEFAULT_TIMING,
) -> dict[str, Any]:
    """Train what a study lacks, and write its report.

    Called again after a kill it goes on with each run from its last finished epoch.

    Args:
        out: folder to write to; made if need be.
        data_dir: where the images lie, for the data sets that need it.
        hardware: of one run. Several devices or nodes, or a strategy, train one run at a time on all of them.
        engine: `local`, worker processes of this machine, or `ray`, a cluster whose machines share `out`.
        address: of the Ray cluster; by default the one that this machine belongs to.
        gpu_share: of a GPU that a run on a Ray cluster takes, so that small networks train side by side on
            one; by default a whole one.
        workers: processes of `local`; by default one for each core or GPU, with its share of the threads.
        retry: forget the runs that have failed, and train them anew.
        timing: how the networks' costs are measured once training is done.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: a setting is wrong, `out` holds something else or another command is at work there, or
            the disk is full.
    """
    out = Path(out)
    check_engine(engine, address, workers, hardware, gpu_share)
    if not shared(hardware):
        leave_launcher()
    images = check(study, data_dir, HERE if engine == "ray" else hardware)
    check_owner(out, study)  # nothing is written where it is another's, not even a lock
    with alone_in(out, LOCK):
        plan = prepare(study, out, images)
        if retry and is_first_process():
            _forget(place.folder(out) for place in plan.runs)
        logger.info("study %s: %d runs in %s", study.name, len(plan.runs), out)
        for line in told(plan.matched):
            logger.info(line)
        runs = [place for place in plan.runs if not ended(place.folder(out))]
        if shared(hardware):
            _take_turns(plan, out, hardware)
        elif runs:
            with Progress(plan.runs, out, images) as progress:
                if engine == "ray":
                    cluster = Cluster(address or "auto", 1.0 if gpu_share is None else gpu_share)
                    train_on_cluster(runs, out, images, hardware, cluster, progress)
                else:
                    workers = workers or default_workers(hardware)
                    foretell(plan.runs, out, images, hardware_of(0, workers, hardware))
                    train_here(runs, study.recipe, out, data_dir, hardware, workers, progress)
        return report(plan, out, timing) if is_first_process() else {}


def analyze_study(
    study: Study,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    timing: Timing = DEFAULT_TIMING,
) -> dict[str, Any]:
    """Write the report of what a study's folder holds, while it runs or afterwards.

    Args, Returns, Raises:
        See `run_study`.
    """
    out = Path(out)
    if not (out / "study.yaml").is_file():
        raise InputError(f"out is {out}, which is no folder of a study: give the one it runs in with --out")
    plan = prepare(study, out, check(study, data_dir))
    with folder_lock(out / LOCK) as idle:
        return report(plan, out, timing, measure=idle)


def check_engine(
    engine: str,
    address: str | None,
    workers: int | None,
    hardware: Hardware,
    gpu_share: float | None = None,
) -> None:
    """Raises InputError for options that make no sense together."""
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}: choose from {', '.join(ENGINES)}")
    if shared(hardware) and workers is not None:
        raise InputError(
            f"workers is {workers}: with several devices or nodes, or a strategy, runs take turns on all of "
            "them; leave workers out"
        )
    if engine == "local":
        if address is not None:
            raise InputError(f"address is {address}, which is of a Ray cluster: give --engine ray too")
        if gpu_share is not None:
            raise InputError(f"gpu_share is {gpu_share}, which is for a Ray cluster: give --engine ray too")
        return
    if gpu_share is not None:
        number("gpu_share", gpu_share, 0, 1, above=True, meaning="the part of a GPU that a run takes")
    if workers is not None:
        raise InputError(
            f"workers is {workers}: Ray decides how many runs fit on the cluster; leave workers out"
        )
    if shared(hardware) or named_device(hardware):
        raise InputError(
            f"devices={hardware.devices}, nodes={hardware.nodes}, strategy={hardware.strategy}: Ray gives "
            "each run one device of its choice; leave these options out"
        )
    if (address or "").startswith("ray://"):
        raise InputError(
            f"address is {address}: give the command on a machine of the cluster, --address auto"
        )
    require_extra("ray", "cluster")


def check(study: Study, data_dir: str | Path | None, hardware: Hardware = HERE) -> Images:
    """Find every mistake that can be found before the folder is looked at, and load the data.

    Raises:
        InputError: see `run_study`.
    """
    check_settings(study.recipe, replace(hardware, devices="auto", nodes=1, strategy="auto"))
    check_runtimes(study)
    return load_images(study.recipe, data_dir)


def prepare(study: Study, out: Path, images: Images) -> Prepared:
    """Make the folder the study's, and plan the runs.

    Raises:
        InputError: see `run_study`.
    """
    path = check_owner(out, study)
    if is_first_process() and not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, dump_recipe(_owner(study)))
    matched = resolve_in(out, study, images)
    places = plan_study(study, matched)
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


def check_owner(out: Path, study: Study) -> Path:
    """Make sure that `out` is new, or the folder of this study's recipe; its file.

    Arms, factors, models, seeds and the name may change: runs go by settings.

    Raises:
        InputError: it belongs to another study, or holds files that are not a study's.
    """
    ours = _owner(study)

    def foreign(path: Path) -> str:
        changed = replace(read_recipe(path), name=ours.name, models=ours.models).differences(ours)
        return f"a folder of another study ({', '.join(changed)})" if changed else ""

    check_folder(out, "study.yaml", foreign)
    return out / "study.yaml"


def _owner(study: Study) -> Recipe:
    return replace(study.recipe, seeds=(0,))


def report(plan: Prepared, out: Path, timing: Timing, *, measure: bool = True) -> dict[str, Any]:
    """Write results, figures and report of what is there; costs are measured only if nobody trains."""
    from octavize.study.report import write_report, write_results

    with FileLock(out / "report.lock"):
        results = analyze(plan.study, plan.places, plan.images, out, plan.matched)
        write_results(results, out)  # before anything that takes long
        if deploy := plan.study.deploy:
            undeployed = deploy_runs(plan.runs, plan.images, deploy, out)
            results = analyze(plan.study, plan.places, plan.images, out, plan.matched, undeployed)
            write_results(results, out)
        costs = costs_in(out, plan.places, plan.images, timing, deploy=deploy, measure=measure)
        write_report(results, costs, out)
    return results


def shared(hardware: Hardware) -> bool:
    """Whether several processes train each run together, as Lightning or its launcher started them."""
    several = str(hardware.devices) not in ("auto", "1") and named_device(hardware) is None
    return hardware.nodes > 1 or hardware.strategy != "auto" or several


def _take_turns(plan: Prepared, out: Path, hardware: Hardware) -> None:
    """Every process of a launcher walks the same list; Lightning brings them together in each run.

    A run that goes wrong is marked and ends the command: the processes could not agree on going on.
    """
    for place in plan.runs:
        if failure(place.folder(out)) is None:
            logger.info("%s (%s)", place.run, place.cell.name)
            folder = place.folder(out)
            try:
                train_run(place.run, place.recipe, plan.images, folder, hardware=hardware)
            except Exception as error:
                if is_first_process() and is_of_run(error):
                    mark(folder, error)  # the next start leaves it out
                raise


def _forget(folders: Iterable[Path]) -> None:
    for folder in folders:
        if failure(folder) is not None:
            shutil.rmtree(folder, ignore_errors=True)
