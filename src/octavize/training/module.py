"""One network in training, as Lightning wants it: loaders, steps, metrics, optimizer and schedule."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
import timm.optim
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from octavize.convert.norms import reestimate_norms
from octavize.data.augment import crop_and_flip
from octavize.data.images import Images, as_batch
from octavize.errors import InputError
from octavize.training.inputs import TrainingInputs, as_seen
from octavize.training.recipe import Recipe

timm_optim: Any = timm.optim
"""timm re-exports its functions without telling type checkers."""

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


class Meter:
    """Mean loss and accuracy over the images and devices it was shown.

    No module: as a part of a network in bfloat16 its sums would be rounded to three digits.
    """

    def __init__(self, classes: int) -> None:
        # NaN has to show: torchmetrics would otherwise leave such images out of the mean.
        self.loss = MeanMetric(nan_strategy="disable")
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def update(self, losses: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Count a batch: losses (N,), or () if batches are of one size; scores (N, classes), labels (N,)."""
        self.loss.to(losses.device).update(losses.float())
        self.accuracy.to(scores.device).update(scores, labels)

    def take(self) -> tuple[float, float]:
        """Mean loss and accuracy (0 … 1) since the last call; starts the count anew."""
        loss, accuracy = float(self.loss.compute()), float(self.accuracy.compute())
        self.loss.reset()
        self.accuracy.reset()
        return loss, round(accuracy, 7)  # float32 has no more digits


class Classifier(pl.LightningModule):
    """Trains one network on one data set under a recipe.

    Everything random in an epoch follows from the seed and the epoch alone, so a run that was killed and
    resumed is the run that was left in peace.
    """

    def __init__(self, model: nn.Module, images: Images, recipe: Recipe, name: str, seed: int) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.images, self.recipe, self.name, self.seed = images, recipe, name, seed
        self.random = torch.Generator()
        self.epoch_seconds = 0.0
        self._clock = time.perf_counter()
        self.test_result = (float("nan"), float("nan"))
        """Test loss and accuracy."""
        classes = len(images.classes)
        self.fit_meter, self.val_meter, self.test_meter = Meter(classes), Meter(classes), Meter(classes)

    # Data ---------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled by (seed, epoch) and shared out over the devices."""
        split: Any = self.images.train  # a data set to torch's DataLoader, though not to its annotations
        world = self.trainer.world_size
        per_device = min(max(1, self.recipe.batch_size_of(self.name) // world), max(1, len(split) // world))
        # The sampler adds the epoch to its seed, so neighboring seeds are kept far apart.
        sampler: DistributedSampler[Batch] = DistributedSampler(
            split,
            num_replicas=world,
            rank=self.trainer.global_rank,
            shuffle=True,
            seed=1_000_003 * self.seed,
        )
        # Lightning tells the sampler the epoch only after the loader has drawn its first indices, which would
        # give a resumed run the order of epoch 0.
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        sampler.set_epoch(progress.processed)
        # A last batch of one image would leave batch norm without a variance.
        return _loader(split, per_device, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every device reads all of it: sharing out would count some images twice."""
        return _loader(self.images.val, self.recipe.batch_size_of(self.name))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Every device reads all of it."""
        return _loader(self.images.test, self.recipe.batch_size_of(self.name))

    # Steps --------------------------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, classes) of uint8 images (N, C, H, W)."""
        return self.model(self.inputs(images))

    def inputs(self, images: Tensor) -> Tensor:
        """What the network sees of uint8 images (N, C, H, W): resized, normalized, in its dtype."""
        inputs = as_seen(images, self.images, self.recipe)
        return inputs.to(self.dtype, memory_format=torch.channels_last)

    def training_loss(self, inputs: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """The loss () that is minimized, of inputs (N, C, H, W), their scores (N, classes), labels (N,)."""
        return F.cross_entropy(scores, labels, label_smoothing=self.recipe.label_smoothing)

    def on_train_epoch_start(self) -> None:
        seed = epoch_seed(self.seed, self.current_epoch, self.global_rank)
        torch.manual_seed(seed)  # dropout and the like
        self.random.manual_seed(seed)
        self._clock = time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        if self.recipe.crop_padding or self.recipe.flip:
            images = crop_and_flip(
                images,
                padding=self.recipe.crop_padding,
                flip=self.recipe.flip,
                generator=self.random,
                fill=[255 * mean for mean in self.images.mean],
            )
        inputs = self.inputs(images)
        scores = self.model(inputs)
        loss = self.training_loss(inputs, scores, labels)
        if not torch.isfinite(loss):
            raise InputError(
                f"lr is {self.recipe.lr_of(self.name):g} and {self.name} diverged with it: the loss became "
                f"{loss.item()} in epoch {self.current_epoch + 1}, step {batch_idx + 1}; lower --lr"
            )
        self.fit_meter.update(loss.detach(), scores.detach(), labels)
        self.log("train_loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.val_meter, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.test_meter, batch)

    def _evaluate(self, meter: Meter, batch: Batch) -> None:
        images, labels = batch
        scores = self(images)
        meter.update(F.cross_entropy(scores, labels, reduction="none"), scores, labels)

    def on_test_epoch_end(self) -> None:
        self.test_result = self.test_meter.take()

    def on_validation_start(self) -> None:
        """The clock of an epoch stops before validation, and before statistics are measured for it."""
        self.epoch_seconds = time.perf_counter() - self._clock
        if count := self.recipe.norm_images:
            seen = TrainingInputs(self.images, self.recipe, count)
            with self.trainer.precision_plugin.val_step_context():
                reestimate_norms(self.model, seen, max_images=count)

    # Optimizer ----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self.model, self.recipe, self.name)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.recipe.warmup_epochs * total / self.recipe.epochs_of(self.name))
        scheduler = make_schedule(optimizer, self.recipe.schedule, total, warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of what is random in an epoch of one process; numpy keeps its mixing the same for good."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0])


def _loader(split: Any, batch_size: int, **settings: Any) -> DataLoader[Batch]:
    # Splits hand out whole batches, which torch's DataLoader honors and its annotations do not know.
    collate: Any = as_batch
    # A generator of its own: starting an epoch would otherwise draw from the one that dropout draws from.
    generator = torch.Generator()
    return DataLoader(split, batch_size, collate_fn=collate, generator=generator, **settings)


def check_optimizer(name: str) -> None:
    """Raises InputError where timm has no optimizer of this name."""
    if name.lower() not in timm_optim.list_optimizers():
        raise InputError(
            f"optimizer is {name!r}: choose one of timm's, such as sgd, momentum, adam, adamw, lamb"
        )


def make_optimizer(model: nn.Module, recipe: Recipe, name: str) -> Optimizer:
    """The recipe's optimizer; weight decay spares biases and normalization parameters."""
    return timm_optim.create_optimizer_v2(
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
