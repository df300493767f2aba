"""Three bands trained beside two of equal arithmetic, two of equal time, and vanilla.

    python benchmarks/bands_training.py imagenette --out runs/bands     # train/<class> and test/<class>
    python benchmarks/bands_training.py --tables                        # only write docs/bands.md anew

Start it again after a kill. ResNet-26 on images of 128 pixels with the settings of the study `resolution`.
Layers of three bands take the place of those of two. Results: `docs/results/bands-training.json`; `bands.py`
writes the page.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

from bands import IMAGE, MODEL, PAGE, TRAINED, page
from bands_network import matching, three_bands_of
from bands_rules import changed
from marked import write
from octavize.bench.process import settle_process
from octavize.bench.profile import count_macs
from octavize.data.images import Images
from octavize.files import write_json
from octavize.training import train
from octavize.training.hardware import Hardware
from octavize.training.recipe import Recipe, load_recipe
from octavize.training.runs import input_shape
from octavize.training.train import Run, build_network, load_images, read_result, train_run
from trained_rows import known_rows

ALPHA = 0.5
ALPHA_OF_ITS_TIME = 0.25
"""Of two bands that take the time of the three in OpenVINO: see the whole networks in docs/bands.md."""
SETTINGS = {"data": "folder", "size": IMAGE[-1], "epochs": 16, "batch_size": 64, "crop_padding": 16}


@dataclass(frozen=True)
class Arm:
    """What is trained: vanilla or two bands by `alpha`, or three where there are `shares`."""

    name: str
    alpha: float
    shares: tuple[float, float] | None = None

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "-")

    def build(self, recipe: Recipe, images: Images, model: str, alpha: float) -> nn.Module:
        """The network; the signature is that of `build_network`, in whose place it stands."""
        net = build_network(recipe, images, model, alpha)
        return net if self.shares is None else three_bands_of(net, self.shares)


def arms_of(recipe: Recipe, images: Images) -> list[Arm]:
    """Vanilla, two bands, three of the same arithmetic, and two that take the time of these."""

    def two(alpha: float) -> nn.Module:
        return build_network(recipe, images, MODEL, alpha)

    shares = matching(two, ALPHA, input_shape(recipe, images))
    return [
        Arm("vanilla", 0.0),
        Arm("two bands", ALPHA),
        Arm("three bands", ALPHA, shares),
        Arm("two bands of its time", ALPHA_OF_ITS_TIME),
    ]


def train_arm(
    arm: Arm, seed: int, recipe: Recipe, images: Images, out: Path, hardware: Hardware
) -> dict[str, Any]:
    """Train one arm with one seed, unless that was done before; a row of the results."""
    run = Run(MODEL, arm.alpha, seed)
    folder = out / f"{arm.folder}-seed{seed}-{recipe.epochs_of(MODEL)}epochs"
    with changed(), patch.object(train, "build_network", arm.build):
        result = read_result(folder) or train_run(run, recipe, images, folder, hardware=hardware)
        macs = count_macs(arm.build(recipe, images, MODEL, arm.alpha), input_shape(recipe, images))
    kept = {key: result[key] for key in ("test_accuracy", "test_loss", "best_epoch", "environment")}
    return {"arm": arm.name, "alpha": arm.alpha, "shares": arm.shares, "seed": seed, "macs": macs, **kept}


def train_all(given: argparse.Namespace, recipe: Recipe) -> None:
    """Train every arm with every seed, seed by seed, and keep the rows."""
    images = load_images(recipe, given.folder)
    about = {"model": MODEL, "data": given.folder.name, "size": recipe.size, "epochs": recipe.epochs}
    hardware = Hardware(threads=given.threads)
    rows = known_rows(TRAINED, about)
    arms = arms_of(recipe, images)
    for seed in given.seed:
        for arm in arms:
            rows = [row for row in rows if (row["arm"], row["seed"]) != (arm.name, seed)]
            rows.append(train_arm(arm, seed, recipe, images, given.out, hardware))
            write_json(TRAINED, {**about, "runs": rows})


def main(arguments: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="images: train/<class> and test/<class>")
    parser.add_argument("--out", type=Path, default=Path("runs/bands"))
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--tables", action="store_true", help="only write docs/bands.md")
    given = parser.parse_args(arguments)
    settle_process()
    if not given.tables:
        if given.folder is None:
            parser.error("give the folder of images, or --tables")
        settings = SETTINGS | {"epochs": given.epochs, "precision": given.precision}
        train_all(given, load_recipe("cifar", models=[MODEL], **settings))
    write(PAGE, page)


if __name__ == "__main__":
    main()
