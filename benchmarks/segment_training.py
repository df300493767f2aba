"""Fine-tuning and scoring of one network of the study `segment`, a state on the disk after every epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from octavize.bench.environment import environment
from octavize.files import read_json, write_json
from segment_data import Scenes, inputs_of, pixels_by_class, sample, training_batches
from segment_networks import WEIGHTS, Arm, inputs_for, macs_of, make_network, scores_for
from segment_scores import VOID, Scores, class_weights

RESULT, STATE, EXPORTED = "result.json", "state.pt", "exported.json"
Score = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Settings:
    """How all arms are trained. A rate is AdamW's highest, `every` counts epochs between validations."""

    epochs: int
    batch: int = 8
    crop: tuple[int, int] = (256, 320)
    rate: float = 1e-3
    decay: float = 0.01
    precision: str = "bf16"
    every: int = 4
    calibration: int = 64
    """Training images, without labels, by which an octave network's low channels are chosen."""


def run_once(
    arm: Arm, seed: int, settings: Settings, data: Path, encoder: Path, folder: Path, threads: int
) -> None:
    """Train, choose the epoch on val, score on test once; nothing where that has been done."""
    if (folder / RESULT).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    size = Scenes(data, "test").size
    resumed = (folder / STATE).is_file()
    model = make_network(arm, encoder, sample(data, settings.calibration), size, folder, resumed=resumed)
    run = Run(arm, seed, settings, data, model, folder)
    run.train()
    model.load_state_dict(run.best["weights"])
    model.eval()
    result = {
        **{"arm": arm.name, "seed": seed, "image": arm.shape(size), "macs": macs_of(arm, model, size)},
        **{"epoch": run.best["epoch"], "val": run.best["val"], "test": score(model, arm, data, "test")},
        **{"history": run.history, "settings": asdict(settings)},
        "environment": environment("timm", "torchvision", "segmentation_models_pytorch"),
    }
    save(model.state_dict(), folder / WEIGHTS)
    write_json(folder / RESULT, result)
    (folder / STATE).unlink()


class Run:
    """One training, which goes on from its state on the disk."""

    def __init__(
        self, arm: Arm, seed: int, settings: Settings, data: Path, model: nn.Module, folder: Path
    ) -> None:
        self.arm, self.seed, self.settings, self.data, self.folder = arm, seed, settings, data, folder
        self.model: Any = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.weights = class_weights(pixels_by_class(data)).float()
        self.batches = training_batches(data, settings.crop, settings.batch)
        self.optimizer = torch.optim.AdamW(model.parameters(), settings.rate, weight_decay=settings.decay)
        steps = settings.epochs * len(self.batches)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.rate, total_steps=steps, pct_start=0.1
        )
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}

    def train(self) -> None:
        """All epochs that are not behind."""
        self._resume()
        for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
            # Each epoch draws its own numbers, so one that is begun again is the same.
            torch.manual_seed(1000 * (self.seed + 1) + epoch)
            start = time.process_time()
            row: dict[str, Any] = {"epoch": epoch, "loss": self._epoch(epoch)}
            row["cpu_seconds"] = round(time.process_time() - start, 1)
            if epoch % self.settings.every == 0 or epoch == self.settings.epochs:
                row |= self._validate(epoch)
            self.history.append(row)
            self._save()
            tqdm.write(f"{self.folder.name} {row}")

    def _epoch(self, epoch: int) -> float:
        """Train for an epoch: the mean loss."""
        self.model.train()
        total = 0.0
        bar = tqdm(self.batches, f"{self.folder.name} epoch {epoch}/{self.settings.epochs}", disable=None)
        for images, labels in bar:
            x = inputs_for(self.arm, inputs_of(images)).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.precision == "bf16"):
                outputs = self.model(x)
            scores = scores_for(self.arm, outputs.float(), self.settings.crop)
            loss = F.cross_entropy(scores, labels, self.weights, ignore_index=VOID)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item()
        return total / len(self.batches)

    def _validate(self, epoch: int) -> dict[str, object]:
        """Score on val, and keep the weights if they are the best so far."""
        found = score(self.model.eval(), self.arm, self.data, "val")
        if not self.best or found["whole"]["mean"] > self.best["val"]["whole"]["mean"]:
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": epoch, "val": found, "weights": weights}
        return {f"val_{place}": values["mean"] for place, values in found.items()}

    def _save(self) -> None:
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        state = {name: part.state_dict() for name, part in parts.items()}
        save(state | {"history": self.history, "best": self.best}, self.folder / STATE)

    def _resume(self) -> None:
        if not (self.folder / STATE).is_file():
            return
        state = torch.load(self.folder / STATE, weights_only=True)
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.history, self.best = state["history"], state["best"]


def save(value: Any, path: Path) -> None:
    """Write with torch, whole or not at all."""
    part = path.with_name(path.name + ".part")
    torch.save(value, part)
    os.replace(part, path)


def score(network: Callable[[Tensor], Any], arm: Arm, data: Path, split: str, batch: int = 1) -> Score:
    """Scores of a network, or of an exported file's runner, on all scenes of a split."""
    scores = Scores()
    for images, labels in tqdm(DataLoader(Scenes(data, split), batch), split, disable=None, leave=False):
        with torch.inference_mode():
            outputs = torch.as_tensor(network(inputs_for(arm, inputs_of(images))))
            answers = scores_for(arm, outputs, (labels.shape[1], labels.shape[2])).argmax(1)
        scores.add(answers, labels)
    return scores.take()


def results_of(folder: Path) -> dict[str, Any] | None:
    """What a finished run found; None for one that is not finished."""
    return read_json(folder / RESULT)
