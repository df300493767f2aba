"""Whether octave networks compute right on a GPU, and how long they take: one command of ten minutes.

    python benchmarks/gpu.py                          # writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --minutes 40             # for more of the rows
    python benchmarks/gpu.py --part checks            # only whether all is right
    python benchmarks/gpu.py --device cpu --smoke     # two minutes, to try the script; nothing is kept

There are three parts:

- checks: layers and a whole network, forward and backward, against float64 on the CPU; autocast,
  channels-last, CUDA graphs, torch.compile.
- streams: the two frequencies on one CUDA stream, and on one each.
- times: ResNet-50 and MobileNetV1 at 224 pixels, vanilla and α = 0.5 with every exchange.

What does not fit into the time is named as left out; the most telling rows come first. The exit code is 1 if
anything failed. Nothing is downloaded. Leave the machine idle meanwhile.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import gpu_checks
import gpu_streams
import gpu_times
from gpu_device import NEEDS_CUDA, describe, is_cuda
from octavize.bench.timing import same_random_numbers
from octavize.errors import one_line
from octavize.files import write_json
from octavize.report.tables import show
from octavize.text import Table

OUT = Path(__file__).resolve().parent / "results/gpu.json"
PARTS = ("checks", "streams", "times")
SEED = 0
Checks = Mapping[str, tuple[gpu_checks.Check, float]]


def run(
    device: str, parts: Sequence[str], minutes: float, smoke: bool, out: Path | None, console: Console
) -> dict[str, Any]:
    """All parts that are asked for; what is known so far is written after each job."""
    budget = gpu_times.Budget(minutes)
    scale = gpu_times.SMOKE if smoke else gpu_times.Scale()
    results: dict[str, Any] = {
        "environment": describe(device),
        "seed": SEED,
        "smoke": smoke,
        "minutes": minutes,
        "compiled_by": scale.backend,
        "definitions": gpu_times.DEFINITIONS,
        "checks": [],
        "streams": [],
        "times": [],
        "left_out": [{"what": part, "why": "not asked for (--part)"} for part in PARTS if part not in parts],
        "failed": [],
    }

    def keep() -> None:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, results | {"seconds": budget.spent()})

    if "checks" in parts:
        console.print("checks …")
        check(device, results, gpu_checks.checks(whole=not smoke) | gpu_streams.CHECKS)
        keep()
    if "streams" in parts:
        console.print("streams …")
        measure_streams(device, results, scale)
        keep()
    if "times" in parts:
        before = results["left_out"], results["failed"]

        def tell(found: gpu_times.Found, job: gpu_times.Job) -> None:
            gpu_times.with_fastest(found.rows)
            results["times"] = found.rows
            results["left_out"], results["failed"] = before[0] + found.left_out, before[1] + found.failed
            console.print(f"{budget.spent():4.0f} s: {job}")
            keep()

        gpu_times.time_all(scale, device, budget, tell)
    if "checks" in parts:
        check(device, results, gpu_checks.last_checks())
        keep()
    return results | {"seconds": budget.spent()}


def check(device: str, results: dict[str, Any], chosen: Checks) -> None:
    """Make checks; those not passed are among what is left out, or failed."""
    for row in gpu_checks.run_checks(device, chosen, SEED):
        results["checks"].append(row)
        if row["outcome"] != "passed":
            told = "failed" if row["outcome"] == "failed" else "left_out"
            results[told].append({"what": row["check"], "why": row["why"]})


def measure_streams(device: str, results: dict[str, Any], scale: gpu_times.Scale) -> None:
    """Only a CUDA device has streams."""
    if not is_cuda(device):
        results["left_out"].append({"what": "two streams", "why": NEEDS_CUDA})
        return
    try:
        results["streams"] = gpu_streams.measure_streams(device, (1, 32), scale.rounds)
    except Exception as problem:  # whatever it is, it is listed
        why = f"{type(problem).__name__}: {one_line(problem)}"
        results["failed"].append({"what": "two streams", "why": why})


# ---- tables ------------------------------------------------------------------------------------------------


def show_results(results: Mapping[str, Any], console: Console) -> None:
    """Tables of the times, and lists of what failed and of what was left out."""
    for table in tables(results):
        show(table, console)
    passed = sum(row["outcome"] == "passed" for row in results["checks"])
    console.print(f"{passed} of {len(results['checks'])} checks passed")
    for title, rows in (("left out", results["left_out"]), ("FAILED", results["failed"])):
        for why in dict.fromkeys(row["why"] for row in rows):
            console.print(f"{title}: {why}:", style="bold", markup=False, highlight=False, soft_wrap=True)
            for row in rows:
                if row["why"] == why:
                    console.print(f"  {row['what']}", markup=False, highlight=False, soft_wrap=True)


def tables(results: Mapping[str, Any]) -> list[Table]:
    """One for the streams, and one for each network, kind of call and batch."""
    where = results["environment"]
    found = [_streams_table(results["streams"])] if results["streams"] else []
    rows = sorted(results["times"], key=lambda row: (row["model"], row["kind"], row["batch"]))
    for (model, kind, batch), group in groupby(rows, lambda row: (row["model"], row["kind"], row["batch"])):
        shown: list[tuple[str, ...]] = []
        for _, own in groupby(group, lambda row: (row["runtime"], row["precision"])):
            shown += [()] if shown else []
            shown += map(_cells, own)
        title = f"{model}, {kind}, batch {batch}, {where['device']}, torch {where['torch']}"
        head = ("runtime", "precision", "network", "ms", "×", "× fastest", "MACs ×", "host ms", "launches")
        head += ("compile s", "n")
        note = "×: to vanilla in this runtime and precision; × fastest: to the fastest vanilla of any"
        found.append(Table(head, shown, align="lllr", title=title, note=note))
    return found


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["runtime"],
        row["precision"],
        row["network"],
        f"{row['median_ms']:.2f}",
        f"{row['time_ratio']:.3f}",
        f"{row['fastest_ratio']:.3f}",
        f"{row['mac_ratio']:.3f}",
        f"{row['host_ms']:.2f}",
        "–" if row["launches"] is None else str(row["launches"]),
        "–" if row["compile_s"] is None else f"{row['compile_s']:.0f}",
        str(row["n"]),
    )


def _streams_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    head = ("pixels", "channels", "batch", "precision", "one ms", "two ms", "two ÷ one", "n")
    shown = [
        (
            *(str(row[key]) for key in head[:4]),
            f"{row['one_stream_ms']:.3f}",
            f"{row['two_streams_ms']:.3f}",
            f"{row['ratio']:.3f}",
            str(row["n"]),
        )
        for row in rows
    ]
    return Table(head, shown, align="r", title="high and low half on one stream and on two, as CUDA graphs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda by default; cpu leaves out graphs and streams")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which rows are left out; default 9")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="some of the parts")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to try the script")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"{OUT.name} in benchmarks/results by default; without CUDA, or in a smoke "
        "run, by default nothing is kept",
    )
    given = parser.parse_args()
    if is_cuda(given.device) and not torch.cuda.is_available():
        parser.error(
            f"--device {given.device}: no CUDA device is there; --device cpu --smoke tries the script"
        )
    out = given.out or (OUT if is_cuda(given.device) and not given.smoke else None)
    if is_cuda(given.device):
        torch.cuda.set_device(torch.device(given.device).index or 0)
    console = Console()
    with same_random_numbers(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*TF32.*")
        torch.manual_seed(SEED)
        results = run(given.device, given.part, given.minutes, given.smoke, out, console)
    show_results(results, console)
    raise SystemExit(1 if results["failed"] else 0)


if __name__ == "__main__":
    main()
