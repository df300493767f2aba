"""α by stage against one α at equal arithmetic: what `tune(model, budget, runtime)` is worth.

    python benchmarks/fastest.py                     # half an hour: benchmarks/results/fastest/
    python benchmarks/fastest.py --target openvino
    python benchmarks/fastest.py --tables            # only write the table of docs/deploy.md
    python benchmarks/fastest.py --check             # exit 1 if it is not that of the results

For each α of the paper its network's arithmetic is the budget. The networks found for the budgets are then
timed once more, in turns with those of one α: the paper's, and the smallest α for all layers that fits the
budget. Batch 1, one thread; leave the machine idle meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from marked import add_options, between, make
from octavize.bench.environment import environment
from octavize.bench.process import settle_process
from octavize.bench.ratios import saving_realized
from octavize.bench.tune import RUNTIMES, Tuner
from octavize.convert.planner import Planner
from octavize.files import write_json
from octavize.plans.plan import Plan, fit_budget
from octavize.plans.policies import policy_of
from octavize.text import Table
from octavize.zoo.models import create_model

OUT = Path(__file__).resolve().parent / "results/fastest"
GUIDE = OUT.parents[2] / "docs/deploy.md"
START = "<!-- fastest: written by benchmarks/fastest.py -->\n"
END = "<!-- /fastest -->"
NETWORKS = ("oct_resnet50", "oct_mobilenet_v1")
ALPHAS = (0.125, 0.25, 0.5)
ROUNDS = 20
WAYS = ("paper", "one α", "by stage")


def measure(name: str, target: str) -> None:
    """Find the plans of all budgets, time them together, and keep the times as JSON."""
    planner = Planner(create_model(name, 0), example=(1, 3, 224, 224))
    tuner = Tuner(planner, target, threads=1, rounds=ROUNDS)
    plans: dict[tuple[str, float], Plan] = {}
    for alpha in ALPHAS:
        paper = planner.plan(policy_of(name, alpha))
        plans["paper", alpha] = paper
        plans["one α", alpha] = fit_budget(paper.macs_ratio, planner.plan)
        plans["by stage", alpha] = tuner.plan(paper.macs_ratio)
    ratios = tuner.ratios({f"{way} {alpha:g}": plan for (way, alpha), plan in plans.items()})
    rows = [
        {
            "way": way,
            "budget_of_alpha": alpha,
            "alphas": sorted(set(plan.alphas.values())),
            "mac_ratio": plan.macs_ratio,
            "time_ratio": ratios[f"{way} {alpha:g}"],
            "saving_realized": saving_realized(ratios[f"{way} {alpha:g}"], plan.macs_ratio),
            "n": ROUNDS,
        }
        for (way, alpha), plan in plans.items()
    ]
    where = environment("timm", "onnxruntime", "openvino") | {"threads": 1}
    OUT.mkdir(parents=True, exist_ok=True)
    about = {"model": name, "size": 224, "batch": 1, "target": target, "environment": where}
    write_json(OUT / f"{name}-{target}.json", {**about, "rows": rows})


def guide(text: str) -> str:
    """The text of the guide with the table of the committed results."""
    files = [OUT / f"{name}-{target}.json" for name in NETWORKS for target in RUNTIMES]
    found = [json.loads(file.read_text("utf-8")) for file in files if file.is_file()]
    return between(text, START, END, table(found))


def table(found: list[dict[str, Any]]) -> str:
    """A row a network, runtime and budget; a column a way to spend it."""
    rows: list[list[str]] = []
    for results in found:
        for alpha in ALPHAS:
            own = {row["way"]: row for row in results["rows"] if row["budget_of_alpha"] == alpha}
            budget = f"{own['paper']['mac_ratio']:.3f}"
            rows.append([results["model"], results["target"], budget, *(cell(own[way]) for way in WAYS)])
    text = Table(("network", "runtime", "budget", *WAYS), rows, align="llr").markdown() + "\n"
    if not found:
        return text
    where = found[0]["environment"]
    versions = ", ".join(f"{name} {where[name]}" for name in ("torch", "onnxruntime", "openvino"))
    return f"{text}\n224 pixels, batch 1, 1 thread, n = {ROUNDS} rounds, {versions}, {where['processor']}.\n"


def cell(row: dict[str, Any]) -> str:
    """MACs, time, and the saving realized."""
    return f"{row['mac_ratio']:.3f} → × {row['time_ratio']:.3f}, {row['saving_realized']:.0%}"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--target", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    add_options(parser, "the table of docs/deploy.md")
    given = parser.parse_args()
    settle_process()

    def measure_all() -> None:
        for target in given.target:
            for name in given.model:
                measure(name, target)

    make(given, measure_all, GUIDE, guide)


if __name__ == "__main__":
    main()
