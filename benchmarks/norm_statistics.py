"""Is a bad test accuracy bad weights, or bad running statistics of the batch norms?

    python benchmarks/norm_statistics.py rate --data-dir cifar

Trains runs of a study, and after every epoch reads training and validation images twice with the same
weights: with the running statistics that training left, as every evaluation does, and with statistics
measured on training images. Where the second is far better, the weights were good. Start it again after a
kill. The runs are those of `octavize study` and may be copied into its folder.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from convert_trained import read_rows
from octavize import reestimate_norms
from octavize.files import read_json, write_json
from octavize.study.design import Planned, distinct, plan_study
from octavize.study.load import load_study
from octavize.study.run import LOCK
from octavize.study.work import ended
from octavize.training.folder import folder_lock
from octavize.training.hardware import Hardware
from octavize.training.inputs import CHUNK, TrainingInputs
from octavize.training.module import Classifier, Meter
from octavize.training.runs import read_result
from octavize.training.train import load_images, train_run

NORMS = "norms.jsonl"
IMAGES = 4096
"""Training images that statistics are measured on, and that are read for the training accuracy."""


class NormWatch(pl.Callback):
    """After every epoch, loss and accuracy with running and with measured statistics, a line each epoch.

    Nothing that training goes on from is changed: statistics and modes come back, no random number is drawn.
    """

    def __init__(self, path: Path, images: int = IMAGES) -> None:
        self.path, self.count = path, images

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        if trainer.sanity_checking:
            return
        model, training = pl_module.model, pl_module.model.training
        kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
        seen = TrainingInputs(pl_module.images, pl_module.recipe, self.count)
        row: dict[str, Any] = {"epoch": trainer.current_epoch + 1}
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            row["running"] = {"train": read(pl_module, seen), "val": read(pl_module, validation(pl_module))}
            reestimate_norms(model, seen, max_images=self.count)
            row["measured"] = {"train": read(pl_module, seen), "val": read(pl_module, validation(pl_module))}
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
        model.train(training)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def validation(module: Classifier) -> Iterator[tuple[Tensor, Tensor]]:
    """All validation images as the network sees them."""
    for chunk in torch.arange(len(module.images.val)).split(CHUNK):
        images, labels = module.images.val.__getitems__(chunk)
        yield module.inputs(images), labels


def read(module: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean loss and accuracy."""
    model, meter = module.model.eval(), Meter(len(module.images.classes))
    for inputs, labels in batches:
        scores = model(inputs.to(memory_format=torch.channels_last))
        meter.update(F.cross_entropy(scores, labels, reduction="none"), scores, labels)
    return dict(zip(("loss", "accuracy"), meter.take(), strict=True))


def rows_by_epoch(folder: Path) -> list[dict[str, Any]]:
    """A row for each epoch; of an epoch that was trained twice because of a kill, the last."""
    rows = {row["epoch"]: row for row in read_rows(folder / NORMS)}
    return [rows[epoch] for epoch in sorted(rows)]


def collect(study: str, places: list[Planned], out: Path, known: list[dict[str, Any]]) -> dict[str, Any]:
    """What finished runs of a study gave, after what is `known` of others; two studies may share a run."""
    runs: list[dict[str, Any]] = []
    for place in places:
        folder = place.folder(out)
        result = read_result(folder)
        if result is not None and (rows := rows_by_epoch(folder)):
            about = {"study": study, "setting": place.cell.name, "model": place.model, "arm": place.arm}
            about |= {"seed": place.seed, "run": place.slug}
            runs.append({**about, "epochs": rows, "environment": result["environment"]})
    keys = ("study", "setting", "run")
    found = {tuple(run[key] for key in keys) for run in runs}
    others = [run for run in known if tuple(run[key] for key in keys) not in found]
    return {"images": IMAGES, "runs": [*others, *runs]}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", help="name of a shipped study, or a YAML file")
    parser.add_argument("--model", nargs="+", help="only these of its networks")
    parser.add_argument("--cell", nargs="+", help="only these of its settings")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/norm-statistics"))
    parser.add_argument(
        "--results", type=Path, help="file that what was read is added to; by default norms.json in --out"
    )
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--threads", type=int)
    options, console = parser.parse_args(), Console()
    results = options.results or options.out / "norms.json"
    known = read_json(results) or {"images": IMAGES, "runs": []}
    if known.get("images") != IMAGES:
        parser.error(f"--results {results} is not what {IMAGES} images gave: give a new file")
    given = {"data": options.data, "limit_train": options.limit_train}
    study = load_study(options.study, options.seed, **given)
    places = [
        place
        for place in distinct(plan_study(study, {}))
        if (not options.model or place.model in options.model)
        and (not options.cell or place.cell.name in options.cell)
    ]
    images = load_images(study.recipe, options.data_dir)
    hardware = Hardware(threads=options.threads)
    with folder_lock(options.out / LOCK) as ours:
        if not ours:
            parser.error(f"--out {options.out} is another command's: wait for it, or give a new folder")
        for place in places:
            folder = place.folder(options.out)
            if not ended(folder):
                console.print(place.slug, highlight=False)
                train_run(
                    place.run, place.recipe, images, folder, hardware=hardware,
                    callbacks=[NormWatch(folder / NORMS)],
                )  # fmt: skip
    write_json(results, collect(study.name, places, options.out, known["runs"]))


if __name__ == "__main__":
    main()
