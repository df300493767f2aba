"""Lightning's loops, counted: of training the steps of all epochs, of testing the batches."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from octavize.report.progress import Advance, bar
from octavize.training.folder import is_first_process


class Steps(pl.Callback):
    """Tells how far a Trainer is."""

    def __init__(self) -> None:
        self._bar = ExitStack()
        self._advance: Advance = lambda: None

    def _begin(self, what: str, total: float) -> None:
        self._end()
        if is_first_process():
            self._advance = self._bar.enter_context(bar(what, int(total) if total < float("inf") else None))

    def _end(self) -> None:
        self._bar.close()
        self._advance = lambda: None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epochs = (trainer.max_epochs or 0) - trainer.current_epoch
        self._begin("training", epochs * trainer.num_training_batches)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self._advance()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._end()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # in training it is part of an epoch
            self._begin("validating", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._advance()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._end()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self._advance()

    def on_test_end(self, *_: Any, **__: Any) -> None:
        self._end()

    def on_exception(self, *_: Any, **__: Any) -> None:
        self._end()
