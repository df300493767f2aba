"""One run: one network, one α, one seed, trained under a recipe into a folder of its own.

metrics.csv        a line per epoch
last.ckpt          state to resume from; gone once the run is finished
best.safetensors   weights of the epoch with the best validation accuracy
tensorboard/       live curves
result.json        written last: it marks the run finished
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch import nn

from octavize.data.images import Images
from octavize.data.sets import load_data
from octavize.errors import InputError
from octavize.files import known_json, write_json
from octavize.report.naming import run_slug
from octavize.training.hardware import (
    HERE,
    Hardware,
    describe_environment,
    guarded,
    is_first_process,
    lent,
    make_trainer,
    quiet_lightning,
)
from octavize.training.journal import Journal, Row, WholeCheckpoints, resume_point
from octavize.training.module import Classifier, finite_or_none
from octavize.training.recipe import Recipe
from octavize.zoo.checkpoint import build_model, check_resumable, read_state
from octavize.zoo.initialize import initialize
from octavize.zoo.weights import load_weights, read_metadata


@dataclass(frozen=True)
class Run:
    """What one run trains."""

    model: str
    alpha: float
    seed: int

    @property
    def slug(self) -> str:
        """Name of the run's folder."""
        return run_slug(self.model, self.alpha, self.seed)

    def __str__(self) -> str:
        return f"{self.model} α={self.alpha:g} seed {self.seed}"


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


def input_shape(recipe: Recipe, images: Images, batch: int = 1) -> tuple[int, int, int, int]:
    """(N, C, H, W) of a batch as networks see it."""
    side = recipe.size or images.size
    return batch, images.channels, side, side


def build_network(recipe: Recipe, images: Images, model: str, alpha: float) -> nn.Module:
    """The network of this name and α, as the recipe builds it for these images."""
    arguments = recipe.arguments_of(model)
    return build_model(model, alpha, len(images.classes), images.channels, arguments)


def describe_data(images: Images) -> dict[str, Any]:
    """What identifies a data set: its name, classes, sizes of the splits, mean and deviation."""
    return {
        "name": images.name,
        "classes": list(images.classes),
        "train": len(images.train),
        "val": len(images.val),
        "test": len(images.test),
        "channels": images.channels,
        "size": images.size,
        "mean": list(images.mean),
        "std": list(images.std),
    }


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, or None where the run is not finished.

    Raises:
        InputError: `result.json` is there but is not a result.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = known_json(path)
    try:
        _ = [result[key] for key in ("best_epoch", "train_seconds", "epochs", "data", "environment")]
        return {**result, "test_accuracy": float(result["test_accuracy"])}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"result {path} is damaged: delete that file to evaluate the run again") from None


def train_run(
    run: Run,
    recipe: Recipe,
    images: Images,
    folder: str | Path,
    *,
    hardware: Hardware = HERE,
    console: Console | None = None,
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
    folder, console = Path(folder), console or Console(highlight=False)
    result = read_result(folder)
    note = "finished before"
    if result is None:
        with lent(hardware):
            result = _train(run, recipe, images, folder, hardware, console, callbacks)
        note = f"{result['train_seconds']:.0f} s of training"
    if is_first_process():
        console.print(
            f"  test accuracy [bold]{result['test_accuracy']:.2%}[/bold] "
            f"[dim](weights of epoch {result['best_epoch']}, {note})[/dim]",
        )
    return result


def _train(
    run: Run,
    recipe: Recipe,
    images: Images,
    folder: Path,
    hardware: Hardware,
    console: Console,
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
    journal = Journal(folder, identity, metadata, teller(recipe.epochs_of(run.model), console))
    result = {
        **asdict(run),
        "epochs": recipe.epochs_of(run.model),
        "data": identity["data"],
        **fit_and_test(module, journal, hardware, console, callbacks),
    }
    if is_first_process():
        write_json(folder / "result.json", result)
        journal.last.unlink(missing_ok=True)
    return result


def fit_and_test(
    module: Classifier,
    journal: Journal,
    hardware: Hardware,
    console: Console,
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
    resume = _found_state(journal, console)
    bars = [RichProgressBar(refresh_rate=5)] if console.is_terminal else []
    module.train()  # Lightning keeps the mode it finds: a loaded network would train with frozen norms
    with quiet_lightning():
        trainer = make_trainer(
            hardware,
            recipe.precision,
            max_epochs=recipe.epochs_of(module.name),
            logger=TensorBoardLogger(journal.folder, name="", version="tensorboard"),
            callbacks=[*bars, *callbacks, journal, resume_point(journal.folder)],
            plugins=[WholeCheckpoints()],
            enable_progress_bar=bool(bars),
        )
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


def fingerprint(recipe: Recipe, run: Run) -> dict[str, Any]:
    """The settings that decide this run: the recipe without the lists of runs, patterns resolved."""
    settings = recipe.as_dict()
    for key in ("name", "models", "alphas", "seeds"):
        del settings[key]
    if not recipe.norm_images:
        del settings["norm_images"]  # a later setting: runs without it keep their names and checkpoints
    return settings | {
        "epochs": recipe.epochs_of(run.model),
        "batch_size": recipe.batch_size_of(run.model),
        "lr": recipe.lr_of(run.model),
        "model_arguments": recipe.arguments_of(run.model),
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


def _found_state(journal: Journal, console: Console) -> Path | None:
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
        console.print(f"  going on after epoch {epochs}")
    return journal.last


def describe_input(recipe: Recipe, images: Images) -> dict[str, Any]:
    """What the user of a trained network has to know of its input."""
    return {
        "classes": list(images.classes),
        "in_chans": images.channels,
        "size": recipe.size or images.size,
        "normalize": recipe.normalize,
        "mean": list(images.mean),
        "std": list(images.std),
    }


def teller(epochs: int, console: Console) -> Callable[[Row], None]:
    """Prints a line per finished epoch."""

    def tell(row: Row) -> None:
        console.print(
            f"  epoch {row['epoch']:>3.0f}/{epochs}   "
            f"train {row['train_loss']:.3f} / {row['train_accuracy']:.1%}   "
            f"val {row['val_loss']:.3f} / {row['val_accuracy']:.1%}   "
            f"[dim]{row['seconds']:.1f} s[/dim]",
        )

    return tell
