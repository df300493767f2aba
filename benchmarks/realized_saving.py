"""How much of the saved arithmetic is saved in time: each runtime, and training steps.

    python benchmarks/realized_saving.py               # all, one to two hours
    python benchmarks/realized_saving.py --job oct_resnet50_224
    python benchmarks/realized_saving.py --batch 1 --threads 1 --runtime frozen   # keeps the others' rows
    python benchmarks/realized_saving.py --tables            # only write the tables
    python benchmarks/realized_saving.py --check             # exit 1 if they are not those of the results
    python benchmarks/realized_saving.py --smoke             # a minute, to try the script; nothing is kept

Results go to `benchmarks/results/realized_saving/<vectors>/`, by the vectors that the processor has, with all
rows in its `tables.md`; docs/deploy.md has the savings alone. Leave the machine idle meanwhile.

Beside octave stand the vanilla networks of the same arithmetic: on smaller images, and, where the
architecture has one, of a smaller width.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import octavize
from marked import between, check, write
from octavize.bench.contenders import contenders_of, with_narrower
from octavize.bench.process import settle_process
from octavize.bench.ratios import bench
from octavize.bench.report import draw, show_tables
from octavize.bench.runtimes import INFERENCE, RUNTIMES, choose_runtimes
from octavize.files import read_json, write_json
from octavize.text import Table

OUT = Path(__file__).resolve().parent / "results/realized_saving"
HERE = OUT / torch.backends.cpu.get_cpu_capability().lower()
GUIDE = OUT.parents[2] / "docs/deploy.md"
START = "<!-- realized: written by benchmarks/realized_saving.py -->\n"
END = "<!-- /realized -->"
ALPHAS = (0.125, 0.25, 0.5, 0.75)
EVERY_CORE = (os.cpu_count() or 1,)


@dataclass(frozen=True)
class Job:
    """A network at a size, in runtimes. `threads` None is one and all."""

    model: str
    size: int
    runtimes: tuple[str, ...] = INFERENCE
    batches: tuple[int, ...] = (1, 8)
    threads: tuple[int, ...] | None = None

    @property
    def file(self) -> str:
        """Name of its results. Inference and training of one network share it."""
        return f"{self.model}_{self.size}"


JOBS = (
    Job("oct_resnet50", 224),
    Job("oct_mobilenet_v1", 224),
    Job("oct_resnet50", 224, ("training",), (8,), EVERY_CORE),
    Job("oct_mobilenet_v1", 224, ("training",), (8,), EVERY_CORE),
    Job("oct_mobilenet_v1", 64, ("training",), (64,), EVERY_CORE),
    Job("oct_mobilenet_v1_small", 32, ("training",), (64,), EVERY_CORE),
    Job("oct_cifar_resnet20", 32, ("training",), (128,), EVERY_CORE),
)
FILES = tuple(dict.fromkeys(job.file for job in JOBS))
SMOKE = Job("oct_cifar_resnet20", 32, batches=(1,), threads=(1,))


def measure(job: Job, rounds: int, alphas: Sequence[float] = ALPHAS, *, keep: bool = True) -> None:
    """Time one network, print the table, and keep it as JSON with its figure."""
    networks = contenders_of(
        lambda alpha: octavize.create_model(job.model, alpha), alphas, job.size, same_macs=True
    )
    networks = with_narrower(job.model, networks, job.size)
    results = {"model": job.model, "size": job.size} | bench(
        networks,
        choose_runtimes(job.runtimes),
        batches=job.batches,
        threads=job.threads,
        rounds=rounds,
        say=Console(stderr=True).print,
    )
    title = f"{job.model}, {job.size} × {job.size} pixels, median of {rounds} rounds"
    show_tables(results, title, Console())
    if keep:
        HERE.mkdir(parents=True, exist_ok=True)
        results = with_others(results, read_json(HERE / f"{job.file}.json"))
        write_json(HERE / f"{job.file}.json", results)
        draw(results, HERE / f"{job.file}.svg", title)


def with_others(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """The new rows, and the old ones that were not measured now, if all else is the same."""
    if old is None or any(old[key] != new[key] for key in new if key != "rows"):
        return new
    measured = {_place(row) for row in new["rows"]}
    rows = [*new["rows"], *(row for row in old["rows"] if _place(row) not in measured)]
    return {**new, "rows": sorted(rows, key=_place)}


def _place(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["batch"], row["threads"], list(RUNTIMES).index(row["runtime"])


# ---- the tables --------------------------------------------------------------------------------------------


def machines() -> list[Path]:
    """The folders of results."""
    return sorted(folder for folder in OUT.iterdir() if any(folder.glob("*.json")))


def read(folder: Path) -> list[dict[str, Any]]:
    """The results of one machine, in the order of the jobs."""
    files = [folder / f"{name}.json" for name in FILES]
    return [json.loads(file.read_text("utf-8")) for file in files if file.is_file()]


def pages() -> list[tuple[Path, Callable[[str], str]]]:
    """The pages with tables, and what makes each anew."""
    full = [(folder / "tables.md", lambda _, folder=folder: whole(folder)) for folder in machines()]
    return [(GUIDE, guide), *full]


def guide(text: str) -> str:
    """The text of the guide with the savings that each machine realizes."""
    return between(text, START, END, "".join(savings(folder) for folder in machines()))


def savings(folder: Path) -> str:
    """One machine: a row a network, batch and number of threads; a column a runtime; a figure an α."""
    found = read(folder)
    full = f"[times, and all networks](../benchmarks/results/realized_saving/{folder.name}/tables.md)"
    text = f"**{folder.name.upper()}**: {conditions(found[0])}; {full}.\n\n"
    text += f"Saving realized, in per cent, at α = {' / '.join(f'{alpha:g}' for alpha in ALPHAS)}:\n\n"
    rows: list[list[str]] = []
    for results in found:
        octave = [row for row in results["rows"] if row["alpha"]]
        saved = {(r["batch"], r["threads"], r["runtime"], r["alpha"]): r["saving_realized"] for r in octave}
        for batch, threads in dict.fromkeys((row["batch"], row["threads"]) for row in octave):
            told = (
                " / ".join(percent(saved[key]) for a in ALPHAS if (key := (batch, threads, r, a)) in saved)
                for r in RUNTIMES
            )
            rows.append([results["model"], *map(str, (results["size"], batch, threads)), *told])
    head = ("network", "pixels", "batch", "threads", *RUNTIMES)
    return f"{text}{Table(head, rows).markdown()}\n\n"


def percent(share: float) -> str:
    """In whole per cent, without the sign."""
    return f"{100 * share:.0f}".replace("-", "−")


def whole(folder: Path) -> str:
    """`tables.md`: every row of one machine, and the figures."""
    text = f"# Saving realized, {folder.name.upper()}\n\nWritten by `benchmarks/realized_saving.py`.\n\n"
    for results in read(folder):
        job = Job(results["model"], results["size"])
        text += f"## {job.model}, {job.size} pixels\n\n"
        text += f"![Saving realized, against α]({job.file}.svg)\n\n"
        text += section(results)
    return f"{text.rstrip()}\n"


def conditions(results: dict[str, Any]) -> str:
    """Rounds, versions and processor."""
    where = results["environment"]
    versions = ", ".join(f"{name} {where[name]}" for name in ("torch", "onnxruntime", "openvino"))
    return f"n = {results['rounds']} rounds, {versions}, {where['processor']}"


def section(results: dict[str, Any]) -> str:
    """A network: a table for each batch and number of threads, a row a network, a column a runtime."""
    rows = results["rows"]
    text = ""
    for batch, threads in dict.fromkeys((row["batch"], row["threads"]) for row in rows):
        own = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
        runtimes = list(dict.fromkeys(row["runtime"] for row in own))
        cells = {(row["runtime"], row["network"]): row for row in own}
        text += f"Batch {batch}, {threads} thread(s):\n\n"
        lines = [
            [network, f"× {ratio:.3f}", *(cell(cells.get((runtime, network))) for runtime in runtimes)]
            for network, ratio in dict.fromkeys((row["network"], row["mac_ratio"]) for row in own)
        ]
        text += f"{Table(('network', 'MACs', *runtimes), lines).markdown()}\n\n"
    return f"{text}{conditions(results)}.\n\n"


def cell(row: dict[str, Any] | None) -> str:
    """The time, its ratio to vanilla's, and the saving realized; a dash if it was not measured."""
    if row is None:
        return "–"
    saving = row["saving_realized"]
    rest = "" if saving is None else f" × {row['time_ratio']:.3f}, {saving:.0%}"
    return f"{row['median_ms']:.1f} ms{rest}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", nargs="+", choices=FILES, default=FILES, help="some of the networks")
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), metavar="NAME")
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="1 and 8 by default")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="one, and all, by default")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="32 pixels, two rounds; nothing is kept")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    parser.add_argument("--check", action="store_true", help="only compare them with the results")
    given = parser.parse_args()
    settle_process()
    if given.check:
        check(*pages())
    if given.smoke:
        measure(SMOKE, 2, (0.5,), keep=False)
        return
    for job in () if given.tables else JOBS:
        runtimes = tuple(name for name in job.runtimes if name in given.runtime)
        if job.file in given.job and runtimes:
            settings = {"batches": given.batch or job.batches, "threads": given.threads or job.threads}
            measure(replace(job, runtimes=runtimes, **settings), given.rounds)
    for page, made in pages():
        write(page, made)


if __name__ == "__main__":
    main()
