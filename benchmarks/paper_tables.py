"""The multiply–accumulates of the paper's tables, counted anew, beside what it prints.

    python benchmarks/paper_tables.py              # count, for a minute
    python benchmarks/paper_tables.py --tables     # only write the page anew
    python benchmarks/paper_tables.py --check      # exit 1 if the page is not that of the results

Results go to docs/results/paper-tables.json, the page is docs/paper.md.
`octavize tables` shows the same in a terminal.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from marked import add_options, make
from octavize.bench.environment import environment
from octavize.bench.paper import PUBLISHED, cost_row, layer_rows, layer_table, network_row, network_tables
from octavize.files import read_json, write_json
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results/paper-tables.json"
PAGE = ROOT / "docs/paper.md"
DEPTHS, ALPHAS = (26, 50, 101, 152, 200), (0, 0.125, 0.25, 0.5, 0.75)
HEAD = """# The paper's tables

<!-- Written by `python benchmarks/paper_tables.py`, from docs/results/paper-tables.json. -->

Multiply–accumulates of the networks that octavize builds by name, beside what Chen et al., "Drop an Octave",
ICCV 2019, and the README of its official code print (they call them FLOPs). Counted by torch's flop counter:
convolutions and matrix products of one input, 224 × 224, or a clip of 8 frames. `octavize tables` counts them
on your machine. Top-1 accuracies are the paper's, of ImageNet or Kinetics-400; octavize has not trained these
networks on them. (octavize {octavize}, torch {torch}, timm {timm}, torchvision {torchvision})
"""


def measure() -> None:
    """Count everything."""
    where = environment("timm", "torchvision")
    depth = [[cost_row(f"oct_resnet{n}", alpha)["macs"] for alpha in ALPHAS] for n in DEPTHS]
    versions = {name: where[name] for name in ("octavize", "torch", "timm", "torchvision")}
    rows = [network_row(published) for published in PUBLISHED]
    write_json(RESULTS, {"versions": versions, "layer": layer_rows(), "networks": rows, "resnets": depth})


def page(_: str) -> str:
    """docs/paper.md."""
    results: Any = read_json(RESULTS)
    parts = [HEAD.format(**results["versions"])]
    for table in (layer_table(results["layer"]), *network_tables(results["networks"])):
        parts += [f"## {table.title}", table.markdown(), table.note]
    cells = [
        [f"ResNet-{depth}", *(f"{macs / 1e9:.3f}" for macs in row)]
        for depth, row in zip(DEPTHS, results["resnets"], strict=True)
    ]
    head = ("G MACs", *(f"α = {alpha:g}" for alpha in ALPHAS))
    parts += ["## All ResNets", Table(head, cells).markdown()]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, PAGE.name)
    make(parser.parse_args(), measure, PAGE, page)


if __name__ == "__main__":
    main()
