"""What a run writes while it trains: a line per epoch, the best weights, the state to resume from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from octavize.files import KEY, write_text
from octavize.text import to_csv
from octavize.training.metrics import COLUMNS, Row
from octavize.training.module import Classifier
from octavize.zoo.weights import read_metadata, save_weights


class Rows:
    """Of a callback: lines that travel inside `last.ckpt`."""

    rows: Sequence[dict[str, Any]] = ()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": list(self.rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class Journal(Rows, Checkpoint):
    """Keeps `metrics.csv` and `best.safetensors` of a run's folder, each replaced whole; `last.ckpt` is kept
    by the `ModelCheckpoint` of `resume_point`, which has to follow in the Trainer's list.

    The lines of `metrics.csv` travel inside `last.ckpt` and are written before it, so after a kill at any
    moment the file has them all, and one too many until that epoch is trained again. Lightning's `CSVLogger`
    forgets: it deletes the file of the attempt before, and appends to the new one in place.

    `best.safetensors` is its own record of the best epoch. A `ModelCheckpoint` writes neither its format nor
    what the network is, and forgets the best epoch where the folder has moved between two attempts.

    Args:
        folder: the run's folder.
        identity: what `last.ckpt` says the run is.
        metadata: what `best.safetensors` says beside epoch and accuracy.
        tell: called with every finished line.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        metadata: Mapping[str, Any],
        tell: Callable[[Row], None],
    ) -> None:
        self.folder, self.identity, self.metadata, self.tell = folder, identity, metadata, tell
        self._lr = 0.0

    @property
    def last(self) -> Path:
        """State to resume from, of the end of the last finished epoch."""
        return self.folder / "last.ckpt"

    @property
    def best(self) -> Path:
        """Weights of the epoch with the highest validation accuracy, the first of equals."""
        return self.folder / "best.safetensors"

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = dict(self.identity)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        train_loss, train_accuracy = pl_module.fit_meter.take()
        val_loss, val_accuracy = pl_module.val_meter.take()
        values = (train_loss, train_accuracy, val_loss, val_accuracy, self._lr, pl_module.epoch_seconds)
        row: Row = {"epoch": trainer.current_epoch + 1, **dict(zip(COLUMNS[1:], values, strict=True))}
        self.rows = [*self.rows, row]
        if trainer.logger is not None:
            trainer.logger.log_metrics({f"epoch/{k}": v for k, v in row.items()}, step=int(row["epoch"]))
        if trainer.is_global_zero:
            self._save_best(pl_module, row)
            write_text(self.folder / "metrics.csv", to_csv(COLUMNS, self.rows))
            self.tell(row)

    def _save_best(self, module: Classifier, row: Row) -> None:
        # The file itself is the record of the best epoch, so the two cannot disagree after a kill.
        if self.best.exists() and row["val_accuracy"] <= read_metadata(self.best)["val_accuracy"]:
            return
        facts = {**self.metadata, "epoch": int(row["epoch"]), "val_accuracy": row["val_accuracy"]}
        save_weights(self.best, module.model, facts)


def resume_point(folder: Path) -> ModelCheckpoint:
    """Keeps `last.ckpt`, written at the end of every epoch."""
    # Without a metric to watch, its one best checkpoint is the newest.
    return ModelCheckpoint(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's own writes to the system's folder of temporary files and moves the file, which is a copy
    where that folder is another disk: a kill would leave half a checkpoint."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        part = f"{path}.part"
        super().save_checkpoint(checkpoint, part, storage_options)
        os.replace(part, path)
