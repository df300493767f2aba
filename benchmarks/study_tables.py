"""Write the results section of docs/study.md from the committed results of studies.

    python benchmarks/study_tables.py            # write
    python benchmarks/study_tables.py --check    # exit 1 if the page does not say what the results say

A study's results are `results.json` and `times.json` of its run folder, in `docs/results/study-<name>/`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from marked import between, check, write
from octavize.experiment.naming import pretty
from octavize.experiment.report import seconds
from octavize.experiment.study.report import caution, headline, interval

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/study.md"
START = "<!-- study: written by benchmarks/study_tables.py -->\n"
END = "<!-- /study -->"
NOTHING = "No results are committed yet. They follow."


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * (len(head) - 1) + ["---:"], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def networks(results: dict[str, Any]) -> str:
    rows = [
        [
            pretty(net["model"]), net["cell"], net["arm"], f"{net['macs'] / 1e6:.1f} M", str(net["n"]),
            f"{net['mean']:.2%}" + ("" if net["std"] is None else f" ± {net['std']:.2%}"),
        ]
        for net in results["networks"]
    ]  # fmt: skip
    return table(["network", "setting", "arm", "MACs", "seeds", "test accuracy"], rows)


def differences(results: dict[str, Any]) -> str:
    rows = [[pretty(d["model"]), d["cell"], d["arm"], interval(d)] for d in results["differences"]]
    return table(["network", "setting", "arm", f"points to {results['reference']} (95 %)"], rows)


def effects(results: dict[str, Any]) -> str:
    rows = [
        [f"{e['factor']}: {e['from']} → {e['to']}", e["base"], pretty(e["model"]), e["arm"], interval(e)]
        for e in results["effects"]
        if e["of"] == "difference"
    ]
    changed = f"change of the difference to {results['reference']}, points (95 %)"
    return table(["factor", "from", "network", "arm", changed], rows)


def section(folder: Path) -> str:
    """One study: what it found in a sentence, its conditions, and its tables."""
    results, times = (json.loads((folder / f"{n}.json").read_text("utf-8")) for n in ("results", "times"))
    where, data, seeds = times["environment"], results["data"], ", ".join(map(str, results["seeds"]))
    parts = [
        f"### `{results['study']}`",
        f"**{headline(results)}** {caution(results)}",
        differences(results),
        *([effects(results)] if results["effects"] else []),
        networks(results),
        f"{data['name']}, {data['train']:,} training pictures, seeds {seeds}; "
        f"{seconds(times['train_seconds'])} of training on {where.get('processor', 'some processor')}, "
        f"torch {where.get('torch')}, {where.get('threads')} thread(s) a run.",
    ]
    return "\n\n".join(parts)


def page(text: str) -> str:
    """The page with its results written anew."""
    found = sorted(path.parent for path in (ROOT / "docs/results").glob("study-*/results.json"))
    told = "\n\n".join(section(folder) for folder in found) or NOTHING
    return between(text, START, END, f"{told}\n")


if __name__ == "__main__":
    if "--check" in sys.argv:
        check(PAGE, page)
    write(PAGE, page)
