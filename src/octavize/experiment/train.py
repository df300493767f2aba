"""One run: one network, one α, one seed, trained under a recipe into a folder of its own.

    metrics.csv        a line per epoch
    last.ckpt          state to resume from; gone once the run is finished
    best.safetensors   weights of the epoch with the best validation accuracy
    tensorboard/       live curves
    result.json        written last: it marks the run finished
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from octavize.errors import InputError
from octavize.experiment.checkpoint import build_model, check_resumable, load_weights, read_metadata, write_json
from octavize.experiment.data import Pictures, load_data
from octavize.experiment.journal import Journal, Row
from octavize.experiment.module import Classifier
from octavize.experiment.naming import run_slug
from octavize.experiment.recipe import Recipe


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


@dataclass(frozen=True)
class Hardware:
    """Where training runs; all but `threads` are handed to Lightning's Trainer as they are."""

    accelerator: str = "auto"
    devices: str | int = "auto"
    nodes: int = 1
    strategy: str = "auto"
    threads: int | None = None
    """CPU threads per process; none leaves torch's own choice."""


def load_pictures(recipe: Recipe, data_dir: str | Path | None = None) -> Pictures:
    """The recipe's data. Pictures of a fixed size are enlarged a batch at a time, not in memory."""
    stored = recipe.size if recipe.data == "folder" or recipe.data == "textures" else None
    if recipe.data == "textures" and stored not in (None, 32, 64):
        stored = 64
    return load_data(
        recipe.data,
        size=stored,
        data_dir=data_dir,
        val_fraction=recipe.val_fraction,
        limit_train=recipe.limit_train,
    )


def describe_data(pictures: Pictures) -> dict[str, Any]:
    """What identifies a data set: its name, classes, sizes of the splits, mean and deviation."""
    return {
        "name": pictures.name,
        "classes": list(pictures.classes),
        "train": len(pictures.train),
        "val": len(pictures.val),
        "test": len(pictures.test),
        "channels": pictures.channels,
        "size": pictures.size,
        "mean": list(pictures.mean),
        "std": list(pictures.std),
    }


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, or None where the run is not finished.

    Raises:
        InputError: `result.json` is there but cannot be read.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        raise InputError(f"result {path} is not JSON: delete the folder {folder} to train this run again") from None


def train_run(
    run: Run,
    recipe: Recipe,
    pictures: Pictures,
    folder: str | Path,
    *,
    hardware: Hardware | None = None,
    console: Console | None = None,
    callbacks: list[pl.Callback] | None = None,
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
    folder, hardware = Path(folder), hardware or Hardware()
    if (finished := read_result(folder)) is not None:
        return finished
    console = console or Console()
    set_threads(hardware)
    torch.manual_seed(run.seed)
    arguments = recipe.arguments_of(run.model)
    model = build_model(run.model, run.alpha, len(pictures.classes), pictures.channels, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    identity = {**asdict(run), "recipe": fingerprint(recipe, run), "data": describe_data(pictures)}
    journal = Journal(folder, identity, _metadata(run, recipe, pictures), _teller(run, recipe, console))
    resume = _resume_point(journal)
    module = Classifier(model, pictures, recipe, run.model, run.seed)
    with quiet_lightning():
        bars: list[pl.Callback] = [RichProgressBar(refresh_rate=5)] if console.is_terminal else []
        trainer = _trainer(
            hardware,
            recipe.precision,
            max_epochs=recipe.epochs_of(run.model),
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            callbacks=[journal, *bars, *(callbacks or [])],
            enable_progress_bar=bool(bars),
        )
        _guarded(trainer, lambda: trainer.fit(module, ckpt_path=resume, weights_only=True))
        load_weights(journal.best, module.model)
        _guarded(trainer, lambda: trainer.test(module, verbose=False))
    result = {
        **asdict(run),
        "test_accuracy": module.test_result[1],
        "test_loss": module.test_result[0],
        "val_accuracy": read_metadata(journal.best)["val_accuracy"],
        "best_epoch": read_metadata(journal.best)["epoch"],
        "epochs": recipe.epochs_of(run.model),
        "train_seconds": sum(row["seconds"] for row in journal.rows),
        "data": identity["data"],
        "environment": describe_environment(trainer, recipe),
    }
    if trainer.is_global_zero:
        write_json(folder / "result.json", result)
        journal.last.unlink(missing_ok=True)
    return result


def fingerprint(recipe: Recipe, run: Run) -> dict[str, Any]:
    """The settings that decide this run: the recipe without the lists of runs, patterns resolved."""
    settings = recipe.as_dict()
    for key in ("name", "models", "alphas", "seeds"):
        del settings[key]
    return settings | {
        "epochs": recipe.epochs_of(run.model),
        "batch_size": recipe.batch_size_of(run.model),
        "lr": recipe.lr_of(run.model),
        "model_arguments": recipe.arguments_of(run.model),
    }


def describe_environment(trainer: pl.Trainer, recipe: Recipe) -> dict[str, Any]:
    """Versions and hardware, to be kept beside every measured number."""
    device = trainer.strategy.root_device
    return {
        "octavize": version("octavize"),
        **{name: version(name) for name in ("torch", "torchvision", "timm", "lightning")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "device_type": device.type,
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "precision": recipe.precision,
        "memory_format": "channels_last",
    }


def cpu_name() -> str:
    """The processor as it calls itself, with its number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores"


def is_first_process() -> bool:
    """Whether this process is the one that writes, also before a process group exists."""
    keys = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(int(os.environ.get(key, "0")) == 0 for key in keys)


def set_threads(hardware: Hardware) -> None:
    """Give each process its share of the cores: more threads than cores are slower than fewer."""
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)


def restart(folder: Path) -> None:
    """Forget a run."""
    if is_first_process():
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks about hardware, workers and log directories off the terminal."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_hardware(hardware: Hardware, precision: str) -> None:
    """Raises InputError where Lightning cannot have these devices, this strategy or this precision."""
    with quiet_lightning():
        _trainer(hardware, precision, logger=False, enable_checkpointing=False, enable_progress_bar=False)


def _trainer(hardware: Hardware, precision: str, **settings: Any) -> pl.Trainer:
    try:
        return pl.Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=hardware.strategy,
            precision=precision,  # pyright: ignore[reportArgumentType]  (checked by Recipe)
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,
            **settings,
        )
    except (ValueError, RuntimeError, TypeError) as error:  # Lightning's own words for wrong devices and so on
        reason = " ".join(str(error).split())
        raise InputError(
            f"devices={hardware.devices}, nodes={hardware.nodes}, strategy={hardware.strategy}, "
            f"precision={precision} cannot be had here ({reason}): change --devices, --strategy or --precision"
        ) from None


def _guarded(trainer: pl.Trainer, call: Callable[[], Any]) -> None:
    """Lightning turns Ctrl-C into exit code 1 and then ignores further ones; hand it on as what it was."""
    try:
        call()
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


def _resume_point(journal: Journal) -> Path | None:
    if not journal.last.exists():
        if is_first_process():  # of an attempt that did not reach the end of its first epoch
            journal.best.unlink(missing_ok=True)
        return None
    check_resumable(journal.last, journal.identity)
    try:
        read_metadata(journal.best)
    except InputError as error:
        raise InputError(f"{error}; or pass --restart to train this run from the start") from None
    return journal.last


def _metadata(run: Run, recipe: Recipe, pictures: Pictures) -> dict[str, Any]:
    return {
        **asdict(run),
        "arguments": recipe.arguments_of(run.model),
        "classes": list(pictures.classes),
        "in_chans": pictures.channels,
        "size": recipe.size or pictures.size,
        "normalise": recipe.normalise,
        "mean": list(pictures.mean),
        "std": list(pictures.std),
        "version": version("octavize"),
    }


def _teller(run: Run, recipe: Recipe, console: Console) -> Callable[[Row], None]:
    epochs = recipe.epochs_of(run.model)

    def tell(row: Row) -> None:
        console.print(
            f"  epoch {row['epoch']:>3.0f}/{epochs}   "
            f"train {row['train_loss']:.3f} / {row['train_accuracy']:.1%}   "
            f"val {row['val_loss']:.3f} / {row['val_accuracy']:.1%}   "
            f"[dim]{row['seconds']:.1f} s[/dim]",
            highlight=False,
        )

    return tell
