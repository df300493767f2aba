"""The main job: vanilla against octave networks, trained alike, measured and reported in one folder.

recipe.yaml                what was asked for; the folder belongs to this recipe
runs/<model>-alpha…-seed…  one folder per run, see `train`
profile.json               cost of every network
results.csv                a line per run
results.json               a record per network (model × α), every epoch, the recipe, the environment
figures/                   PNG and SVG
report.html                everything on one page
train.lock                 held while a command trains here: a second one is refused
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from octavize.data.images import Images
from octavize.errors import InputError
from octavize.training.folder import claimed, is_first_process
from octavize.training.hardware import HERE, Hardware, check_hardware, lent
from octavize.training.module import check_optimizer
from octavize.training.recipe import Recipe, dump_recipe
from octavize.training.results import write_results
from octavize.training.runs import OUTPUTS, check_data, foreign_to, plan_runs
from octavize.training.summary import DEFAULT_TIMING, Timing
from octavize.training.train import build_network, load_images, train_run
from octavize.zoo.models import list_models, usual_input

logger = logging.getLogger(__name__)


def compare(
    recipe: Recipe,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    hardware: Hardware = HERE,
    restart: bool = False,
    timing: Timing = DEFAULT_TIMING,
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
    out = Path(out)
    folders = {run: out / "runs" / run.slug for run in plan_runs(recipe)}
    with _begun(recipe, out, folders.values(), data_dir, hardware, restart) as images:
        results = []
        for number, (run, folder) in enumerate(folders.items(), 1):
            logger.info("[%d/%d] %s", number, len(folders), run)
            results.append(train_run(run, recipe, images, folder, hardware=hardware))
        if not is_first_process():
            return {}
        with lent(hardware):  # costs are measured on the threads that trained
            return write_results(recipe, images, results, out, timing)


def train_one(
    recipe: Recipe,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    hardware: Hardware = HERE,
    restart: bool = False,
) -> dict[str, Any]:
    """Train the one network that a recipe of one model, one α and one seed names; `out` is the run's folder.

    Returns and raises as `train_run`; skips, resumes and refuses as `compare`.
    """
    out = Path(out)
    runs = plan_runs(recipe)
    if len(runs) != 1:
        raise InputError(
            f"models × alphas × seeds are {len(runs)} runs: give one of each, or use `octavize compare`"
        )
    with _begun(recipe, out, [out], data_dir, hardware, restart) as images:
        return train_run(runs[0], recipe, images, out, hardware=hardware)


@contextmanager
def _begun(
    recipe: Recipe,
    out: Path,
    folders: Iterable[Path],
    data_dir: str | Path | None,
    hardware: Hardware,
    restart: bool,
) -> Iterator[Images]:
    """Find every mistake that can be found before training, load the data, and hold `out` as the recipe's.

    Raises:
        InputError: unknown model, optimizer, device or data; a builder argument that does not fit; or `out`
            belongs to another recipe, holds files that are not a comparison's, or another command is at work
            there.
    """
    check_settings(recipe, hardware)
    images = load_images(recipe, data_dir)
    check_networks(recipe, images)
    told, foreign = dump_recipe(recipe), partial(foreign_to, new=recipe)
    with claimed(out / "recipe.yaml", told, foreign, OUTPUTS, restart):
        check_data(folders, images)
        size = recipe.size or images.size
        logger.info(
            f"recipe {recipe.name}: {images.name}, {len(images.classes)} classes, "
            f"{len(images.train):,} training images of {size} × {size} pixels\n"
            f"output in {out}; live curves with tensorboard --logdir {out}"
        )
        yield images


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
