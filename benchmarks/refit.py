"""What refitting in closed form brings back of a trained network's accuracy, without labels.

    cd benchmarks && python refit.py trained:efficientnet_lite0 --images imagenet-val \\
        --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --other flowers=flowers/train

The vanilla network becomes octave, its channels calibrated on some of the images, and is refitted on the same
images, in closed form and by some epochs of gradient. Accuracy is measured on all others. IMAGES has a folder
for each class, whose name begins with the class's index. Images are prepared as ImageNet's usually are: the
shorter side resized to 8/7 of the network's side by bicubic interpolation, the center cut out.

The images to refit on: every n-th; those of the first half of the classes (then tested on the other half);
every n-th, but only as sharp as five eighths of its pixels; and those of each folder given with `--other`. A
row is kept as soon as it is measured, and a measured one is skipped: call it again after a kill. Seconds are
those that all threads were at work.

`--tables` only writes docs/convert-trained.md anew, `--check` only compares it with the results.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from low_precision import found_in
from marked import add_options, between, make
from octavize import calibrate, octavize, refit
from octavize.bench.environment import environment
from octavize.calibration.refit import EPOCHS
from octavize.data.decode import open_rgb
from octavize.deploy.images import Found, find_images, spread_out
from octavize.files import read_json, write_json
from octavize.text import Table
from octavize.zoo.find import find_vanilla

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/refit"
PAGE = ROOT / "docs/convert-trained.md"
MARKS = ("<!-- refit: written by benchmarks/refit.py -->\n", "<!-- /refit -->")
BATCH = 50
KEY = ("alpha", "budget", "exchange", "seen", "images", "epochs")
"""What a row is recognized by."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One choice of images: a name, those to refit on, and those to test on."""

    seen: str
    paths: Sequence[Path]
    test: Found
    sharpness: float = 1.0
    """Pixels a side of the seen images before they are enlarged, as a share."""


class Bench:
    """A network and how its images are prepared."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.vanilla = find_vanilla(given.network, weights=given.weights).model
        self.mean, self.std = (torch.tensor(v).view(1, 3, 1, 1) for v in (given.mean, given.std))
        self.found = found_in(given.images, self.vanilla, (1, 3, given.size, given.size))
        self._known: dict[str, float] = {}

    def prepare(self, paths: Sequence[Path], sharpness: float = 1.0) -> Tensor:
        """(N, 3, size, size)."""
        pixels = torch.stack([self._read(path, sharpness) for path in paths])
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def _read(self, path: Path, sharpness: float) -> Tensor:
        image, size = open_rgb(path), self.given.size
        for side in ([round(sharpness * size * 8 / 7)] if sharpness < 1 else []) + [round(size * 8 / 7)]:
            scale = side / min(image.size)
            whole = (round(image.width * scale), round(image.height * scale))
            image = image.resize(whole, Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return torch.from_numpy(np.array(image.crop((left, top, left + size, top + size))))

    def accuracy(self, model: nn.Module, test: Found) -> float:
        """Share of the images whose class is named first."""
        assert test.labels is not None
        right = 0
        for start in range(0, len(test.paths), BATCH):
            with torch.inference_mode():
                named = model(self.prepare(test.paths[start : start + BATCH])).argmax(1)
            right += int((named == torch.tensor(test.labels[start : start + BATCH])).sum())
        return right / len(test.paths)

    def settings(self) -> Iterator[Setting]:
        """All choices of images."""
        seen, test = spread_out(self.found, self.given.seen)
        yield Setting("every n-th", seen.paths, test)
        if self.given.quick:
            return
        classes = sorted(set(self.found.labels or []))
        first = set(classes[: len(classes) // 2])
        known = [i for i, label in enumerate(self.found.labels or []) if label in first]
        others = [i for i in range(len(self.found.paths)) if i not in set(known)]
        half = spread_out(self.found.part(known), self.given.seen)[0]
        yield Setting("half of the classes", half.paths, self.found.part(others))
        yield Setting("less sharp", seen.paths, test, 5 / 8)
        for name, folder in self.given.other:
            other = spread_out(find_images(folder, None, None), self.given.seen)[0]
            yield Setting(name, other.paths, test)

    def row(self, setting: Setting, alpha: float | None, budget: float | None, exchange: str) -> Row:
        """Accuracy of the vanilla, the calibrated and the refitted network, of one α or of a budget."""
        images = list(self.prepare(setting.paths, setting.sharpness).split(25))
        start = time.process_time()
        how: dict[str, Any] = {"exchange": exchange, "downsample": "stride", "min_low": self.given.min_low}
        plan = calibrate(self.vanilla, images, alpha, budget=budget, **how)
        net = octavize(self.vanilla, plan).eval()
        calibrated, before = time.process_time() - start, self.accuracy(net, setting.test)
        closed: dict[str, float] = {}
        start, epochs = time.process_time(), self.given.epochs

        def watch(names: Sequence[str]) -> Iterator[str]:
            yield from names[: len(names) - epochs]
            closed["seconds"] = time.process_time()
            closed["accuracy"] = self.accuracy(net, setting.test)
            closed["until"] = time.process_time()
            yield from names[len(names) - epochs :]

        done = refit(net, images, epochs=epochs, max_images=len(setting.paths), progress=watch)
        end = time.process_time()
        if setting.seen not in self._known:
            self._known[setting.seen] = self.accuracy(self.vanilla, setting.test)
        return {
            "macs": plan.macs_ratio,
            "test_images": len(setting.test.paths),
            "vanilla": self._known[setting.seen],
            "calibrated": before,
            "closed_form": closed["accuracy"],
            "refitted": self.accuracy(net, setting.test) if epochs else closed["accuracy"],
            "cpu_seconds_calibrating": calibrated,
            "cpu_seconds_closed_form": closed["seconds"] - start,
            "cpu_seconds_epochs": end - closed["until"],
            "shift": done.shift,
        }


def measured(bench: Bench, known: Sequence[Row]) -> Iterator[Row]:
    """The rows that are still missing, one after the other."""
    done = {tuple(row[key] for key in KEY) for row in known}
    for setting in bench.settings():
        for exchange in bench.given.exchange:
            asked = [
                *((alpha, None) for alpha in bench.given.alpha),
                *((None, b) for b in bench.given.budget),
            ]
            for alpha, budget in asked:
                key = (alpha, budget, exchange, setting.seen, len(setting.paths), bench.given.epochs)
                if key not in done:
                    yield {**dict(zip(KEY, key, strict=True)), **bench.row(setting, alpha, budget, exchange)}


def named_folder(text: str) -> tuple[str, Path]:
    """NAME=FOLDER."""
    name, _, folder = text.partition("=")
    return name, Path(folder)


def table(results: dict[str, Any]) -> str:
    """Accuracy at every stage, a row for each network and choice of images."""
    lines = [
        (
            row["seen"],
            row["exchange"],
            f"{row['alpha']:g}" if row["budget"] is None else f"budget {row['budget']:g}",
            f"{row['macs']:.3f}",
            *(f"{row[stage]:.1%}" for stage in ("vanilla", "calibrated", "closed_form")),
            f"{row['refitted']:.1%}" if row["epochs"] else "–",
        )
        for row in results["rows"]
    ]
    head = ("refitted on", "exchange", "α", "MACs", "vanilla", "calibrated", "closed form", "and epochs")
    first = results["rows"][0]
    error = math.sqrt(first["vanilla"] * (1 - first["vanilla"]) / first["test_images"])
    note = (
        f"{results['name']}, top-1 on {first['test_images']} images of ImageNet's validation set, 20 classes "
        f"(standard error {error:.1%}), {first['images']} others to calibrate and refit on, without labels; "
        f"layers with few low channels octave too. torch {results['environment']['torch']}."
    )
    return f"{Table(head, lines, align='llr').markdown()}\n\n{note}\n"


def page(text: str) -> str:
    """docs/convert-trained.md with the tables of all results."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return between(text, *MARKS, "\n".join(table(results) for results in found))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="?", help="run folder, name of timm or torchvision, module:function")
    parser.add_argument("--weights", type=Path, help="state dict of a named network")
    parser.add_argument("--images", type=Path, help="folder of images, a folder for each class")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--mean", type=float, nargs=3, default=(0.485, 0.456, 0.406))
    parser.add_argument("--std", type=float, nargs=3, default=(0.229, 0.224, 0.225))
    parser.add_argument("--alpha", type=float, nargs="*", default=[0.125, 0.25, 0.5])
    parser.add_argument("--budget", type=float, nargs="+", default=[], help="shares of the MACs, α by layer")
    parser.add_argument("--exchange", nargs="+", default=["every", "block:high_to_low"])
    parser.add_argument("--min-low", type=int, help="see octavize.plan")
    parser.add_argument("--seen", type=int, default=200, help="images to calibrate and refit on")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of gradient, after the closed form")
    parser.add_argument("--other", nargs="+", type=named_folder, default=[], metavar="NAME=FOLDER")
    parser.add_argument("--quick", action="store_true", help="only on every n-th image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file of the results, by default in results/refit")
    add_options(parser, "docs/convert-trained.md")
    given = parser.parse_args(arguments)
    if not (given.tables or given.check or (given.network and given.images)):
        parser.error("give a network and --images, or --tables or --check")
    return given


def main() -> None:
    given = parse()
    make(given, lambda: measure_all(given), PAGE, page)


def measure_all(given: argparse.Namespace) -> None:
    """Add the missing rows to the results."""
    torch.set_num_threads(given.threads)
    name = Path(given.network).name.rpartition(":")[2]
    out = given.out or RESULTS / f"{name}.json"
    settings = {"size": given.size, "min_low": given.min_low, "threads": given.threads}
    known = read_json(out) or {"settings": settings, "rows": []}
    if known["settings"] != settings:
        raise SystemExit(f"--out {out} holds rows of other settings ({known['settings']}): give another file")
    for row in measured(Bench(given), known["rows"]):
        known["rows"].append(row)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {"name": name, "environment": environment(), **known})
        print(json.dumps(row, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
