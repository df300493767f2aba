"""One run: one network, one α, one seed, trained under a recipe into a folder of its own.

metrics.csv        a line per epoch
last.ckpt          state to resume from; gone once the run is finished
best.safetensors   weights of the epoch with the best validation accuracy
tensorboard/       live curves
result.json        written last: it marks the run finished
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from octavize.data.images import Images
from octavize.data.sets import load_data
from octavize.errors import InputError
from octavize.files import write_json
from octavize.training.folder import is_first_process
from octavize.training.hardware import (
    HERE,
    Hardware,
    describe_environment,
    guarded,
    lent,
    make_trainer,
    quiet_lightning,
)
from octavize.training.journal import Journal, WholeCheckpoints, resume_point
from octavize.training.metrics import finite_or_none
from octavize.training.module import Classifier
from octavize.training.recipe import Recipe
from octavize.training.runs import Run, describe_data, describe_input, fingerprint, read_result, teller
from octavize.zoo.checkpoint import build_model, check_resumable, read_state
from octavize.zoo.initialize import initialize
from octavize.zoo.weights import load_weights, read_metadata

logger = logging.getLogger(__name__)


def load_images(recipe: Recipe, data_dir: str | Path | None = None) -> Images:
    """The recipe's data. Where the stored size is not free, images are resized a batch at a time."""
    stored = recipe.size
    if recipe.data == "textures" and stored not in (None, 32, 64):
        stored = 64
    elif recipe.data in ("cifar10", "cifar100"):
        stored = None
    return load_data(
        recipe.data,
        size=stored,
        data_dir=data_dir,
        val_fraction=recipe.val_fraction,
        limit_train=recipe.limit_train,
    )


def build_network(recipe: Recipe, images: Images, model: str, alpha: float) -> nn.Module:
    """The network of this name and α, as the recipe builds it for these images."""
    arguments = recipe.arguments_of(model)
    return build_model(model, alpha, len(images.classes), images.channels, arguments)


def train_run(
    run: Run,
    recipe: Recipe,
    images: Images,
    folder: str | Path,
    *,
    hardware: Hardware = HERE,
    callbacks: Sequence[pl.Callback] = (),
) -> dict[str, Any]:
    """Train one network to the end, going on from the last finished epoch if the folder holds one.

    Args:
        folder: of this run alone; a finished run found there is returned without training.
        callbacks: added to the Trainer's.

    Returns:
        What `result.json` holds: test accuracy and loss (of the weights with the best validation accuracy),
        best epoch, train seconds over all attempts, environment.

    Raises:
        InputError: a setting is wrong, the checkpoint to resume from is damaged or of another run, or the
            training diverged.
    """
    folder = Path(folder)
    result = read_result(folder)
    note = "finished before"
    if result is None:
        with lent(hardware):
            result = _train(run, recipe, images, folder, hardware, callbacks)
        note = f"{result['train_seconds']:.0f} s of training"
    if is_first_process():
        logger.info(
            f"  test accuracy {result['test_accuracy']:.2%} (weights of epoch {result['best_epoch']}, {note})"
        )
    return result


def _train(
    run: Run,
    recipe: Recipe,
    images: Images,
    folder: Path,
    hardware: Hardware,
    callbacks: Sequence[pl.Callback],
) -> dict[str, Any]:
    torch.manual_seed(run.seed)
    model = build_network(recipe, images, run.model, run.alpha)
    initialize(model, recipe.initializer, recipe.depthwise_initializer)
    module = Classifier(model, images, recipe, run.model, run.seed)
    folder.mkdir(parents=True, exist_ok=True)
    identity = {**asdict(run), "recipe": fingerprint(recipe, run), "data": describe_data(images)}
    metadata = {
        **asdict(run),
        "arguments": recipe.arguments_of(run.model),
        **describe_input(recipe, images),
        "version": version("octavize"),
    }
    journal = Journal(folder, identity, metadata, teller(recipe.epochs_of(run.model)))
    result = {
        **asdict(run),
        "epochs": recipe.epochs_of(run.model),
        "data": identity["data"],
        **fit_and_test(module, journal, hardware, callbacks),
    }
    if is_first_process():
        write_json(folder / "result.json", result)
        journal.last.unlink(missing_ok=True)
    return result


def fit_and_test(
    module: Classifier,
    journal: Journal,
    hardware: Hardware,
    callbacks: Sequence[pl.Callback] = (),
) -> dict[str, Any]:
    """Train to the end, going on from the journal's last finished epoch; then test the best weights.

    Afterwards the module holds the weights with the best validation accuracy.

    Returns:
        Their `test_accuracy`, `test_loss`, `val_accuracy` and `best_epoch`; `train_seconds` over all
        attempts; `environment`.

    Raises:
        InputError: see `train_run`.
    """
    recipe = module.recipe
    resume = _found_state(journal)
    module.train()  # Lightning keeps the mode it finds: a loaded network would train with frozen norms
    with quiet_lightning():
        trainer = make_trainer(
            hardware,
            recipe.precision,
            max_epochs=recipe.epochs_of(module.name),
            logger=TensorBoardLogger(journal.folder, name="", version="tensorboard"),
            callbacks=[*callbacks, journal, resume_point(journal.folder)],
            plugins=[WholeCheckpoints()],
        )
        # Lightning reads the checkpoint before it does this, which would round weights of double precision.
        trainer.precision_plugin.convert_module(module)
        guarded(trainer, lambda: trainer.fit(module, ckpt_path=resume, weights_only=True))
        load_weights(journal.best, module.model)
        guarded(trainer, lambda: trainer.test(module, verbose=False))
    best, (loss, accuracy) = read_metadata(journal.best), module.test_result
    return {
        "test_accuracy": accuracy,
        "test_loss": finite_or_none(loss),
        "val_accuracy": best["val_accuracy"],
        "best_epoch": best["epoch"],
        "train_seconds": sum(row["seconds"] for row in journal.rows),
        "environment": describe_environment(trainer, recipe.precision),
    }


def drop_damaged(folder: Path) -> bool:
    """Remove the state to resume from where it cannot be read, and say whether that was so."""
    last, best = folder / "last.ckpt", folder / "best.safetensors"
    if not last.exists():
        return False
    try:
        read_state(last)
        read_metadata(best)
    except InputError:
        last.unlink()
        return True
    return False


def _found_state(journal: Journal) -> Path | None:
    """The checkpoint to go on from, looked through before anything trusts it; None for a fresh start."""
    if not journal.last.exists():
        if is_first_process():  # of an attempt that did not reach the end of its first epoch
            journal.best.unlink(missing_ok=True)
        return None
    epochs = check_resumable(journal.last, journal.identity)
    try:
        read_metadata(journal.best)
    except InputError as error:
        raise InputError(f"{error}; or delete {journal.last} to train from the start") from None
    if is_first_process():
        logger.info("  going on after epoch %d", epochs)
    return journal.last
