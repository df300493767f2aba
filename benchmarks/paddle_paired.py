"""Is the framework to blame? The same training in torch and in Paddle: curves laid over one another.

    python benchmarks/paddle_paired.py CIFAR         # a folder with train/<class>, test/<class>
    python benchmarks/paddle_paired.py CIFAR --try   # minutes: few images, thin networks
    python benchmarks/paddle_paired.py --figures     # only draw what has been run

MobileNetV1 and a ResNet-50 with thin stages, both with a stem for 32 pixels, vanilla and octave (the paper's
policy), in both frameworks, once from torch's initial weights and once from Paddle's. In a pair everything
is the same: initial weights (through `octavize.paddle.weights`), images and their order, augmentation, which
torch computes once for both, Adam at 1e-3 (the article's), cross-entropy, float32, one thread. So two curves
of one row of the figure show what the framework does, and two rows what the initialization does: Paddle's
own takes a depthwise layer's fan-in for that of an ordinary layer.

A run is kept as soon as it is done, and one that is there is skipped: call it again after a kill.
`paddle_paired_page.py --publish FOLDER` brings the results into the pages.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch

import octavize
import octavize.paddle as octavize_paddle
from octavize.data.augment import crop_and_flip, to_input
from octavize.data.images import Images
from octavize.data.sets import load_data
from octavize.files import read_json, write_json
from octavize.paddle.weights import from_torch, torch_state
from paddle_networks import one_thread
from paddle_paired_page import FRAMEWORKS, NETWORKS, STARTS, draw, table

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs/paddle-paired"


@dataclass(frozen=True)
class Settings:
    """One literal of what all runs share."""

    train_images: int = 10_000
    test_images: int = 2_000
    epochs: int = 4
    batch: int = 64
    learning_rate: float = 1e-3
    width_mobilenet_v1: float = 0.5  # multiples of the channels
    width_resnet50: float = 0.25
    alpha: float = 0.5


TRY = Settings(train_images=640, test_images=200, epochs=2, width_mobilenet_v1=0.25, width_resnet50=0.125)


@dataclass(frozen=True)
class Run:
    network: str
    alpha: float
    framework: str
    start: str  # whose initial weights
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-{self.alpha:g}-{self.framework}-from-{self.start}-{self.seed}"


def runs(settings: Settings, seeds: Sequence[int]) -> Iterator[Run]:
    """Pairs first: a figure of half of them shows something already."""
    for seed in seeds:
        for start in STARTS:
            for network in NETWORKS:
                for alpha in (0.0, settings.alpha):
                    for framework in FRAMEWORKS:
                        yield Run(network, alpha, framework, start, seed)


# ---- networks and batches -------------------------------------------------------------------------------


def build(run: Run, settings: Settings) -> Any:
    """The network of a run, with its initial weights, which depend on seed and start alone."""
    torch.manual_seed(run.seed)
    paddle.seed(run.seed)
    width = getattr(settings, f"width_{run.network}")
    name = f"oct_{run.network}_small"
    extra = {"act_layer": "relu"} if run.network == "mobilenet_v1" else {}  # timm's cuts off at 6
    in_torch = octavize.create_model(name, run.alpha, num_classes=10, width=width, **extra)
    in_paddle = octavize_paddle.create_model(name, run.alpha, num_classes=10, width=width)
    if run.framework == "paddle":
        if run.start == "torch":
            from_torch(in_paddle, {key: value.numpy() for key, value in in_torch.state_dict().items()})
        return in_paddle
    if run.start == "paddle":
        in_torch.load_state_dict({k: torch.from_numpy(v) for k, v in torch_state(in_paddle).items()})
    return in_torch


def batches(images: Images, settings: Settings, seed: int, epoch: int) -> Iterator[tuple[Any, Any]]:
    """The training batches of an epoch as arrays: shuffled, shifted by up to 4 pixels, mirrored or not."""
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    order = torch.randperm(len(images.train), generator=generator)
    for index in order.split(settings.batch):
        if len(index) == settings.batch:
            pixels, labels = images.train.__getitems__(index)
            pixels = crop_and_flip(pixels, 4, generator=generator)
            yield as_arrays(images, pixels, labels)


def test_batches(images: Images, settings: Settings) -> Iterator[tuple[Any, Any]]:
    """The first test images of each class, as arrays."""
    of_class = settings.test_images // len(images.classes)
    labels = images.test.labels
    found = [torch.nonzero(labels == c)[:of_class, 0] for c in range(len(images.classes))]
    for index in torch.cat(found).split(200):
        yield as_arrays(images, *images.test.__getitems__(index))


def as_arrays(images: Images, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any]:
    return to_input(pixels, images.mean, images.std).contiguous().numpy(), labels.numpy()


# ---- training, in either framework ----------------------------------------------------------------------


class InTorch:
    """A network in torch, as a training sees it: arrays in, numbers out."""

    def __init__(self, network: Any, learning_rate: float) -> None:
        self.network, self.loss = network, torch.nn.functional.cross_entropy
        self.optimizer = torch.optim.Adam(network.parameters(), learning_rate)

    def step(self, x: np.ndarray, labels: np.ndarray) -> float:
        self.network.train()
        loss = self.loss(self.network(torch.from_numpy(x)), torch.from_numpy(labels))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def scores(self, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.network.eval()(torch.from_numpy(x)).numpy()


class InPaddle:
    """The same in Paddle."""

    def __init__(self, network: Any, learning_rate: float) -> None:
        self.network, self.loss = network, paddle.nn.functional.cross_entropy
        self.optimizer = paddle.optimizer.Adam(learning_rate, parameters=network.parameters())

    def step(self, x: np.ndarray, labels: np.ndarray) -> float:
        self.network.train()
        loss = self.loss(self.network(paddle.to_tensor(x)), paddle.to_tensor(labels))
        self.optimizer.clear_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def scores(self, x: np.ndarray) -> np.ndarray:
        self.network.eval()
        with paddle.no_grad():
            return self.network(paddle.to_tensor(x)).numpy()


def train(run: Run, settings: Settings, images: Images) -> dict[str, Any]:
    """One run: the loss of every step, and test accuracy and loss before the first and after each epoch."""
    trained = {"torch": InTorch, "paddle": InPaddle}[run.framework](
        build(run, settings), settings.learning_rate
    )
    began, steps, tests = time.perf_counter(), [], [test(trained, images, settings)]
    for epoch in range(settings.epochs):
        steps += [trained.step(*batch) for batch in batches(images, settings, run.seed, epoch)]
        tests.append(test(trained, images, settings))
    return {
        **asdict(run),
        "train_loss": [round(loss, 6) for loss in steps],
        "test": tests,
        "minutes": (time.perf_counter() - began) / 60,
    }


def test(trained: InTorch | InPaddle, images: Images, settings: Settings) -> dict[str, float]:
    right, loss, total = 0, 0.0, 0
    for x, labels in test_batches(images, settings):
        scores = trained.scores(x).astype(np.float64)
        scores -= scores.max(1, keepdims=True)
        loss -= float((scores[np.arange(len(labels)), labels] - np.log(np.exp(scores).sum(1))).sum())
        right, total = right + int((scores.argmax(1) == labels).sum()), total + len(labels)
    return {"accuracy": right / total, "loss": loss / total}


def run_all(given: argparse.Namespace, settings: Settings) -> None:
    one_thread()
    warnings.filterwarnings("ignore", "When training, we now always track")
    (given.out / "runs").mkdir(parents=True, exist_ok=True)
    check_settings(given, settings)
    images = load_data("folder", size=32, data_dir=given.folder, limit_train=settings.train_images)
    for run in runs(settings, given.seeds):
        path = given.out / "runs" / f"{run.name}.json"
        if not path.exists():
            found = train(run, settings, images)
            write_json(path, found)
            accuracies = ", ".join(f"{t['accuracy']:.3f}" for t in found["test"])
            print(f"{run.name}: {accuracies} in {found['minutes']:.1f} min", flush=True)


def check_settings(given: argparse.Namespace, settings: Settings) -> None:
    """Runs of other settings are not mixed with those of a folder."""
    path = given.out / "settings.json"
    versions = {m.__name__: str(m.__version__) for m in (octavize, torch, paddle)}
    here = {"data": given.folder.name, **asdict(settings), "versions": versions}
    if (before := read_json(path)) not in (None, here):
        raise SystemExit(f"{given.out} has runs of other settings ({before}): give another --out")
    write_json(path, here)


# ---- what came out --------------------------------------------------------------------------------------


def collected(out: Path) -> list[dict[str, Any]]:
    found = [read_json(path) or {} for path in sorted((out / "runs").glob("*.json"))]
    if not found:
        raise SystemExit(f"{out} has no run yet: give the folder of images first")
    return found


def summarize(out: Path) -> None:
    """results.json, table.md and curves.png, of all runs that are done."""
    results = {"settings": read_json(out / "settings.json"), "runs": collected(out)}
    write_json(out / "results.json", results)
    (out / "table.md").write_text(table(results, "en") + "\n", "utf-8")
    draw(results, out / "curves.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--try", action="store_true", dest="small", help="few images, thin networks")
    parser.add_argument("--figures", action="store_true", help="only draw what has been run")
    given = parser.parse_args()
    if not given.figures:
        if given.folder is None:
            parser.error("give the folder of images, or --figures")
        run_all(given, TRY if given.small else Settings())
    summarize(given.out)


if __name__ == "__main__":
    main()
