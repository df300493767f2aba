"""The main job: vanilla against octave networks, trained alike, measured and reported in one folder.

recipe.yaml                what was asked for; the folder belongs to this recipe
runs/<model>-alpha…-seed…  one folder per run, see `train`
profile.json               cost of every network
results.csv                a line per run
results.json               a record per network (model × α), every epoch, the recipe, the environment
figures/                   PNG and SVG
report.html                everything on one page
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from octavize.data.images import Images
from octavize.errors import InputError
from octavize.training.folder import claim
from octavize.training.hardware import HERE, Hardware, check_hardware, is_first_process, lent
from octavize.training.module import check_optimizer
from octavize.training.recipe import Recipe, dump_recipe, read_recipe
from octavize.training.results import DEFAULT_TIMING, Timing, write_results
from octavize.training.train import Run, build_network, describe_data, load_images, read_result, train_run
from octavize.zoo.models import list_models, usual_input

GROWING = ("models", "alphas", "seeds")
"""Lists that a later call may lengthen: what is finished stays, the new runs are added."""
OUTPUTS = (
    *("runs", "figures", "recipe.yaml", "profile.json", "results.csv", "results.json", "report.html"),
    *("tensorboard", "metrics.csv", "last.ckpt", "best.safetensors", "result.json"),
)
"""What `compare` and `train` write, and --restart removes."""


def compare(
    recipe: Recipe,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    hardware: Hardware = HERE,
    restart: bool = False,
    timing: Timing = DEFAULT_TIMING,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train every network of a recipe at every α and seed, measure the costs, write the report.

    Called again on the same folder it skips finished runs and goes on with an interrupted one from its last
    finished epoch.

    Args:
        out: folder to write to; made if need be.
        data_dir: where the images lie, for the data sets that need it.
        restart: forget what `out` holds and train everything from the start.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: a setting is wrong, or `out` holds something else. Nothing has been written then, except
            where a training diverges.
    """
    out, console = Path(out), console or Console(highlight=False)
    folders = {run: out / "runs" / run.slug for run in plan_runs(recipe)}
    images = _begin(recipe, out, folders.values(), data_dir, hardware, restart, console)
    results = []
    for number, (run, folder) in enumerate(folders.items(), 1):
        console.print(f"[bold]\\[{number}/{len(folders)}] {run}[/bold]")
        results.append(train_run(run, recipe, images, folder, hardware=hardware, console=console))
    if not is_first_process():
        return {}
    with lent(hardware):  # costs are measured on the threads that trained
        return write_results(recipe, images, results, out, timing, console)


def train_one(
    recipe: Recipe,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    hardware: Hardware = HERE,
    restart: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train the one network that a recipe of one model, one α and one seed names; `out` is the run's folder.

    Returns and raises as `train_run`; skips, resumes and refuses as `compare`.
    """
    out, console = Path(out), console or Console(highlight=False)
    runs = plan_runs(recipe)
    if len(runs) != 1:
        raise InputError(
            f"models × alphas × seeds are {len(runs)} runs: give one of each, or use `octavize compare`"
        )
    images = _begin(recipe, out, [out], data_dir, hardware, restart, console)
    return train_run(runs[0], recipe, images, out, hardware=hardware, console=console)


def plan_runs(recipe: Recipe) -> list[Run]:
    """All runs in the order they are trained: seed by seed, so that a first full answer comes early."""
    return [Run(m, a, s) for s in recipe.seeds for m in recipe.models for a in recipe.alphas]


def _begin(
    recipe: Recipe,
    out: Path,
    folders: Iterable[Path],
    data_dir: str | Path | None,
    hardware: Hardware,
    restart: bool,
    console: Console,
) -> Images:
    """Find every mistake that can be found before training, load the data, and make `out` the recipe's.

    Raises:
        InputError: unknown model, optimizer, device or data; a builder argument that does not fit; or `out`
            belongs to another recipe, or holds files that are not a comparison's.
    """
    check_settings(recipe, hardware)
    images = load_images(recipe, data_dir)
    check_networks(recipe, images)
    claim(out / "recipe.yaml", dump_recipe(recipe), lambda path: _foreign(path, recipe), OUTPUTS, restart)
    check_data(folders, images)
    size = recipe.size or images.size
    console.print(
        f"[bold]octavize[/bold]  recipe {recipe.name}: {images.name}, {len(images.classes)} classes, "
        f"{len(images.train):,} training images of {size} × {size} pixels\n"
        f"output in {out}; live curves with [cyan]tensorboard --logdir {out}[/cyan]",
    )
    return images


def check_settings(recipe: Recipe, hardware: Hardware) -> None:
    """Raises InputError for an unknown model, optimizer or device."""
    known = list_models()
    for model in recipe.models:
        if model not in known:
            raise InputError(f"model {model!r} is unknown: choose from {', '.join(known)}")
        if len(usual_input(model)) != 4:
            raise InputError(
                f"model {model!r} reads clips, and training is of images: train it in Python, create_model"
                f"({model!r}) makes it"
            )
    check_optimizer(recipe.optimizer)
    check_hardware(hardware, recipe.precision)


def check_networks(recipe: Recipe, images: Images) -> None:
    """Raises InputError for a builder argument that does not fit."""
    for model in recipe.models:
        arguments = recipe.arguments_of(model)
        try:
            with torch.device("meta"):  # shapes without memory
                build_network(recipe, images, model, max(recipe.alphas))
        except TypeError as error:
            raise InputError(
                f"model_arguments of {model} are {arguments}: {error}; mend the recipe"
            ) from None


def _foreign(path: Path, new: Recipe) -> str:
    """Why a folder with this recipe is none of the new recipe's; nothing where it is."""
    try:
        old = read_recipe(path)
    except InputError as error:
        return f"whose recipe.yaml is damaged ({error})"
    grown = {k: getattr(new, k) for k in GROWING if set(getattr(old, k)) <= set(getattr(new, k))}
    changed = new.differences(replace(old, name=new.name, **grown))
    was, now = old.as_dict(), new.as_dict()
    details = (f"{k} was {was[k]}, now {now[k]}" for k in changed)
    return f"a run folder of another recipe ({', '.join(details)})" if changed else ""


def check_data(folders: Iterable[Path], images: Images) -> None:
    """Runs on different images must not end up in one table."""
    for folder in folders:
        result = read_result(folder)
        if result is not None and result["data"] != describe_data(images):
            raise InputError(
                f"out holds {folder}, whose run saw other images than data={images.name} holds now: "
                "give another --out"
            )
