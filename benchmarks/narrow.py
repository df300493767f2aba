"""How few low channels still pay: residual blocks of several widths, octave beside dense.

    python benchmarks/narrow.py             # 5 minutes; leave the machine idle
    python benchmarks/narrow.py --tables    # only write docs/guide.md anew; --check only compares

The evidence for the default of `min_low`: a stem, three residual blocks of one width on maps of 32 × 32
pixels, and a classifier; training steps, and a forward pass in OpenVINO. Results: `results/narrow.json`.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock

import octavize
from marked import add_options, between, make
from octavize.bench.contenders import contenders_of
from octavize.bench.process import settle_process
from octavize.bench.ratios import bench
from octavize.bench.runtimes import choose_runtimes
from octavize.files import write_json
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks/results/narrow.json"
GUIDE = ROOT / "docs/guide.md"
MARKS = ("<!-- narrow: written by benchmarks/narrow.py -->\n", "<!-- /narrow -->")
SIDE, BATCH, BLOCKS = 32, 32, 3
LOW = (2, 4, 8, 16, 32)
ALPHAS = (0.5, 0.25)
EXCHANGES = ("every", "block:high_to_low")


def network(width: int) -> nn.Module:
    """Basic blocks of one width; the first has a shortcut convolution, which splits the stem's dense map."""
    stem = [
        nn.Conv2d(3, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=True),
    ]
    shortcut = nn.Sequential(nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width))
    blocks = [BasicBlock(2 * width, width, downsample=shortcut)]
    blocks += [BasicBlock(width, width) for _ in range(BLOCKS - 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(*stem, *blocks, *head)


def measure(rounds: int) -> None:
    """Time every number of low channels at every α, and keep the rows."""
    found: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for alpha in ALPHAS:
        for low in LOW:
            width = round(low / alpha)
            vanilla = network(width)

            def build(share: float, exchange: str = "every", vanilla: nn.Module = vanilla) -> nn.Module:
                return octavize.octavize(vanilla, share, exchange=exchange, min_low=0) if share else vanilla

            about = bench(
                contenders_of(build, [alpha], SIDE, exchanges=EXCHANGES),
                choose_runtimes(("training", "openvino")),
                batches=(BATCH,),
                threads=(1,),
                precisions=("float32",),
                rounds=rounds,
            )
            found += [{"low": low, "width": width, **row} for row in about.pop("rows") if row["alpha"]]
    write_json(OUT, {**about, "blocks": BLOCKS, "size": SIDE, "rows": found})


def guide(text: str) -> str:
    """docs/guide.md with the table."""
    results = json.loads(OUT.read_text("utf-8"))
    rows, lines = results["rows"], []
    for alpha, low in dict.fromkeys((row["alpha"], row["low"]) for row in rows):
        own = {(r["runtime"], r["exchange"]): r for r in rows if (r["alpha"], r["low"]) == (alpha, low)}
        width = next(iter(own.values()))["width"]
        kinds = [("training", exchange) for exchange in EXCHANGES] + [("openvino", e) for e in EXCHANGES]
        lines.append(
            (f"{low}", f"{width}, α = {alpha:g}", *(f"{own[kind]['time_ratio']:.2f}" for kind in kinds))
        )
    head = (
        "low channels",
        "of",
        "training, every",
        "block:high_to_low",
        "OpenVINO, every",
        "block:high_to_low",
    )
    where = results["environment"]
    side = results["size"]
    note = (
        f"Time of {results['blocks']} residual blocks on maps of {side} × {side} pixels as a share of the "
        f"dense ones', batch {BATCH}, one thread, n = {results['rounds']} rounds in turns, "
        f"torch {where['torch']}, OpenVINO {where['openvino']}, {where['processor']}; "
        "`python benchmarks/narrow.py`."
    )
    return between(text, *MARKS, f"{Table(head, lines).markdown()}\n\n{note}\n")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    add_options(parser, "docs/guide.md")
    given = parser.parse_args()
    settle_process()
    make(given, lambda: measure(given.rounds), GUIDE, guide)


if __name__ == "__main__":
    main()
