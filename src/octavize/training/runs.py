"""One run as plain values: what it trains, what its folder holds, whose that is. No framework is needed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from octavize.errors import InputError
from octavize.files import completed, known_json
from octavize.report.naming import run_slug
from octavize.report.numbers import seconds
from octavize.training.metrics import Row
from octavize.training.recipe import Recipe, read_recipe

logger = logging.getLogger(__name__)
TORCH = "PyTorch"
"""Who trained a run that does not say so."""
GROWING = ("models", "alphas", "seeds")
"""Lists that a later call may lengthen: what is finished stays, the new runs are added."""
OUTPUTS = (
    *("runs", "figures", "recipe.yaml", "profile.json", "results.csv", "results.json", "report.html"),
    *("tensorboard", "metrics.csv", "last.ckpt", "best.safetensors", "result.json"),
    *("visualdl", "last.safetensors"),
)
"""What `compare` and `train` write, and --restart removes."""


_DIGESTS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class Dataset(Protocol):
    """What is asked of a data set, `octavize.data.images.Images` or Paddle's. A split has a length, `labels`,
    and `images` or the `paths` of their files."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def train(self) -> Any: ...

    @property
    def val(self) -> Any: ...

    @property
    def test(self) -> Any: ...

    @property
    def mean(self) -> Sequence[float]: ...

    @property
    def std(self) -> Sequence[float]: ...

    @property
    def channels(self) -> int: ...

    @property
    def size(self) -> int: ...


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


def plan_runs(recipe: Recipe) -> list[Run]:
    """All runs in the order they are trained: seed by seed, so that a first full answer comes early."""
    return [Run(m, a, s) for s in recipe.seeds for m in recipe.models for a in recipe.alphas]


def input_shape(recipe: Recipe, images: Dataset, batch: int = 1) -> tuple[int, int, int, int]:
    """(N, C, H, W) of a batch as networks see it."""
    side = recipe.size or images.size
    return batch, images.channels, side, side


def describe_data(images: Dataset) -> dict[str, Any]:
    """What identifies a data set: its name, classes, sizes of splits, mean and deviation, and `digest`."""
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
        "digest": digest(images),
    }


def digest(images: Dataset) -> str:
    """Of every image and label: one that is mended, exchanged or moved to another class changes it.

    Of images that are decoded batch by batch it knows the names and sizes of their files.
    """
    known = _DIGESTS.get(images)
    if known is None:
        told = hashlib.sha256()
        for split in (images.train, images.val, images.test):
            told.update(np.ascontiguousarray(split.labels).data)
            if hasattr(split, "images"):
                told.update(np.ascontiguousarray(split.images).data)
            else:
                files = (f"{path.parent.name}/{path.name} {path.stat().st_size}\n" for path in split.paths)
                told.update("".join(files).encode())
        known = _DIGESTS[images] = told.hexdigest()[:16]
    return known


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


def describe_input(recipe: Recipe, images: Dataset) -> dict[str, Any]:
    """What the user of a trained network has to know of its input."""
    return {
        "classes": list(images.classes),
        "in_chans": images.channels,
        "size": recipe.size or images.size,
        "normalize": recipe.normalize,
        "mean": list(images.mean),
        "std": list(images.std),
    }


def teller(epochs: int) -> Callable[[Row], None]:
    """Logs a line per finished epoch."""

    def tell(row: Row) -> None:
        left = (epochs - row["epoch"]) * row["seconds"]
        logger.info(
            f"  epoch {row['epoch']:>3.0f}/{epochs}   "
            f"train {row['train_loss']:.3f} / {row['train_accuracy']:.1%}   "
            f"val {row['val_loss']:.3f} / {row['val_accuracy']:.1%}   "
            f"{row['seconds']:.1f} s" + (f", {seconds(left)} left" if left else "")
        )

    return tell


def foreign_to(path: Path, new: Recipe) -> str:
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


def check_data(folders: Iterable[Path], images: Dataset, framework: str = TORCH) -> None:
    """Runs on different images, or in different frameworks, must not end up in one table."""
    asked = {"data": describe_data(images)}
    for folder in folders:
        result = read_result(folder)
        if result is not None and completed(result, asked)["data"] != asked["data"]:
            raise InputError(
                f"out holds {folder}, whose run saw other images than data={images.name} holds now: "
                "give another --out"
            )
        if result is not None and result.get("framework", TORCH) != framework:
            raise InputError(f"out holds {folder}, which was not trained in {framework}: give another --out")
