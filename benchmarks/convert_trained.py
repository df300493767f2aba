"""How much accuracy a trained network keeps when it becomes octave, step by step.

    python benchmarks/convert_trained.py runs/r20 runs/mobilenet --data-dir cifar --threads 1

For every vanilla run, α and choice of channels: test accuracy at once, after its norms are measured anew,
and after 1 and after 3 epochs of fine-tuning (each with a schedule of its own), for every seed. Octave
networks trained from scratch for as long as vanilla and fine-tuning together come in with `--scratch RUN …`
(run folders that exist) or `--train-scratch`.

A row is appended to `rows.jsonl` as soon as it is measured. Call it again after a kill: rows that are there
are skipped, a row under way goes on from its last finished epoch. `convert_trained_report.py` draws.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from octavize.bench.environment import environment
from octavize.convert.planner import plan
from octavize.data.images import Images
from octavize.errors import InputError
from octavize.files import read_json, write_json
from octavize.training.adapt import fine_tune, fine_tuning_recipe
from octavize.training.hardware import Hardware, prepare_process
from octavize.training.prepare import Adaptation, as_trained, evaluate, prepare_in, with_facts
from octavize.training.recipe import Recipe, read_recipe
from octavize.training.runs import Run, input_shape, read_result
from octavize.training.train import load_images, train_run
from octavize.zoo.find import Vanilla, find_vanilla

ROWS = "rows.jsonl"
Row = dict[str, Any]
KEY = ("source", "stage", "alpha", "channels", "seed", "epochs")
"""What a row is recognized by."""


class Rows:
    """The measured rows, on disk after each: a kill loses at most the row under way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = read_rows(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that was cut short by a kill must not be glued to the next one.
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        part = path.with_name(path.name + ".part")
        part.write_text(text, "utf-8")
        os.replace(part, path)

    def __contains__(self, row: Row) -> bool:
        return any(all(old[k] == row[k] for k in KEY) for old in self.rows)

    def add(self, row: Row) -> None:
        """Append a row; it is on the disk when this returns."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a file; none where there is no file."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    # A kill may leave the last line short of its brace.
    return [json.loads(line) for line in lines if line.endswith("}")]


@dataclass(frozen=True)
class Job:
    """One vanilla network and everything its rows share."""

    label: str
    source: Vanilla
    trained: Recipe
    """The recipe of its own training."""
    images: Images
    hardware: Hardware
    out: Path
    console: Console

    @property
    def model(self) -> str:
        return self.source.origin.name

    def row(self, stage: str, **values: Any) -> Row:
        """A row without its figures."""
        blank = {"alpha": 0.0, "channels": None, "seed": None, "epochs": 0}
        return {"source": self.label, "model": self.model, "stage": stage, **blank, **values}

    def recipe(self, seed: int = 0, **given: Any) -> Recipe:
        """Of fine-tuning."""
        return with_facts(fine_tuning_recipe(self.trained, self.model, seed, given), self.source.facts)


def measure_all(job: Job, rows: Rows, options: argparse.Namespace) -> None:
    """All rows of one network: the cheap ones first, then seed by seed."""
    vanilla = job.row("vanilla")
    if vanilla not in rows:
        stage = evaluate(job.source.model, job.recipe(), job.images, job.hardware, "vanilla")
        add(job, rows, vanilla, stage)
    cases = list(adaptations(options))
    for adaptation in cases:
        measure_conversion(job, rows, adaptation)
    for seed in options.seed:
        for epochs in options.epochs:
            for adaptation in cases:
                measure_fine_tuning(job, rows, adaptation, seed, epochs, options.lr)
        if options.train_scratch:
            for alpha in options.alpha:
                train_from_scratch(job, rows, alpha, seed, max(options.epochs))


def adaptations(options: argparse.Namespace) -> Iterator[Adaptation]:
    """Every α with every choice of channels."""
    for alpha in options.alpha:
        for channels in options.channels:
            calibrate = channels == "calibrated"
            yield Adaptation(alpha, downsample="stride", calibrate=calibrate, distil=options.distil)


def measure_conversion(job: Job, rows: Rows, adaptation: Adaptation) -> None:
    """Accuracy at once and after measuring the norms; the network stays in its folder for fine-tuning."""
    wanted = [
        job.row(stage, alpha=adaptation.alpha, channels=adaptation.channels)
        for stage in ("converted", "norms")
    ]
    if all(row in rows for row in wanted):
        return
    start = time.perf_counter()
    made = prepare_in(
        start_folder(job, adaptation), job.source, adaptation, job.recipe(), job.images, job.hardware
    )
    seconds = time.perf_counter() - start
    for row, stage in zip(wanted, made.stages, strict=True):
        if row not in rows:
            add(job, rows, row, stage, macs=made.plan.macs_after, seconds=seconds)


def measure_fine_tuning(
    job: Job, rows: Rows, adaptation: Adaptation, seed: int, epochs: int, lr: float | None
) -> None:
    """Accuracy after so many epochs of fine-tuning."""
    row = job.row("adapted", alpha=adaptation.alpha, channels=adaptation.channels, seed=seed, epochs=epochs)
    if row in rows:
        return
    recipe = job.recipe(seed, epochs=epochs, lr=lr)
    job.console.print(f"[bold]{describe(row)}[/bold]", highlight=False)
    made = prepare_in(start_folder(job, adaptation), job.source, adaptation, recipe, job.images, job.hardware)
    folder = job.out / "work" / job.label / f"{slug(adaptation)}-epochs{epochs}-seed{seed}"
    fine = fine_tune(
        made.model, job.source.model, recipe, adaptation, job.images, folder, job.hardware,
        every_epoch=False,
    )  # fmt: skip
    add(job, rows, row, fine, macs=made.plan.macs_after, seconds=fine["train_seconds"])
    (folder / "last.ckpt").unlink(missing_ok=True)


def train_from_scratch(job: Job, rows: Rows, alpha: float, seed: int, more: int) -> None:
    """An octave network trained for the epochs of vanilla and of fine-tuning together."""
    epochs = job.trained.epochs_of(job.model) + more
    row = job.row("scratch", alpha=alpha, seed=seed, epochs=epochs)
    if row in rows:
        return
    job.console.print(f"[bold]{describe(row)}[/bold]", highlight=False)
    recipe = replace(job.trained, models=(job.model,), alphas=(alpha,), seeds=(seed,), epochs=epochs)
    folder = job.out / "work" / job.label / f"scratch-alpha{alpha:g}-epochs{epochs}-seed{seed}"
    result = train_run(Run(job.model, alpha, seed), recipe, job.images, folder, hardware=job.hardware)
    add(job, rows, row, result, macs=macs_of(job, alpha), seconds=result["train_seconds"])


def read_scratch(job: Job, rows: Rows, folders: list[Path]) -> None:
    """Rows of octave networks that were trained from scratch before, as far as they are of this model."""
    for folder in folders:
        result = read_result(folder)
        if result is None:
            raise InputError(f"--scratch {folder} is no finished run: give folders that hold a result.json")
        if result["model"] != job.model or result["alpha"] == 0:
            continue
        row = job.row("scratch", alpha=result["alpha"], seed=result["seed"], epochs=result["epochs"])
        if row not in rows:
            add(job, rows, row, result, macs=macs_of(job, row["alpha"]), seconds=result["train_seconds"])


def macs_of(job: Job, alpha: float) -> int:
    """Multiply–accumulates of one image."""
    shape = input_shape(job.recipe(), job.images)
    return plan(job.source.model, job.source.origin.alpha(alpha), example=shape).macs_after


def add(job: Job, rows: Rows, row: Row, found: dict[str, Any], **more: Any) -> None:
    """Write a row with what was found."""
    figures = {k: found[k] for k in ("test_accuracy", "val_accuracy")}
    macs = more.pop("macs", None) or macs_of(job, 0.0)
    rows.add({**row, **figures, "macs": macs, "seconds": None, **more})
    job.console.print(f"{describe(row)}: test accuracy {figures['test_accuracy']:.2%}", highlight=False)


def describe(row: Row) -> str:
    facts = [f"α={row['alpha']:g}", row["channels"], row["seed"] is not None and f"seed {row['seed']}"]
    text = " ".join(str(f) for f in facts if f)
    return f"{row['source']} {text} {row['stage']}" + (f" {row['epochs']} epochs" if row["epochs"] else "")


def slug(adaptation: Adaptation) -> str:
    return f"alpha{adaptation.alpha:g}-{adaptation.channels}"


def start_folder(job: Job, adaptation: Adaptation) -> Path:
    return job.out / "work" / job.label / slug(adaptation)


def jobs(options: argparse.Namespace, console: Console) -> Iterator[Job]:
    """The networks, whose images are decoded once as long as their recipes agree on them."""
    hardware = Hardware(accelerator=options.accelerator, devices=1, threads=options.threads)
    loaded: dict[str, Images] = {}
    for folder in options.runs:
        source = find_vanilla(str(folder))
        if source.recipe is None:
            raise InputError(f"run {folder} has no recipe.yaml: give a folder that `octavize train` wrote")
        trained = with_facts(read_recipe(source.recipe), source.facts)
        if options.limit_train is not None:
            trained = replace(trained, limit_train=options.limit_train)
        needed = (trained.data, trained.size, trained.val_fraction, trained.limit_train)
        if str(needed) not in loaded:
            loaded[str(needed)] = load_images(trained, options.data_dir)
        images = as_trained(loaded[str(needed)], source.facts)
        yield Job(folder.name, source, trained, images, hardware, options.out, console)


def check_settings(options: argparse.Namespace) -> None:
    """Rows of one file have to be of the same settings."""
    settings = {
        "distil": options.distil,
        "lr": options.lr,
        "limit_train": options.limit_train,
        "defaults": asdict(Adaptation(downsample="stride")),
    }
    path = options.out / "settings.json"
    known = read_json(path)
    if known is not None and known != settings:
        raise InputError(f"--out {options.out} holds rows of other settings ({known}): give another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)
    write_environment(options)


def write_environment(options: argparse.Namespace) -> None:
    """On what the rows were measured: software, machine, threads."""
    write_json(options.out / "environment.json", {**environment(), "threads": options.threads})


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "runs", nargs="+", type=Path, help="folders of vanilla runs (octavize train --alpha 0)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/convert-trained"))
    parser.add_argument("--data-dir", type=Path, help="where the images lie")
    parser.add_argument("--alpha", nargs="+", type=float, default=[0.125, 0.25, 0.5])
    choices = ("arbitrary", "calibrated")
    parser.add_argument("--channels", nargs="+", choices=choices, default=list(choices))
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 3], help="of fine-tuning")
    parser.add_argument("--lr", type=float, help="peak learning rate of fine-tuning")
    parser.add_argument("--distil", type=float, default=0.5, help="weight of the teacher, 0 to 1")
    parser.add_argument("--scratch", nargs="+", type=Path, default=[], help="octave runs from scratch")
    parser.add_argument("--train-scratch", action="store_true", help="train them if they are not there")
    parser.add_argument("--limit-train", type=int, help="only so many training images (to try it out)")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--threads", type=int)
    return parser.parse_args(arguments)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options, console = parse(), Console()
    try:
        check_settings(options)
        rows = Rows(options.out / ROWS)
        for job in jobs(options, console):
            prepare_process(job.hardware)
            read_scratch(job, rows, options.scratch)
            measure_all(job, rows, options)
    except InputError as error:
        raise SystemExit(f"Error: {error}") from None
    console.print(
        f"{len(rows.rows)} rows in {options.out / ROWS}; now convert_trained_report.py", highlight=False
    )


if __name__ == "__main__":
    main()
