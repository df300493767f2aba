"""What torch.compile takes to compile a training step, octave beside vanilla, whole and block by block.

    python benchmarks/compile_time.py             # 10 minutes; leave the machine idle
    python benchmarks/compile_time.py --tables    # only write docs/guide.md anew; --check only compares

ResNet-50, forward, loss and backward. Compiled whole, an octave network has more nodes than a vanilla one and
takes longer. Block by block, blocks of the same shape share their code. Compiling is told
in seconds of CPU time, of this process and the compilers that it starts, without any cache; steps take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

import torch
from torch import Tensor, nn

from marked import add_options, between, make
from octavize import create_model
from octavize.bench.environment import environment, others_watched
from octavize.bench.timing import interleave
from octavize.files import write_json
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks/results/compile_time.json"
GUIDE = ROOT / "docs/guide.md"
MARKS = ("<!-- compile: written by benchmarks/compile_time.py -->\n", "<!-- /compile -->")
NAME, ALPHA = "oct_resnet50", 0.5
NETWORKS = {"vanilla": None, "every": "every", "block:high_to_low": "block:high_to_low"}
"""By name the exchange."""


def network(exchange: str | None) -> nn.Module:
    """In training mode, channels-last."""
    model = create_model(NAME, ALPHA if exchange else 0.0, exchange=exchange)
    return model.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def compiled(model: nn.Module, by_block: bool) -> nn.Module:
    """The network, to be compiled at its first step."""
    if not by_block:
        model.compile(dynamic=False, fullgraph=True)
        return model
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:  # pyright: ignore[reportGeneralTypeIssues]
            block.compile(dynamic=False, fullgraph=True)
    return model


def step_of(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward, loss and backward."""

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    return step


def cpu_seconds() -> float:
    """Of this process and of those it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(size: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each network, eager, whole and by block."""
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    steps: dict[tuple[str, str], Callable[[], None]] = {}
    spent: dict[tuple[str, str], float] = {}
    warm = torch.compile(nn.Conv2d(3, 8, 3), dynamic=False)  # what a process does once is not counted
    warm(x).sum().backward()
    for name, exchange in NETWORKS.items():
        steps[name, "eager"] = step_of(network(exchange), x)
        for way in ("whole", "by block"):
            step = step_of(compiled(network(exchange), way == "by block"), x)
            before = cpu_seconds()
            step()
            spent[name, way] = cpu_seconds() - before
            print(f"{name}, {way}: {spent[name, way]:.0f} s", flush=True)
            steps[name, way] = step
    with others_watched():
        calls = {f"{name}, {way}": step for (name, way), step in steps.items()}
        seconds = interleave(calls, rounds, clock=time.process_time)
    first, reference = seconds["vanilla, eager"], spent["vanilla", "whole"]
    return [
        {
            "network": name,
            "way": way,
            "compile_cpu_s": spent.get((name, way)),
            "compile_ratio": spent[name, way] / reference if (name, way) in spent else None,
            "step_ms": 1e3 * statistics.median(seconds[f"{name}, {way}"]),
            "step_ratio": statistics.median(
                a / b for a, b in zip(seconds[f"{name}, {way}"], first, strict=True)
            ),
        }
        for name, way in steps
    ]


def guide(text: str) -> str:
    """docs/guide.md with the table."""
    results = json.loads(OUT.read_text("utf-8"))
    lines = []
    for row in results["rows"]:
        spent = row["compile_cpu_s"]
        compiling = ("–", "–") if spent is None else (f"{spent:.0f}", f"{row['compile_ratio']:.2f}")
        lines.append(
            (row["network"], row["way"], *compiling, f"{row['step_ms']:.0f}", f"{row['step_ratio']:.2f}")
        )
    head = ("ResNet-50", "compiled", "compiling, s", "× vanilla whole", "step, ms", "× vanilla eager")
    where = results["environment"]
    note = (
        f"α = {results['alpha']:g}, batches of {results['batch']} images of {results['size']} pixels, one "
        f"thread, CPU time; steps: n = {results['rounds']} rounds in turns; torch {where['torch']}, "
        f"{where['processor']}; `python benchmarks/compile_time.py`."
    )
    return between(text, *MARKS, f"{Table(head, lines).markdown()}\n\n{note}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    add_options(parser, "docs/guide.md")
    given = parser.parse_args()
    make(given, lambda: run(given.size, given.batch, given.rounds), GUIDE, guide)


def run(size: int, batch: int, rounds: int) -> None:
    """Measure, and keep the rows."""
    torch.set_num_threads(1)
    with torch._dynamo.config.patch(recompile_limit=64):  # all blocks share the code of one forward
        rows = measure(size, batch, rounds)
    about = {"model": NAME, "alpha": ALPHA, "size": size, "batch": batch, "rounds": rounds}
    write_json(OUT, {**about, "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
