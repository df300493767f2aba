"""What bf16 and int8 cost a trained network in accuracy, octave beside vanilla, on real images.

    cd benchmarks && python low_precision.py trained:efficientnet_lite0 --images imagenet-val \\
        --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5

The vanilla network becomes octave, calibrated and refitted on some of the images without their labels; every
network is exported in every precision, int8 quantized on the same images. All other images are then shown to
the file and to its own network in PyTorch: how often do both name the same class first, and how often is it
the right one? IMAGES has a folder for each class, called by its index or in the order of the indices.

A row is kept as soon as it is measured; `--tables` only writes docs/deploy.md anew, `--check` only compares.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marked import add_options, between, make
from octavize import calibrate, octavize, refit
from octavize.bench.environment import environment
from octavize.deploy.export import export
from octavize.deploy.images import Found, batches, find_images, prepare, spread_out
from octavize.deploy.quantize import agreement, outputs_of
from octavize.deploy.runtime import load_runtime
from octavize.files import read_json, write_json
from octavize.text import Table
from octavize.zoo.find import find_vanilla

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/low_precision"
PAGE = ROOT / "docs/deploy.md"
MARKS = ("<!-- agreement: written by benchmarks/low_precision.py -->\n", "<!-- /agreement -->")
OCTAVE = ((0.125, "every"), (0.25, "every"), (0.125, "block:high_to_low"))
"""α, and where the frequencies meet."""
FILES = (
    *(("openvino", ".xml", precision) for precision in ("float32", "bf16", "int8")),
    *(("onnxruntime", ".onnx", precision) for precision in ("float32", "int8")),
)


def measured(given: argparse.Namespace, known: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows that are still missing, one after the other."""
    done = {(row["network"], row["runtime"], row["precision"]) for row in known}
    vanilla = find_vanilla(given.network, weights=given.weights)
    facts = {"mean": given.mean, "std": given.std, **vanilla.facts}
    shape = (1, 3, given.size, given.size)
    about = {**facts, "input_shape": shape}
    seen, unseen = spread_out(found_in(given.images, vanilla.model, shape), given.calibration)
    sample = torch.from_numpy(prepare(seen.paths, about))
    others = list(batches(unseen.paths, about))
    for name, build in networks(vanilla.model, sample).items():
        missing = [file for file in FILES if (name, file[0], file[2]) not in done]
        model = build() if missing else vanilla.model
        for runtime, suffix, precision in missing:
            row = {"network": name, "runtime": runtime, "precision": precision}
            yield row | one(model, suffix, precision, shape, sample, others, unseen.labels)


def found_in(folder: Path, model: nn.Module, shape: Sequence[int]) -> Found:
    """The images, each with its class: the number with which its folder's name begins, if all do."""
    found = find_images(folder, None, outputs_of(model, shape))
    numbers = [path.parent.name.partition("_")[0] for path in found.paths]
    labels = [int(number) for number in numbers] if all(map(str.isdigit, numbers)) else found.labels
    if labels is None:
        raise SystemExit(f"{folder}: its folders are not the classes of the network, and have no numbers")
    return Found(found.paths, labels)


def networks(vanilla: nn.Module, sample: Tensor) -> dict[str, Callable[[], nn.Module]]:
    """By name the vanilla network, and what makes the octave networks it becomes."""

    def octave(alpha: float, exchange: str) -> nn.Module:
        plan = calibrate(vanilla, [sample], alpha, exchange=exchange, downsample="stride")
        net = octavize(vanilla, plan).eval()
        refit(net, [sample])
        return net

    made = {f"α={alpha:g}, {exchange}": partial(octave, alpha, exchange) for alpha, exchange in OCTAVE}
    return {"vanilla": lambda: vanilla, **made}


def one(
    model: nn.Module,
    suffix: str,
    precision: str,
    shape: Sequence[int],
    sample: Tensor,
    others: Sequence[Any],
    labels: Sequence[int] | None,
) -> dict[str, Any]:
    """How a file answers beside its network to batches of other images than the sample."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network").with_suffix(suffix)
        images = sample if precision == "int8" else None
        error = export(model, path, shape, precision=precision, calibration=images)
        runner = load_runtime(path, trust=True)
        found = agreement(model, runner, others, labels)
    return {"images": found.images, "same": found.same, "before": found.before, "after": found.after} | {
        "error_in_float32": error
    }


def table(results: dict[str, Any]) -> str:
    """Of every network and file the agreement, and what the accuracy becomes."""
    rows = results["rows"]
    columns = list(dict.fromkeys((row["runtime"], row["precision"]) for row in rows))
    lines = []
    for name in dict.fromkeys(row["network"] for row in rows):
        own = {(row["runtime"], row["precision"]): row for row in rows if row["network"] == name}
        before = next(iter(own.values()))["before"]
        cells = [_cell(own[c], before) if c in own else "–" for c in columns]
        lines.append((name, f"{before:.1%}", *cells))
    head = ("network", "top-1 in PyTorch", *(f"{runtime} {precision}" for runtime, precision in columns))
    images = rows[0]["images"]
    error = math.sqrt(before * (1 - before) / images) if (before := rows[0]["before"]) else 0.0
    note = (
        f"{results['name']}, {results['about']}: images for which the file and its network name the same "
        f"class first, and what the accuracy changes by. n = {images} images that calibration, refitting "
        f"and quantization did not see (standard error of an accuracy {error:.1%}); "
        f"{results['calibration']} images for all three. "
        f"torch {results['environment']['torch']}, {results['environment']['processor']}."
    )
    return f"{Table(head, lines).markdown()}\n\n{note}\n"


def _cell(row: dict[str, Any], before: float) -> str:
    return f"{row['same']:.1%}, {row['after'] - before:+.1%}"


def page(text: str) -> str:
    """docs/deploy.md with the tables of all results."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return between(text, *MARKS, "\n".join(table(results) for results in found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="?", help="run folder, name of timm or torchvision, module:function")
    parser.add_argument("--weights", type=Path, help="state dict of a named network")
    parser.add_argument("--images", type=Path, help="folder of images, a folder for each class")
    parser.add_argument("--about", default="ImageNet validation", help="what the images are, for the table")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--mean", type=float, nargs=3, help="of the images; by default ImageNet's")
    parser.add_argument("--std", type=float, nargs=3, help="likewise")
    parser.add_argument("--calibration", type=int, default=200, help="images to calibrate and quantize on")
    parser.add_argument("--name", help="of the results; by default the network's")
    add_options(parser, "docs/deploy.md")
    given = parser.parse_args()
    if not (given.tables or given.check or (given.network and given.images)):
        parser.error("give a network and --images, or --tables or --check")
    return given


def main() -> None:
    given = arguments()
    make(given, lambda: measure_all(given), PAGE, page)


def measure_all(given: argparse.Namespace) -> None:
    """Add the missing rows to the results."""
    torch.set_num_threads(1)
    name = given.name or Path(given.network).name.rpartition(":")[2]
    out = RESULTS / f"{name}.json"
    about = {"name": name, "about": given.about, "calibration": given.calibration}
    rows = (read_json(out) or {"rows": []})["rows"]
    for row in measured(given, rows):
        rows.append(row)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {**about, "environment": environment(), "rows": rows})
        print(json.dumps(row, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
