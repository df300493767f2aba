"""Which channels become low, and how strides are taken: what a trained network keeps without any training.

    python benchmarks/conversion_choices.py runs/r20 runs/mobilenet --data-dir cifar --threads 1

For every α: arbitrary channels, and channels calibrated by each score; strides pooled (the paper) or kept on
the high path; and α chosen layer by layer (`budget`) for as many multiply–accumulates as that α takes. Test
accuracy at once and after the batch norms are measured anew. Rows that are in the output already are skipped.
"""

from __future__ import annotations

import argparse
import copy
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from convert_trained import Rows, jobs, write_environment
from octavize import calibrate, octavize, plan, reestimate_norms
from octavize.training.hardware import prepare_process
from octavize.training.inputs import TrainingInputs
from octavize.training.prepare import Adaptation, evaluate
from octavize.training.runs import input_shape

CHANNELS = ("arbitrary", "share", "damage", "damage by budget", "output", "output by budget")
STRIDES = ("pool", "stride")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of vanilla runs")
    parser.add_argument("--out", type=Path, default=Path("runs/conversion-choices"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--alpha", nargs="+", type=float, default=[0.125, 0.25, 0.5])
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--threads", type=int)
    options, console = parser.parse_args(), Console()
    rows = Rows(options.out / "choices.jsonl")
    write_environment(options)
    for job in jobs(options, console):
        prepare_process(job.hardware)
        recipe, settings = job.recipe(), Adaptation()
        shape = input_shape(recipe, job.images)
        for alpha, channels, downsample in product(options.alpha, CHANNELS, STRIDES):
            blank = {"seed": None, "epochs": 0, "channels": f"{channels}, {downsample}", "alpha": alpha}
            first = {"source": job.label, "model": job.model, "stage": "converted", **blank}
            second = {**first, "stage": "norms"}
            if second in rows:
                continue
            model = copy.deepcopy(job.source.model).cpu().eval()
            wanted: Any = {
                "alpha": job.source.origin.alpha(alpha),
                "downsample": downsample,
                "example": shape,
                "min_low": 0,  # the networks of CIFAR are narrow, and time is not the question here
            }
            if channels == "arbitrary":
                decided = plan(model, **wanted)
            else:
                loader = TrainingInputs(job.images, recipe, settings.calibration_images)
                score, by_budget, _ = channels.partition(" by budget")
                if by_budget:
                    wanted["budget"] = plan(model, **wanted).macs_ratio
                    del wanted["alpha"]
                decided = calibrate(model, loader, score=score, **wanted)
            model = octavize(model, decided, inplace=True)
            for row in (first, second):
                if row is second:
                    loader = TrainingInputs(job.images, recipe, settings.norm_images)
                    reestimate_norms(model, loader, max_images=settings.norm_images)
                found = evaluate(model, recipe, job.images, job.hardware, row["stage"])
                accuracy = {k: found[k] for k in ("test_accuracy", "val_accuracy")}
                if row not in rows:
                    rows.add({**row, "macs": decided.macs_after, **accuracy})
                console.print(f"{row['source']} α={alpha:g} {row['channels']} {row['stage']}: {accuracy}")


if __name__ == "__main__":
    main()
