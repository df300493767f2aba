"""Vanilla against octave networks in PaddlePaddle, trained alike, measured and reported in one folder.

The folder is laid out as `octavize.training.compare` says; weights and states are safetensors files, and live
curves are VisualDL's.
"""

from __future__ import annotations

import logging
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import paddle

from octavize.errors import InputError, whole
from octavize.paddle.state import PADDLE
from octavize.paddle.zoo import list_models
from octavize.training.folder import claimed
from octavize.training.paddle.costs import measure_costs
from octavize.training.paddle.data import load_images
from octavize.training.paddle.train import OPTIMIZERS, build_network, train_run
from octavize.training.recipe import Recipe, dump_recipe
from octavize.training.runs import OUTPUTS, check_data, foreign_to, plan_runs
from octavize.training.summary import DEFAULT_TIMING, Timing, write_summary

logger = logging.getLogger(__name__)
PRECISIONS = ("32-true", "bf16-mixed")


def compare(
    recipe: Recipe,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    restart: bool = False,
    timing: Timing = DEFAULT_TIMING,
) -> dict[str, Any]:
    """Train every network of a recipe at every α and seed, measure the costs, write the report.

    Called again on the same folder it skips finished runs and goes on with an interrupted one from its last
    finished epoch. One process trains, on the device that Paddle has chosen.

    Args:
        out: folder to write to; made if need be.
        data_dir: where the archive of CIFAR lies; Paddle downloads it where nothing is given.
        restart: forget what `out` holds and train everything from the start.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: a setting is wrong or not supported here, or `out` holds something else. Nothing has been
            written then, except where a training diverges.
    """
    out = Path(out)
    check_settings(recipe)
    images = load_images(recipe, data_dir)
    for model in recipe.models:  # an argument that does not fit is found now, not hours later
        build_network(recipe, images, model, max(recipe.alphas))
    told, foreign = dump_recipe(recipe), partial(foreign_to, new=recipe)
    with claimed(out / "recipe.yaml", told, foreign, OUTPUTS, restart):
        folders = {run: out / "runs" / run.slug for run in plan_runs(recipe)}
        check_data(folders.values(), images, PADDLE)
        size = recipe.size or images.size
        logger.info(
            f"recipe {recipe.name}, in PaddlePaddle: {images.name}, {len(images.classes)} classes, "
            f"{len(images.train):,} training images of {size} × {size} pixels\n"
            f"output in {out}; live curves with visualdl --logdir {out}"
        )
        results = []
        for number, (run, folder) in enumerate(folders.items(), 1):
            logger.info("[%d/%d] %s", number, len(folders), run)
            results.append(train_run(run, recipe, images, folder))
        logger.info("measuring costs")
        profile = measure_costs(recipe, images, out / "profile.json", timing)
        return write_summary(recipe, results, profile, out)


def choose_device(name: str) -> None:
    """Let Paddle compute on `cpu` or `gpu`; `auto` leaves it as it is.

    Raises:
        InputError: another name, or this Paddle has no such device.
    """
    if name not in ("auto", "cpu", "gpu"):
        raise InputError(f"--accelerator is {name!r}: with --backend paddle give cpu or gpu")
    if name == "gpu" and not paddle.device.is_compiled_with_cuda():
        raise InputError("--accelerator is gpu, which this Paddle cannot use: install paddlepaddle-gpu")
    if name != "auto":
        paddle.device.set_device(name)


def check_settings(recipe: Recipe) -> None:
    """Raises InputError for an unknown model, and for the first setting that Paddle cannot honor."""
    known = list_models()
    for model in recipe.models:
        if model not in known:
            close = get_close_matches(model, known, n=3)
            told = f"did you mean {', '.join(close)}?" if close else "see `octavize models --backend paddle`"
            raise InputError(f"model {model!r} is none of Paddle's: {told}")
    if recipe.optimizer not in OPTIMIZERS:
        raise InputError(
            f"optimizer is {recipe.optimizer!r}: --backend paddle has {', '.join(OPTIMIZERS)}; give one"
        )
    if recipe.precision not in PRECISIONS:
        raise InputError(
            f"precision is {recipe.precision!r}: --backend paddle has {', '.join(PRECISIONS)}; give one"
        )
    if recipe.precision != "32-true" and paddle.device.get_device() == "cpu":
        raise InputError(f"precision is {recipe.precision!r}, which Paddle has on GPUs only: give 32-true")
    if recipe.norm_images:
        whole("norm_images", recipe.norm_images, 2)
