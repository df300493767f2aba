"""One run: one network, one α, one seed, trained in PaddlePaddle into a folder of its own.

metrics.csv        a line per epoch
last.safetensors   state to resume from; gone once the run is finished
best.safetensors   weights of the epoch with the best validation accuracy, under torch's names
visualdl/          live curves, where VisualDL is installed
result.json        written last: it marks the run finished
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.utils import unique_name

from octavize.bench.environment import processor_name, versions
from octavize.errors import InputError
from octavize.files import completed, write_json, write_text
from octavize.paddle.initialize import initialize
from octavize.paddle.norms import reestimate_norms
from octavize.paddle.state import PADDLE, read_state, write_state
from octavize.paddle.weights import load_named, put, torch_state
from octavize.paddle.zoo import build_model
from octavize.report.progress import bar
from octavize.text import to_csv
from octavize.training.metrics import COLUMNS, Row, finite_or_none
from octavize.training.paddle.data import CHUNK, AnySplit, Images, Split, as_seen, crop_and_flip
from octavize.training.recipe import Recipe
from octavize.training.runs import (
    Run,
    describe_data,
    describe_input,
    fingerprint,
    input_shape,
    read_result,
    teller,
)

logger = logging.getLogger(__name__)
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda momentum, **o: paddle.optimizer.Momentum(momentum=momentum, use_nesterov=True, **o),
    "momentum": lambda momentum, **o: paddle.optimizer.Momentum(momentum=momentum, **o),
    "adam": lambda momentum, **o: paddle.optimizer.Adam(**o),
    "adamw": lambda momentum, **o: paddle.optimizer.AdamW(**o),
}
"""By the names of recipes; `sgd` has Nesterov momentum, as in torch."""


def build_network(recipe: Recipe, images: Images, model: str, alpha: float) -> nn.Layer:
    """The network of this name and α, as the recipe builds it for these images."""
    net = build_model(model, alpha, len(images.classes), images.channels, recipe.arguments_of(model))
    initialize(net, recipe.initializer, recipe.depthwise_initializer, input_shape(recipe, images))
    return net


def train_run(run: Run, recipe: Recipe, images: Images, folder: Path) -> dict[str, Any]:
    """Train one network to the end, going on from the last finished epoch if the folder holds one.

    Returns:
        What `result.json` holds; a finished run found there is returned without training.

    Raises:
        InputError: the state to resume from is damaged or of another run, or the training diverged.
    """
    result, note = read_result(folder), "finished before"
    if result is None:
        folder.mkdir(parents=True, exist_ok=True)
        # Optimizers know parameters by names that Paddle numbers: here they are the same in every process.
        with unique_name.guard():
            result = _Training(run, recipe, images, folder).finish()
        note = f"{result['train_seconds']:.0f} s of training"
    logger.info(
        "  test accuracy %.2f%% (weights of epoch %d, %s)",
        100 * result["test_accuracy"], result["best_epoch"], note,
    )  # fmt: skip
    return result


class _Training:
    """A network on its way. What is random in an epoch follows from the seed and the epoch alone."""

    def __init__(self, run: Run, recipe: Recipe, images: Images, folder: Path) -> None:
        self.run, self.recipe, self.images = run, recipe, images
        self.folder = folder
        self.epochs = recipe.epochs_of(run.model)
        self.batch = min(recipe.batch_size_of(run.model), len(images.train))
        self.steps = len(images.train) // self.batch  # a last batch of one has no variance for batch norm
        paddle.seed(run.seed)
        self.net = build_network(recipe, images, run.model, run.alpha)
        self.optimizer = make_optimizer(self.net, recipe, run.model, self.epochs * self.steps)
        self.rows: list[Row] = []
        data = describe_data(images)
        self.identity = {**asdict(run), "framework": PADDLE, "recipe": fingerprint(recipe, run), "data": data}

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    def finish(self) -> dict[str, Any]:
        """Train what is left, test the best weights and write the result."""
        self._resume()
        tell = teller(self.epochs)
        with _curves(self.folder, self.rows) as draw:
            for epoch in range(len(self.rows), self.epochs):
                row = self._epoch(epoch)
                self.rows.append(row)
                self._keep(row)
                draw(row)
                tell(row)
        load_named(self.net, self.best)
        loss, accuracy = self._evaluate(self.images.test)
        _, best = read_state(self.best)
        result = {
            **asdict(self.run),
            "framework": PADDLE,
            "epochs": self.epochs,
            "data": self.identity["data"],
            "test_accuracy": accuracy,
            "test_loss": finite_or_none(loss),
            "val_accuracy": best["val_accuracy"],
            "best_epoch": best["epoch"],
            "train_seconds": sum(row["seconds"] for row in self.rows),
            "environment": describe_environment(self.recipe.precision),
        }
        write_json(self.folder / "result.json", result)
        self.last.unlink(missing_ok=True)
        return result

    # ---- an epoch ------------------------------------------------------------------------------------------

    def _epoch(self, epoch: int) -> Row:
        random = np.random.default_rng([self.run.seed, epoch])
        paddle.seed(int(random.integers(2**31)))  # dropout and the like
        order = random.permutation(len(self.images.train))[: self.steps * self.batch]
        self.net.train()
        losses, right, lr = 0.0, 0, 0.0
        begun = time.perf_counter()
        with bar(f"epoch {epoch + 1}", self.steps) as advance:
            for step, index in enumerate(np.split(order, self.steps)):
                lr = self.optimizer.get_lr()
                loss, hits = self._step(self.images.train[index], random)
                if not math.isfinite(loss):
                    name, peak = self.run.model, self.recipe.lr_of(self.run.model)
                    raise InputError(
                        f"lr is {peak:g} and {name} diverged with it: the loss became {loss} in epoch "
                        f"{epoch + 1}, step {step + 1}; lower --lr"
                    )
                losses, right = losses + loss, right + hits
                advance()
        seconds = time.perf_counter() - begun
        if self.recipe.norm_images:
            reestimate_norms(self.net, self._training_images(self.recipe.norm_images), self._scores)
        val_loss, val_accuracy = self._evaluate(self.images.val)
        values = (losses / self.steps, right / len(order), val_loss, val_accuracy, lr, seconds)
        return {"epoch": epoch + 1, **dict(zip(COLUMNS[1:], values, strict=True))}

    def _step(self, batch: Split, random: np.random.Generator) -> tuple[float, int]:
        """One step of the optimizer: its loss, and how many images it got right."""
        images = batch.images
        if self.recipe.crop_padding or self.recipe.flip:
            fill = [255 * mean for mean in self.images.mean]
            images = crop_and_flip(images, self.recipe.crop_padding, self.recipe.flip, fill, random)
        labels = paddle.to_tensor(batch.labels)
        scores = self._scores(images)
        loss = F.cross_entropy(scores, labels, label_smoothing=self.recipe.label_smoothing)
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.optimizer._learning_rate.step()
        return float(loss), int((scores.argmax(1) == labels).sum())

    def _scores(self, images: np.ndarray) -> Tensor:
        inputs = as_seen(images, self.images, self.recipe)
        mixed = self.recipe.precision == "bf16-mixed"
        with paddle.amp.auto_cast(enable=mixed, dtype="bfloat16" if mixed else "float16"):
            scores = self.net(inputs)
        return scores.astype("float32")

    def _training_images(self, count: int) -> Iterator[np.ndarray]:
        """Some of the training images, the same each time, the classes mixed; not augmented."""
        order = np.random.default_rng(0).permutation(len(self.images.train))[:count]
        for first in range(0, len(order), CHUNK):
            yield self.images.train[order[first : first + CHUNK]].images

    def _evaluate(self, split: AnySplit) -> tuple[float, float]:
        """Mean loss and accuracy."""
        self.net.eval()
        losses, right = 0.0, 0
        with paddle.no_grad():
            for first in range(0, len(split), self.batch):
                part = split[first : first + self.batch]
                scores, labels = self._scores(part.images), paddle.to_tensor(part.labels)
                losses += float(F.cross_entropy(scores, labels, reduction="sum"))
                right += int((scores.argmax(1) == labels).sum())
        return losses / len(split), right / len(split)

    # ---- what is kept --------------------------------------------------------------------------------------

    def _keep(self, row: Row) -> None:
        """Write the best weights, `metrics.csv` and the state, in this order: a kill loses no line."""
        if row["val_accuracy"] > max((r["val_accuracy"] for r in self.rows[:-1]), default=-1.0):
            about = {**asdict(self.run), "framework": PADDLE, **describe_input(self.recipe, self.images)}
            about |= {"epoch": int(row["epoch"]), "val_accuracy": row["val_accuracy"]}
            about["arguments"] = self.recipe.arguments_of(self.run.model)
            write_state(self.best, torch_state(self.net), about)
        write_text(self.folder / "metrics.csv", to_csv(COLUMNS, self.rows))
        state = self.optimizer.state_dict()
        schedule = state.pop("LR_Scheduler")
        arrays = {f"net/{key}": value.numpy() for key, value in self.net.state_dict().items()}
        arrays |= {f"optimizer/{key}": value.numpy() for key, value in state.items()}
        write_state(self.last, arrays, {"run": self.identity, "rows": self.rows, "schedule": schedule})

    def _resume(self) -> None:
        if not self.last.exists():
            return
        arrays, about = read_state(self.last)
        if completed(about["run"], self.identity) != self.identity:
            raise InputError(f"checkpoint {self.last} is of another run: delete it, or give another --out")
        own = self.net.state_dict()
        for key, value in own.items():
            put(value, arrays[f"net/{key}"])
        state: dict[str, Any] = {"LR_Scheduler": about["schedule"]}
        for key, array in arrays.items():
            if key.startswith("optimizer/"):
                state[key.removeprefix("optimizer/")] = paddle.to_tensor(array)
        self.optimizer.set_state_dict(state)
        self.rows = about["rows"]
        logger.info("  going on after epoch %d", len(self.rows))


def make_optimizer(net: nn.Layer, recipe: Recipe, name: str, total: int) -> Any:
    """The recipe's optimizer; weight decay spares biases and normalization parameters."""
    learned = [p for p in net.parameters() if not p.stop_gradient]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    warmup = round(recipe.warmup_epochs * total / recipe.epochs_of(name))
    schedule = paddle.optimizer.lr.LambdaDecay(recipe.lr_of(name), rate(recipe.schedule, total, warmup))
    groups = [group for group in groups if group["params"]]
    return OPTIMIZERS[recipe.optimizer](momentum=recipe.momentum, learning_rate=schedule, parameters=groups)


def rate(schedule: str, total: int, warmup: int) -> Callable[[int], float]:
    """Share of the peak learning rate by step: linear climb over `warmup` steps, then `schedule` to 0."""
    warmup = min(warmup, total - 1)
    rest = max(1, total - warmup)

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        after = min(step - warmup, rest) / rest
        return {"cosine": 0.5 * (1 + math.cos(math.pi * after)), "linear": 1 - after}.get(schedule, 1.0)

    return share


def describe_environment(precision: str) -> dict[str, Any]:
    """Versions and hardware, to be kept beside every measured number."""
    return {
        **versions("paddlepaddle", "paddlepaddle-gpu"),
        "processor": processor_name(),
        "threads": cpu_threads(),
        "device": paddle.device.get_device(),
        "processes": 1,
        "precision": precision,
        "memory_format": "channels_first",
    }


def cpu_threads() -> int:
    """Of one operation: Paddle takes this number as it is imported, and sets it to 1 where none is given."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


@contextmanager
def _curves(folder: Path, before: list[Row]) -> Iterator[Callable[[Row], None]]:
    """Live curves, where VisualDL is installed; those of an attempt before are drawn anew."""
    if find_spec("visualdl") is None:
        yield lambda row: None
        return
    from visualdl import LogWriter

    with LogWriter(logdir=str(folder / "visualdl")) as writer:

        def draw(row: Row) -> None:
            for name, value in row.items():
                writer.add_scalar(tag=f"epoch/{name}", step=int(row["epoch"]), value=value)

        for row in before:
            draw(row)
        yield draw
