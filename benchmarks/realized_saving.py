"""What octave saves in time: each runtime, precision and exchange, and training steps.

    python benchmarks/realized_saving.py               # all, half an hour to an hour
    python benchmarks/realized_saving.py --job oct_resnet50_224
    python benchmarks/realized_saving.py --batch 1 --threads 1 --runtime frozen   # keeps the others' rows
    python benchmarks/realized_saving.py --tables            # only write tables and figures
    python benchmarks/realized_saving.py --check             # exit 1 if they are not those of the results
    python benchmarks/realized_saving.py --smoke             # a minute, to try the script; nothing is kept

Results go to `benchmarks/results/realized_saving/<vectors>/`, by the vectors that the processor has, with all
rows in its `tables.md`; docs/deploy.md has α = 0.5 alone. Leave the machine idle meanwhile.

Beside octave stand the vanilla networks of the same arithmetic: on smaller images, and, where the
architecture has one, of a smaller width. Ratios are to the vanilla network in the same runtime and precision,
and to the fastest vanilla network of the runtime in any precision.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import octavize
from marked import between, check, write
from octavize.bench.contenders import Contender, contenders_of, with_narrower
from octavize.bench.process import settle_process
from octavize.bench.ratios import bench
from octavize.bench.report import draw, tables
from octavize.bench.runtimes import RUNTIMES, choose_runtimes, precisions_of
from octavize.deploy.formats import PRECISIONS
from octavize.files import read_json, write_json
from octavize.text import Table

OUT = Path(__file__).resolve().parent / "results/realized_saving"
HERE = OUT / torch.backends.cpu.get_cpu_capability().lower()
GUIDE = OUT.parents[2] / "docs/deploy.md"
START = "<!-- realized: written by benchmarks/realized_saving.py -->\n"
END = "<!-- /realized -->"
MAIN = 0.5
"""The α that is timed with every exchange, beside vanilla networks of the same arithmetic."""
EXCHANGES = ("every", "block", "block:high_to_low", "stage:high_to_low")
BEST = ("every", "block:high_to_low")
EVERY_CORE = (os.cpu_count() or 1,)


@dataclass(frozen=True)
class Job:
    """A network at a size, in runtimes and in the precisions that they have. `threads` None is one and all.

    `others` are further α, each with the exchanges in `BEST`; `exchanges` are those of `MAIN`.
    """

    model: str
    size: int
    runtimes: tuple[str, ...]
    batches: tuple[int, ...] = (1, 8)
    threads: tuple[int, ...] | None = None
    precisions: tuple[str, ...] = PRECISIONS
    others: tuple[float, ...] = ()
    exchanges: tuple[str, ...] = EXCHANGES
    alternatives: bool = True

    @property
    def file(self) -> str:
        """Name of its results. Inference and training of one network share it."""
        return f"{self.model}_{self.size}"

    def networks(self) -> list[Contender]:
        """Vanilla, octave, and vanilla of the arithmetic of two of them."""
        sizes: dict[str, Any] = {"same_macs": self.alternatives}
        found = {c.name: c for c in self._octave((MAIN,), BEST, **sizes)}
        if self.alternatives:
            found |= {c.name: c for c in with_narrower(self.model, list(found.values()), self.size)}
        found |= {c.name: c for c in self._octave((MAIN,), self.exchanges)}
        found |= {c.name: c for c in self._octave(self.others, BEST)}
        return sorted(found.values(), key=lambda c: (c.name != "vanilla", c.alpha == 0, c.alpha, -c.macs))

    def _octave(self, alphas: Sequence[float], exchanges: Sequence[str], **options: Any) -> list[Contender]:
        def build(alpha: float, exchange: str | None = None) -> torch.nn.Module:
            return octavize.create_model(self.model, alpha, exchange=exchange)

        return contenders_of(build, alphas, self.size, exchanges=exchanges, **options)


DEPLOYED = ("frozen", "onnxruntime", "openvino")
JOBS = (
    Job("oct_resnet50", 224, ("eager", *DEPLOYED), others=(0.25, 0.75)),
    Job("oct_mobilenet_v1", 224, ("eager", *DEPLOYED)),
    *(
        Job("oct_resnet50", size, ("openvino",), (1,), (1,), exchanges=BEST, alternatives=False)
        for size in (448, 896)
    ),
    Job("oct_resnet50", 224, ("compile",), (1,), (1,), exchanges=BEST, alternatives=False),
    Job("oct_resnet50", 224, ("training",), (8,), (1,)),
    Job("oct_resnet50", 64, ("training",), (16,), (1,)),
    Job("oct_mobilenet_v1", 224, ("training",), (8,), (1,)),
    Job("oct_mobilenet_v1_small", 32, ("training",), (64,), (1,), ("float32",)),
    Job("oct_cifar_resnet20", 32, ("training",), (128,), (1,), ("float32",)),
)
FILES = tuple(dict.fromkeys(job.file for job in JOBS))
SMOKE = Job("oct_cifar_resnet20", 32, ("eager", "frozen"), batches=(1,), threads=(1,))


def measure(job: Job, rounds: int, *, keep: bool = True) -> None:
    """Time one network, print the table, and keep it as JSON."""
    precisions = [p for p in job.precisions if any(p in precisions_of(name) for name in job.runtimes)]
    results = {"model": job.model, "size": job.size} | bench(
        job.networks(),
        choose_runtimes(job.runtimes),
        batches=job.batches,
        threads=job.threads,
        precisions=precisions,
        rounds=rounds,
    )
    title = f"{job.model}, {job.size} × {job.size} pixels, median of {rounds} rounds"
    print(title, *tables(results), sep="\n")
    if keep:
        HERE.mkdir(parents=True, exist_ok=True)
        results = with_others(results, read_json(HERE / f"{job.file}.json"))
        write_json(HERE / f"{job.file}.json", results)


def with_others(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """The new rows, and the old ones that were not measured now, if all else is the same."""
    if old is None or any(old[key] != new[key] for key in new if key != "rows"):
        return new
    measured = {_place(row) for row in new["rows"]}
    rows = [*new["rows"], *(row for row in old["rows"] if _place(row) not in measured)]
    return {**new, "rows": sorted(rows, key=_place)}


def _place(row: dict[str, Any]) -> tuple[int, ...]:
    kind = list(RUNTIMES).index(row["runtime"]), PRECISIONS.index(row["precision"])
    return row["batch"], row["threads"], *kind


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
    """The text of the guide with what each machine takes at α = 0.5."""
    return between(text, START, END, "".join(shares(folder) for folder in machines()))


def shares(folder: Path) -> str:
    """One machine at α = 0.5: a row a network and exchange, a column a runtime in a precision."""
    found = read(folder)
    full = f"[milliseconds, and all networks](../benchmarks/results/realized_saving/{folder.name}/tables.md)"
    text = f"**{folder.name.upper()}**: {conditions(found[0])}; {full}.\n\n"
    text += f"Time at α = {MAIN:g} as a share of vanilla's in the same runtime and precision:\n\n"
    rows = [line for results in found for line in share_rows(results)]
    columns = list(dict.fromkeys(column for line in rows for column in line[1]))
    lines = [(*place, *(told.get(column, "–") for column in columns)) for place, told in rows]
    head = ("network", "pixels", "batch", "threads", "exchange", "MACs", *columns)
    return f"{text}{Table(head, lines, align='lrrrlr').markdown()}\n\n"


def share_rows(results: dict[str, Any]) -> list[tuple[tuple[str, ...], dict[str, str]]]:
    """For each batch, number of threads and exchange: the place, and the shares by runtime and precision."""
    rows = [row for row in results["rows"] if row["alpha"] == MAIN]
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        where = (results["model"], *map(str, (results["size"], row["batch"], row["threads"])))
        place = (*where, row["exchange"], f"{row['mac_ratio']:.3f}")
        found.setdefault(place, {})[column_of(row)] = f"{row['time_ratio']:.2f}"
    return list(found.items())


def column_of(row: dict[str, Any]) -> str:
    """A runtime in a precision."""
    return row["runtime"] if row["precision"] == "float32" else f"{row['runtime']} {row['precision']}"


def whole(folder: Path) -> str:
    """`tables.md`: every row of one machine, and the figures."""
    text = (
        f"# Time of octave networks, {folder.name.upper()}\n\nWritten by `benchmarks/realized_saving.py`.\n\n"
    )
    text += (
        "A cell has the time; × is its ratio to vanilla in the same runtime and precision, and in brackets "
    )
    text += "to the fastest vanilla network of the runtime in any precision.\n\n"
    for results in read(folder):
        text += f"## {results['model']}, {results['size']} pixels\n\n"
        text += f"![Time against arithmetic]({results['model']}_{results['size']}.svg)\n\n"
        text += section(results)
    return f"{text.rstrip()}\n"


def conditions(results: dict[str, Any]) -> str:
    """Rounds, versions and processor."""
    where = results["environment"]
    versions = ", ".join(
        f"{name} {where[name]}" for name in ("torch", "onnxruntime", "openvino", "nncf") if name in where
    )
    return f"n = {results['rounds']} rounds, {versions}, {where['processor']}"


def section(results: dict[str, Any]) -> str:
    """A network: a table for each batch and number of threads, a row a network, a column a runtime."""
    rows = results["rows"]
    text = ""
    for batch, threads in dict.fromkeys((row["batch"], row["threads"]) for row in rows):
        own = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
        columns = list(dict.fromkeys(map(column_of, own)))
        cells = {(column_of(row), row["network"]): row for row in own}
        text += f"Batch {batch}, {threads} thread(s):\n\n"
        lines = [
            [network, f"× {ratio:.3f}", *(cell(cells.get((column, network))) for column in columns)]
            for network, ratio in dict.fromkeys((row["network"], row["mac_ratio"]) for row in own)
        ]
        text += f"{Table(('network', 'MACs', *columns), lines).markdown()}\n\n"
    return f"{text}{conditions(results)}.\n\n"


def cell(row: dict[str, Any] | None) -> str:
    """The time and its two ratios; a dash if it was not measured."""
    if row is None:
        return "–"
    return f"{row['median_ms']:.1f} ms × {row['time_ratio']:.3f} ({row['fastest_ratio']:.2f})"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", nargs="+", choices=FILES, default=FILES, help="some of the networks")
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), metavar="NAME")
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="1 and 8 by default")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="one, and all, by default")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="32 pixels, two rounds; nothing is kept")
    parser.add_argument("--tables", action="store_true", help="only write tables and figures")
    parser.add_argument("--check", action="store_true", help="only compare them with the results")
    given = parser.parse_args()
    settle_process()
    if given.check:
        check(*pages())
    if given.smoke:
        measure(SMOKE, 2, keep=False)
        return
    for job in () if given.tables else JOBS:
        runtimes = tuple(name for name in job.runtimes if name in given.runtime)
        if job.file in given.job and runtimes:
            settings = {"batches": given.batch or job.batches, "threads": given.threads or job.threads}
            measure(replace(job, runtimes=runtimes, **settings), given.rounds)
    for page, made in pages():
        write(page, made)
    for folder in machines():
        for results in read(folder):
            name = f"{results['model']}_{results['size']}"
            draw(results, folder / f"{name}.svg", f"{results['model']}, {results['size']} pixels")


if __name__ == "__main__":
    main()
