"""`metrics.csv` of a run, a line per epoch: what it holds, and how it is read. No framework is needed."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from octavize.errors import InputError

COLUMNS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds")
"""Of `metrics.csv`. Accuracies 0 … 1; `lr` is that of the epoch's last step; `seconds` is the wall time of
the epoch's training steps, validation and saving left out."""

Row = dict[str, float]
CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
"""Of `metrics.csv`, what `results.json` holds of every epoch."""


def read_metrics(folder: Path) -> list[Row]:
    """The lines of a run's `metrics.csv`.

    Raises:
        InputError: the file is missing or damaged.
    """
    rows = known_metrics(folder)
    if not rows:
        path = folder / "metrics.csv"
        raise InputError(
            f"metrics {path} is missing or damaged: delete the folder {folder} to train it again"
        )
    return rows


def known_metrics(folder: Path) -> list[Row]:
    """`read_metrics` of a run that may have none yet: no line if the file is missing or damaged."""
    try:
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return [{key: float(line[key]) for key in COLUMNS} for line in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []


def curve(folder: Path) -> dict[str, list[float | None]]:
    """Loss and accuracy of every epoch of a run; JSON has no word for what is not finite: None."""
    rows = read_metrics(folder)
    return {name: [finite_or_none(row[name]) for row in rows] for name in CURVES}


def finite_or_none(loss: float) -> float | None:
    """A loss as files keep it: JSON has no NaN and no infinity."""
    return loss if math.isfinite(loss) else None
