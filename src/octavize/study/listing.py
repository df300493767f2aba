"""`octavize study --list`: the runs, and how long they would take."""

from __future__ import annotations

from pathlib import Path

from octavize.files import read_json
from octavize.report.naming import pretty
from octavize.report.numbers import quantity, seconds
from octavize.study.arms import network_key, resolve
from octavize.study.design import Planned, distinct, plan_study
from octavize.study.engine import default_workers, hardware_of
from octavize.study.estimate import all_macs, estimates
from octavize.study.model import Study
from octavize.study.work import ended
from octavize.text import Table
from octavize.training.hardware import Hardware
from octavize.training.train import load_images


def listing(
    study: Study, out: Path, data_dir: Path | None, hardware: Hardware, workers: int | None
) -> tuple[Table, str]:
    """The runs as a table, and a sentence with their time; nothing is trained or written.

    Where `out` holds finished epochs, their speed counts; otherwise a few training steps are timed here. Arms
    that match a time are shown as if they matched the arithmetic, until they have been measured.
    """
    workers = workers or default_workers(hardware)
    images = load_images(study.recipe, data_dir)
    found = resolve(study, images, read_json(out / "arms.json"), time=False)
    runs = distinct(plan_study(study, found))
    macs = all_macs(runs, images)
    times = estimates(runs, out, images, hardware_of(0, workers, hardware))
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for run in runs:
        groups.setdefault((run.cell.name, run.model, run.arm), []).append(run)
    rows = []
    for (cell, model, arm), own in groups.items():
        recipe, done = own[0].recipe, sum(ended(run.folder(out)) for run in own)
        rows.append(
            (
                *(cell, pretty(model), arm, str(recipe.epochs_of(recipe.models[0]))),
                *(quantity(macs[network_key(recipe)]), str(len(own)), str(done)),
                seconds(sum(times[run.slug] for run in own)),
            )
        )
    open_runs = [run for run in runs if not ended(run.folder(out))]
    left, whole = sum(times[run.slug] for run in open_runs), sum(times.values())
    workers = max(1, min(workers, len(open_runs)))
    head = ("setting", "network", "arm", "epochs", "MACs", "runs", "done", "time")
    return Table(head, rows, align="lllr", title=f"study {study.name}"), (
        f"{len(runs)} runs, about {seconds(whole)} of training on one worker; what is left takes about "
        f"{seconds(left / workers)} on {workers}"
    )
