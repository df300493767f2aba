"""What octavize makes of the networks of the zoo: layers converted, multiply–accumulates, dense fallbacks.

    python benchmarks/zoo.py                # measure all, write docs/results/zoo.json and docs/zoo.md
    python benchmarks/zoo.py --only dla34   # measure some of them again
    python benchmarks/zoo.py --check        # exit 1 if docs/zoo.md is not that of docs/results/zoo.json

Networks run on the meta device at their usual size: minutes on one core, and no memory to speak of.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

import octavize
from networks import Network, networks
from octavize.convert.trace import example_shape, to_meta
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs/results/zoo.json"
PAGE = ROOT / "docs/zoo.md"
ALPHA = 0.5


def measure(network: Network) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"model": network.name, "library": network.library, "task": network.task}
    try:
        model = to_meta(network.build())
        shape = network.usual or example_shape(model)
        plan = octavize.plan(model, ALPHA, example=shape)
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    kept = [d for d in plan.decisions if not d.alpha]
    return row | {
        "input": list(shape),
        "layers": len(plan.decisions),
        "octave": len(plan.decisions) - len(kept),
        "macs_before": plan.macs_before,
        "macs_after": plan.macs_after,
        "fallbacks": dict(plan.fallbacks or {}),
        "kept": dict(Counter(category(d.reason) for d in kept).most_common()),
    }


def category(reason: str) -> str:
    """The kind of a reason, without the numbers of the layer."""
    if reason.startswith("kernel_size="):
        return "padding does not keep the size"
    if reason.startswith("stride="):
        return "stride above 2"
    return re.split(r"[:(]", reason)[0].strip()


# ---- the page -------------------------------------------------------------------------------------------

HEAD = """# The zoo

<!-- Written by `python benchmarks/zoo.py` from docs/results/zoo.json; change that, not this. -->

What `octavize(model, 0.5)` makes of {n} networks of torchvision {torchvision} and timm {timm} (octavize
{octavize}, torch {torch}), none of them changed for it and no layer chosen by hand.

* **layers**: convolutions that become octave, of all; the last column says why the others stay.
* **MACs**: multiply–accumulates of convolutions and matrix products, one input of the size given.
* **dense fallbacks**: calls in one forward without an octave rule, which read the dense map: exact, slower.

{clean} of {n} have no dense fallback. `tests/zoo/test_zoo.py` runs the same networks: state dicts exchanged
with the vanilla network both ways, forward and backward with a gradient for every parameter, `torch.compile`
in one graph and `torch.export`.
"""
COLUMNS = (
    *("model", "input", "layers", "MACs before", "after", "ratio", "dense fallbacks"),
    "stays vanilla, or without low",
)


def page(results: dict[str, Any]) -> str:
    """docs/zoo.md."""
    rows = results["networks"]
    clean = sum(not row.get("fallbacks") and "error" not in row for row in rows)
    lines = [HEAD.format(n=len(rows), clean=clean, **results["versions"])]
    for library, task in dict.fromkeys((row["library"], row["task"]) for row in rows):
        own = [line(row) for row in rows if (row["library"], row["task"]) == (library, task)]
        table = Table(COLUMNS, own, align="llrrrrl").markdown()
        lines += [f"## {task.capitalize()}, {library}", "", table, ""]
    return "\n".join(lines)


def line(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["model"], *[""] * 6, row["error"]]
    size = " × ".join(map(str, row["input"][2:]))
    before, after = row["macs_before"], row["macs_after"]
    cells = [row["model"], size, f"{row['octave']} / {row['layers']}", f"{before / 1e9:.3f} G"]
    return [
        *cells, f"{after / 1e9:.3f} G", f"{after / before:.3f}", listed(row["fallbacks"]), listed(row["kept"])
    ]  # fmt: skip


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "–"


# ---- command line ---------------------------------------------------------------------------------------


def progress(many: list[Network]) -> Iterable[Network]:
    """With a bar, where there is a terminal to draw it on."""
    from rich.progress import track

    return track(many, description="networks", disable=not sys.stderr.isatty())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="MODEL")
    args = parser.parse_args()
    if args.check:
        if PAGE.read_text() != page(json.loads(DATA.read_text())):
            sys.exit("docs/zoo.md does not say what docs/results/zoo.json says: run benchmarks/zoo.py")
        return
    known = {}
    if args.only and DATA.exists():
        known = {(row["model"], row["library"]): row for row in json.loads(DATA.read_text())["networks"]}
    rows = []
    for network in progress(networks()):
        key = (network.name, network.library)
        rows.append(measure(network) if network.name in args.only or key not in known else known[key])
    versions = {m.__name__: str(m.__version__) for m in (octavize, torch, torchvision, timm)}
    results = {"alpha": ALPHA, "versions": versions, "networks": rows}
    DATA.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(results))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
