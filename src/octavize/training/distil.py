"""Fine-tuning with the vanilla network as the teacher (knowledge distillation, Hinton et al. 2015)."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize.convert.trace import copied
from octavize.data.images import Images
from octavize.training.journal import Rows
from octavize.training.metrics import finite_or_none
from octavize.training.module import Classifier
from octavize.training.recipe import Recipe


def soft_loss(scores: Tensor, teacher_scores: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of the distributions softened by the temperature T, mean over images.

    T² keeps the gradient's size comparable to that of cross entropy (Hinton et al., §2).

    Args:
        scores, teacher_scores: (N, classes), before the softmax; computed in float32.
        temperature: above 0; 1 compares the probabilities themselves.

    Returns:
        () float32; its gradient reaches `scores` alone.
    """
    student = F.log_softmax(scores.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_scores.detach().float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class Distiller(Classifier):
    """A `Classifier` whose loss is (1 − w) · cross entropy + w · `soft_loss`.

    The teacher sees the same augmented images, in evaluation mode, without gradients. It is no submodule:
    training mode, checkpoints, the optimizer and distributed training do not see it.

    Args:
        teacher: the vanilla network, of which a copy is kept; None trains on the labels alone.
        weight: w, 0 to 1.
        temperature: see `soft_loss`.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        recipe: Recipe,
        name: str,
        seed: int,
        *,
        teacher: nn.Module | None,
        weight: float,
        temperature: float,
    ) -> None:
        super().__init__(model, images, recipe, name, seed)
        self.weight, self.temperature = weight, temperature
        kept = None if teacher is None else copied(teacher).to(memory_format=torch.channels_last)
        # In a tuple, where torch does not look for submodules.
        self._teacher = (None if kept is None else kept.eval().requires_grad_(False),)

    def on_fit_start(self) -> None:
        if self._teacher[0] is not None:
            self._teacher[0].to(next(self.model.parameters()))  # device and dtype

    def training_loss(self, inputs: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        hard = super().training_loss(inputs, scores, labels)
        teacher = self._teacher[0]
        if teacher is None or self.weight == 0:
            return hard
        with torch.no_grad():
            teacher_scores = teacher(inputs)
        return (1 - self.weight) * hard + self.weight * soft_loss(scores, teacher_scores, self.temperature)


class EpochTests(Rows, pl.Callback):
    """Reads the test set after every epoch, for the curve only: the epoch is chosen on validation."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            for number, (images, labels) in enumerate(pl_module.test_dataloader()):
                batch = images.to(pl_module.device), labels.to(pl_module.device)
                pl_module.test_step(batch, number)
        for module, mode in modes.items():
            module.training = mode
        loss, accuracy = pl_module.test_meter.take()
        self.rows = [*self.rows, {"test_loss": finite_or_none(loss), "test_accuracy": accuracy}]
