"""How much of the saved arithmetic each runtime saves in time: ResNet-50 and MobileNetV1 at 224 pixels.

    python benchmarks/realised_saving.py                     # all, hours: benchmarks/results/realised_saving/
    python benchmarks/realised_saving.py --batch 1 --threads 1 --runtime frozen   # keeps the others' rows
    python benchmarks/realised_saving.py --tables            # only write the tables of docs/deploy.md
    python benchmarks/realised_saving.py --check             # exit 1 if they are not those of the results
    python benchmarks/realised_saving.py --smoke             # a minute, to try the script; nothing is kept

Leave the machine idle meanwhile. Beside octave stand the vanilla networks of the same arithmetic: on smaller
pictures, and, where the architecture has one, of a smaller width.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

import octavize
from octavize.deploy.bench import bench
from octavize.deploy.bench_report import draw, table
from octavize.deploy.bench_runtimes import choose_runtimes
from octavize.deploy.contenders import contenders_of, narrower
from octavize.experiment.checkpoint import read_json, write_json

OUT = Path(__file__).resolve().parent / "results/realised_saving"
GUIDE = OUT.parents[2] / "docs/deploy.md"
START = "<!-- realised: written by benchmarks/realised_saving.py -->\n"
END = "<!-- /realised -->"
NETWORKS = ("oct_resnet50", "oct_mobilenet_v1")
ALPHAS = (0.125, 0.25, 0.5, 0.75)
SIZE = 224


def measure(name: str, given: argparse.Namespace) -> None:
    """Time one network, print the table, and keep it as JSON with its figure."""
    size, alphas = (32, (0.5,)) if given.smoke else (SIZE, ALPHAS)
    networks = contenders_of(lambda alpha: octavize.create_model(name, alpha), alphas, size, same_macs=True)
    widths = (narrower(name, size, c.macs) for c in networks if c.alpha > 0)
    networks += list({c.name: c for c in widths if c is not None}.values())
    results = {"model": name, "size": size} | bench(
        networks,
        choose_runtimes(given.runtime),
        batches=given.batch,
        threads=given.threads,
        rounds=given.rounds,
        say=Console(stderr=True).print,
    )
    title = f"{name}, {size} × {size} pixels, median of {given.rounds} rounds"
    Console().print(table(results, title))
    if not given.smoke:
        OUT.mkdir(parents=True, exist_ok=True)
        results = with_others(results, read_json(OUT / f"{name}.json"))
        write_json(OUT / f"{name}.json", results)
        draw(results, OUT / f"{name}.svg", title)


def with_others(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """The new rows, and those of runtimes that were not measured now, if all else is the same."""
    if old is None or any(old[key] != new[key] for key in new if key != "rows"):
        return new
    measured = {row["runtime"] for row in new["rows"]}
    rows = [*new["rows"], *(row for row in old["rows"] if row["runtime"] not in measured)]
    return {**new, "rows": sorted(rows, key=lambda row: list(choose_runtimes(None)).index(row["runtime"]))}


# ---- the tables of the guide ----------------------------------------------------------------------------


def guide(text: str) -> str:
    """The text of the guide with the tables of the committed results."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    files = [path for name in NETWORKS if (path := OUT / f"{name}.json").is_file()]
    sections = (section(json.loads(path.read_text("utf-8"))) for path in files)
    return before + START + "".join(sections) + END + after


def section(results: dict[str, Any]) -> str:
    """A network: a table for each batch and number of threads, a row a network, a column a runtime."""
    rows, where = results["rows"], results["environment"]
    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    cells = {(r["runtime"], r["batch"], r["threads"], r["network"]): r for r in rows}
    text = ""
    for batch, threads in dict.fromkeys((row["batch"], row["threads"]) for row in rows):
        text += f"**{results['model']}**, {results['size']} pixels, batch {batch}, {threads} thread(s)\n\n"
        text += f"| network | MACs | {' | '.join(runtimes)} |\n|---|---:{'|---:' * len(runtimes)}|\n"
        for network in dict.fromkeys(row["network"] for row in rows):
            own = [cells[runtime, batch, threads, network] for runtime in runtimes]
            text += f"| {network} | × {own[0]['mac_ratio']:.3f} | {' | '.join(map(cell, own))} |\n"
        text += "\n"
    versions = ", ".join(f"{name} {where[name]}" for name in ("torch", "onnxruntime", "openvino"))
    return f"{text}n = {results['rounds']} rounds, {versions}, {where['processor']}.\n\n"


def cell(row: dict[str, Any]) -> str:
    """The time, its ratio to vanilla's, and the saving realised."""
    saving = row["saving_realised"]
    rest = "" if saving is None else f" × {row['time_ratio']:.3f}, {saving:.0%}"
    return f"{row['median_ms']:.1f} ms{rest}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runtime", nargs="+", metavar="NAME", help="some of the runtimes")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], metavar="N")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="one, and all, by default")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="32 pixels, two rounds; nothing is kept")
    parser.add_argument("--tables", action="store_true", help="only write the tables of docs/deploy.md")
    parser.add_argument("--check", action="store_true", help="only compare them with the results")
    given = parser.parse_args()
    if given.check:
        text = GUIDE.read_text("utf-8")
        raise SystemExit(guide(text) != text)
    if given.smoke:
        given.batch, given.threads, given.rounds = [1], [1], 2
    if not given.tables:
        for name in ("oct_cifar_resnet20",) if given.smoke else NETWORKS:
            measure(name, given)
    if not given.smoke:
        GUIDE.write_text(guide(GUIDE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
