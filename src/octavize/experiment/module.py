"""One network in training, as Lightning wants it: loaders, steps, metrics, optimiser and schedule."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from octavize.errors import InputError
from octavize.experiment.augment import crop_and_flip, to_input
from octavize.experiment.data import AnySplit, Pictures, as_batch
from octavize.experiment.recipe import Recipe

Batch = tuple[Tensor, Tensor]
"""Pictures (N, C, H, W) uint8 and labels (N,) int64."""


class Classifier(pl.LightningModule):
    """Trains one network on one data set under a recipe.

    Everything random in an epoch follows from the seed and the epoch alone, so a run that was killed and
    resumed is the run that was left in peace.
    """

    def __init__(self, model: nn.Module, pictures: Pictures, recipe: Recipe, name: str, seed: int) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.pictures, self.recipe, self.name, self.seed = pictures, recipe, name, seed
        self.random = torch.Generator()
        self.epoch_seconds = 0.0
        self.test_result = (float("nan"), float("nan"))
        """Test loss and accuracy."""
        # NaN has to show: torchmetrics would otherwise leave such batches out of the mean.
        self.losses = nn.ModuleDict({s: MeanMetric(nan_strategy="disable") for s in ("fit", "val", "test")})
        self.accuracies = nn.ModuleDict(
            {s: MulticlassAccuracy(len(pictures.classes), average="micro") for s in ("fit", "val", "test")}
        )

    # Data ---------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled by (seed, epoch) and shared out over the devices."""
        split, world = self.pictures.train, self.trainer.world_size
        per_device = min(max(1, self.recipe.batch_size_of(self.name) // world), max(1, len(split) // world))
        # The sampler adds the epoch to its seed, so neighbouring seeds are kept far apart.
        sampler: DistributedSampler[Any] = DistributedSampler(
            split, num_replicas=world, rank=self.trainer.global_rank, shuffle=True, seed=1_000_003 * self.seed
        )
        return DataLoader(
            split, batch_size=per_device, sampler=sampler, collate_fn=as_batch, drop_last=True
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Every device reads all of it: sharing out would count some pictures twice."""
        return self._evaluation(self.pictures.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Every device reads all of it."""
        return self._evaluation(self.pictures.test)

    def _evaluation(self, split: AnySplit) -> DataLoader[Any]:
        return DataLoader(split, batch_size=self.recipe.batch_size_of(self.name), collate_fn=as_batch)

    # Steps --------------------------------------------------------------------------------------------------

    def forward(self, pictures: Tensor) -> Tensor:
        """Class scores (N, classes) of uint8 pictures (N, C, H, W)."""
        inputs = to_input(
            pictures,
            self.pictures.mean,
            self.pictures.std,
            size=self.recipe.size,
            normalise=self.recipe.normalise,
        )
        return self.model(inputs.to(self.dtype, memory_format=torch.channels_last))

    def on_train_epoch_start(self) -> None:
        seed = hash((self.seed, self.current_epoch, self.global_rank)) % 2**63
        torch.manual_seed(seed)  # dropout and the like
        self.random.manual_seed(seed)
        self._clock = time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        pictures, labels = batch
        if self.recipe.crop_padding or self.recipe.flip:
            pictures = crop_and_flip(
                pictures,
                padding=self.recipe.crop_padding,
                flip=self.recipe.flip,
                generator=self.random,
                fill=[255 * mean for mean in self.pictures.mean],
            )
        scores = self(pictures)
        loss = F.cross_entropy(scores, labels, label_smoothing=self.recipe.label_smoothing)
        if not torch.isfinite(loss):
            raise InputError(
                f"lr is {self.recipe.lr_of(self.name):g} and {self.name} diverged with it: the loss became "
                f"{loss.item()} in epoch {self.current_epoch + 1}, step {batch_idx + 1}; lower --lr"
            )
        self._count("fit", loss.detach(), scores.detach(), labels)
        self.log("train_loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        pictures, labels = batch
        scores = self(pictures)
        self._count(stage, F.cross_entropy(scores, labels), scores, labels)

    def _count(self, stage: str, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        self.losses[stage].update(loss, weight=len(labels))
        self.accuracies[stage].update(scores, labels)

    def on_test_epoch_end(self) -> None:
        self.test_result = self.totals("test")

    def totals(self, stage: str) -> tuple[float, float]:
        """Mean loss and accuracy (0 … 1) since the last call, over all devices; starts the count anew."""
        accuracy = round(float(self.accuracies[stage].compute()), 7)  # float32 has no more digits
        values = float(self.losses[stage].compute()), accuracy
        self.losses[stage].reset()
        self.accuracies[stage].reset()
        return values

    def on_validation_start(self) -> None:
        """The clock of an epoch stops before validation."""
        self.epoch_seconds = time.perf_counter() - self._clock

    # Optimiser ----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self.model, self.recipe, self.name)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.recipe.warmup_epochs * total / self.recipe.epochs_of(self.name))
        scheduler = make_schedule(optimizer, self.recipe.schedule, total, warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def check_optimizer(name: str) -> None:
    """Raises InputError where timm has no optimiser of this name."""
    if name.lower() not in list_optimizers():
        raise InputError(
            f"optimizer is {name!r}: choose one of timm's, such as sgd, momentum, adam, adamw, lamb"
        )


def make_optimizer(model: nn.Module, recipe: Recipe, name: str) -> Optimizer:
    """The recipe's optimiser; weight decay spares biases and normalisation parameters."""
    check_optimizer(recipe.optimizer)
    return create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.lr_of(name),
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
    )


def make_schedule(optimizer: Optimizer, schedule: str, total: int, warmup: int) -> LRScheduler:
    """Learning rate per step: linear climb over `warmup` steps, then `schedule` over the rest of `total`."""
    warmup = min(warmup, total - 1)
    rest = max(1, total - warmup)
    after: LRScheduler
    if schedule == "cosine":
        after = CosineAnnealingLR(optimizer, T_max=rest)
    elif schedule == "linear":
        after = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=rest)
    else:
        after = ConstantLR(optimizer, factor=1.0, total_iters=0)
    if warmup < 1:
        return after
    climb = LinearLR(optimizer, start_factor=1 / (warmup + 1), end_factor=1.0, total_iters=warmup)
    return SequentialLR(optimizer, [climb, after], milestones=[warmup])
