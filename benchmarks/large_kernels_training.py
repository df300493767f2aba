"""Networks with large depthwise kernels trained: vanilla beside octave.

    python benchmarks/large_kernels_training.py imagenette --out runs/large   # train/<class>, test/<class>
    python benchmarks/large_kernels_training.py --tables                      # only write the page anew

Start it again after a kill: finished runs are kept, and the others go on. A run of 16 epochs takes hours on
two cores. Results: `docs/results/large-kernels-training.json`; `large_kernels.py` writes the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

import octavize
from large_kernels import ALPHA, EXCHANGES, PAGE, TRAINED, convnext_of_batch_norms, page, replk
from marked import write
from octavize.bench.process import settle_process
from octavize.bench.profile import count_macs
from octavize.data.images import Images
from octavize.files import write_json
from octavize.training import train
from octavize.training.hardware import Hardware
from octavize.training.recipe import Recipe, load_recipe
from octavize.training.runs import input_shape
from octavize.training.train import Run, load_images, read_result, train_run
from trained_rows import known_rows

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "replk": lambda classes: replk(num_classes=classes),
    "convnext": convnext_of_batch_norms,
}
"""By number of classes. On the page they are the RepLKNet-like one and `convnext_atto, changed`."""
SETTINGS = {"data": "folder", "size": 128, "epochs": 16, "batch_size": 64, "crop_padding": 16}


@dataclass(frozen=True)
class Arm:
    """What is trained: vanilla, or octave with this exchange."""

    name: str
    alpha: float
    exchange: str = "every"

    def build(self, recipe: Recipe, images: Images, model: str, alpha: float) -> nn.Module:
        """The network; the signature is that of `build_network`, in whose place it stands."""
        net = NETWORKS[model](len(images.classes))
        if alpha == 0:
            return net
        shape = input_shape(recipe, images)
        return octavize.octavize(net, alpha, exchange=self.exchange, example=shape, inplace=True)


ARMS = (Arm("vanilla", 0.0), *(Arm(f"α={ALPHA:g}, {where}", ALPHA, where) for where in EXCHANGES))


def train_arm(
    network: str, arm: Arm, seed: int, recipe: Recipe, images: Images, out: Path, hardware: Hardware
) -> dict[str, Any]:
    """Train one arm with one seed, unless that was done before; a row of the results."""
    run = Run(network, arm.alpha, seed)
    told = [network, f"{arm.alpha:g}", arm.exchange.replace(":", "-"), f"seed{seed}"]
    folder = out / "-".join([*told, f"{recipe.epochs_of(network)}epochs"])
    with patch.object(train, "build_network", arm.build):
        result = read_result(folder) or train_run(run, recipe, images, folder, hardware=hardware)
    macs = count_macs(arm.build(recipe, images, network, arm.alpha), input_shape(recipe, images))
    kept = {key: result[key] for key in ("test_accuracy", "test_loss", "best_epoch", "environment")}
    return {"network": network, "arm": arm.name, "seed": seed, "macs": macs, **kept}


def train_all(given: argparse.Namespace, recipe: Recipe) -> None:
    """Train every arm of every network with every seed, seed by seed, and keep the rows."""
    images = load_images(recipe, given.folder)
    about = {"data": given.folder.name, "size": recipe.size, "epochs": recipe.epochs_of(given.network[0])}
    hardware = Hardware(threads=given.threads)
    rows = known_rows(TRAINED, about)
    for seed, network, arm in [(s, n, a) for s in given.seed for n in given.network for a in ARMS]:
        which = (network, arm.name, seed)
        rows = [row for row in rows if (row["network"], row["arm"], row["seed"]) != which]
        rows.append(train_arm(network, arm, seed, recipe, images, given.out, hardware))
        write_json(TRAINED, {**about, "runs": rows})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="images: train/<class> and test/<class>")
    parser.add_argument("--out", type=Path, default=Path("runs/large-kernels"))
    parser.add_argument("--network", nargs="+", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--tables", action="store_true", help="only write docs/large-kernels.md")
    given = parser.parse_args(arguments)
    settle_process()
    if not given.tables:
        if given.folder is None:
            parser.error("give the folder of images, or --tables")
        settings = SETTINGS | {"epochs": given.epochs, "precision": given.precision}
        train_all(given, load_recipe("cifar", models=given.network, **settings))
    write(PAGE, page)


if __name__ == "__main__":
    main()
