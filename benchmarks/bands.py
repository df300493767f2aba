"""Three bands beside two: which rules take them, their arithmetic, and their time.

    python benchmarks/bands.py                # 15 minutes; leave the machine idle
    python benchmarks/bands.py --count        # only rules and arithmetic; times stay as they are
    python benchmarks/bands.py --whole        # these, and the times of whole networks: 5 minutes
    python benchmarks/bands.py --tables       # only write docs/bands.md anew; --check only compares

Each network is a few convolutions of one shape with ReLUs in between, from a plain map to the mean of each
channel: as after `freeze`, which folds batch norms away. The three bands are those of the draft in
`examples/three_bands.py`; a third of their low channels have a quarter of the resolution. Whole networks are
those that `bands_training.py` trains. Results: `docs/results/bands.json`.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from torch import nn

from bands_network import matching, shares_in_thirds, three_bands_of
from bands_rules import census, changed, draft
from marked import add_options, between, make
from octavize import OctConv2d, create_model
from octavize.bench.contenders import VANILLA, Contender
from octavize.bench.process import settle_process
from octavize.bench.profile import count_macs
from octavize.bench.ratios import bench
from octavize.bench.runtimes import choose_runtimes
from octavize.errors import InputError
from octavize.files import read_json, write_json
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs/results/bands.json"
TRAINED = ROOT / "docs/results/bands-training.json"
PAGE = ROOT / "docs/bands.md"
RUNTIMES = ("openvino", "onnxruntime")
ALPHAS = (0.25, 0.5, 0.75)
DEPTH = 4
MODEL, IMAGE = "oct_resnet26", (3, 128, 128)
"""What is trained and timed as a whole: with two bands and with three."""
SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


@dataclass(frozen=True)
class Shape:
    """What the convolutions of a network have in common: as in a ResNet at 224 pixels."""

    channels: int
    side: int
    kernel: int

    @property
    def name(self) -> str:
        return f"{self.channels} channels, {self.side} × {self.side} pixels, {self.kernel} × {self.kernel}"

    def macs(self, counts: Sequence[int]) -> int:
        """Of the network with so many channels a band, by formula: the first layer reads a plain map."""
        size = (self.side, self.side)
        first = draft.macs((self.channels,), counts, self.kernel, size)
        return first + (DEPTH - 1) * draft.macs(counts, counts, self.kernel, size)

    def network(self, layer: Callable[..., nn.Module], **settings: Any) -> nn.Module:
        geometry = (self.channels, self.channels, self.kernel)
        layers = [layer(*geometry, padding=self.kernel // 2, **settings) for _ in range(DEPTH)]
        return nn.Sequential(*(m for conv in layers for m in (conv, nn.ReLU())), nn.AdaptiveAvgPool2d(1))


SHAPES = [Shape(c, side, k) for k in (3, 1) for c, side in ((64, 56), (128, 28), (256, 14))]


def in_thirds(channels: int, low: int) -> tuple[int, int, int]:
    """Bands of which a third of the low channels have a quarter of the resolution."""
    return channels - low, low - round(low / 3), round(low / 3)


def with_macs_of(shape: Shape, counts: Sequence[int]) -> tuple[int, int, int]:
    """Three bands, in thirds, of the arithmetic nearest to that of two."""
    choices = [in_thirds(shape.channels, low) for low in range(shape.channels)]
    return min(choices, key=lambda three: abs(shape.macs(three) - shape.macs(counts)))


def arms(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Channels in each band: vanilla; at each α two bands, three of equal arithmetic, three of equal α."""
    found: dict[str, tuple[int, ...]] = {VANILLA: (shape.channels,)}
    for alpha in ALPHAS:
        two = draft.band_channels(shape.channels, (alpha,))
        found[f"α = {alpha:g}: two bands"] = two
        found[f"α = {alpha:g}: three, equal MACs"] = with_macs_of(shape, two)
        found[f"α = {alpha:g}: three, equal α"] = in_thirds(shape.channels, two[1])
    return found


def contenders(shape: Shape) -> list[Contender]:
    """The networks of a shape, vanilla first."""
    image = (shape.channels, shape.side, shape.side)
    found = []
    for name, counts in arms(shape).items():
        shares = [count / shape.channels for count in counts[1:]]
        if len(counts) == 3:
            net = shape.network(draft.ThreeBandConv2d, alpha=tuple(shares))
        else:
            net = shape.network(OctConv2d, alpha=sum(shares)) if shares else shape.network(nn.Conv2d)
        found.append(Contender(name, net, image, count_macs(net, (1, *image)), sum(shares)))
    return found


def arithmetic() -> list[dict[str, Any]]:
    """A row a network: its bands and its multiply–accumulates, as torch counts them.

    Raises:
        InputError: the formula says something else.
    """
    rows = []
    for shape in SHAPES:
        found = contenders(shape)
        for (name, counts), c in zip(arms(shape).items(), found, strict=True):
            if c.macs != shape.macs(counts):
                raise InputError(f"{shape.name}, {name}: {c.macs} MACs, by formula {shape.macs(counts)}")
            ratio = c.macs / found[0].macs
            rows.append(
                {"shape": shape.name, "network": name, "counts": counts, "macs": c.macs, "ratio": ratio}
            )
    return rows


def time_all(runtimes: Sequence[str], rounds: int) -> dict[str, Any]:
    """Time every network of convolutions."""
    return in_turns(((shape.name, contenders(shape)) for shape in SHAPES), runtimes, rounds)


def in_turns(
    groups: Iterable[tuple[str, Sequence[Contender]]], runtimes: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Time the networks of each named group: those of one group take turns in each runtime."""
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for name, group in groups:
        chosen = choose_runtimes(runtimes)
        about = bench(group, chosen, batches=(1,), threads=(1,), rounds=rounds)
        rows += [{"shape": name, **row} for row in about.pop("rows")]
    return {**about, "threads": 1, "rows": rows}


def whole_networks() -> list[Contender]:
    """`MODEL` with one, two and three bands, vanilla first. Those of three need the rules `changed`."""
    shape = (1, *IMAGE)

    def two(alpha: float) -> nn.Module:
        return create_model(MODEL, alpha, num_classes=10).eval()

    found: list[Contender] = []

    def add(name: str, net: nn.Module, alpha: float) -> None:
        found.append(Contender(name, net, IMAGE, count_macs(net, shape), alpha))

    add(VANILLA, two(0), 0)
    for alpha in ALPHAS[:2]:
        add(f"α = {alpha:g}: two bands", two(alpha), alpha)
        shares = {"equal MACs": matching(two, alpha, shape), "equal α": shares_in_thirds(alpha)}
        for name, low in shares.items():
            add(f"α = {alpha:g}: three, {name}", three_bands_of(two(alpha), low), sum(low))
    return found


def time_whole(runtimes: Sequence[str], rounds: int) -> dict[str, Any]:
    """Time the whole networks: all take turns in each runtime."""
    with changed():
        return in_turns([(f"{MODEL}, {IMAGE[-1]} pixels", whole_networks())], runtimes, rounds)


def measure(given: argparse.Namespace) -> None:
    """Count, and time unless told not to."""
    results = read_json(OUT) or {}
    results |= {"depth": DEPTH, "rules": census(), "arithmetic": arithmetic()}
    if not given.count:
        results["whole"] = time_whole(given.runtime, given.rounds)
    if not (given.count or given.whole):
        results["times"] = time_all(given.runtime, given.rounds)
    write_json(OUT, results)


# ---- the page ----------------------------------------------------------------------------------------------


def page(text: str) -> str:
    """docs/bands.md with its tables."""
    results = read_json(OUT)
    if results is None:
        raise SystemExit(f"{OUT.name} is missing: run python benchmarks/bands.py --count")
    parts = {
        "rules": rules_table(results["rules"]),
        "shares": shares_table(),
        "networks": networks_table(results),
        "times": times_table(results.get("times")),
        "whole": times_table(results.get("whole")),
        "training": training_table(read_json(TRAINED)),
    }
    for name, part in parts.items():
        start = f"<!-- {name}: written by benchmarks/bands.py -->\n"
        text = between(text, start, f"<!-- /{name} -->", f"{part}\n")
    return text


def rules_table(rows: Sequence[dict[str, str]]) -> str:
    """How many calls give the right result, by the file of their rule."""
    lines = []
    for rule in [*dict.fromkeys(row["rule"] for row in rows), "all"]:
        own = [row for row in rows if rule in (row["rule"], "all")]
        now, after = (Counter(row[when] for row in own) for when in ("now", "changed"))
        cells = [now["right"], now["refused"], now["wrong"], after["right"]]
        lines.append([f"`{rule}`" if rule != "all" else rule, *map(str, (len(own), *cells))])
    head = ("rules", "calls", "right", "refused", "wrong", "right with two changes")
    return Table(head, lines).markdown()


def shares_table() -> str:
    """Arithmetic of a layer by formula, for a share of low channels, where sizes divide by four."""

    def share(*counts: float) -> str:
        return f"{draft.macs(counts, counts, 1, (4, 4)) / 16:.3f}"

    lines = [
        [f"{s:g}", share(1 - s, s), share(1 - s, 2 * s / 3, s / 3), share(1 - s, s / 2, s / 2)]
        for s in SHARES
    ]
    head = ("low channels", "two bands", "three: a third of low at a quarter", "half of low at a quarter")
    return Table(head, lines, align="r").markdown()


def networks_table(results: dict[str, Any]) -> str:
    """Channels in each band, and arithmetic; the kernel makes no difference to it."""
    rows = [row for row in results["arithmetic"] if row["shape"].endswith("3 × 3") and len(row["counts"]) > 1]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        alpha, _, bands = row["network"].partition(": ")
        cell = f"{' + '.join(map(str, row['counts']))}: {row['ratio']:.3f}"
        found.setdefault((row["shape"].removesuffix(", 3 × 3"), alpha), {})[bands] = cell
    bands = list(next(iter(found.values())))
    lines = [(*place, *(cells[name] for name in bands)) for place, cells in found.items()]
    return Table(("shape", "", *bands), lines, align="l").markdown()


def times_table(times: dict[str, Any] | None) -> str:
    """Time as a share of vanilla's, runtime by runtime."""
    if times is None:
        return "Not measured yet: `python benchmarks/bands.py` on an idle machine."
    cells = {(row["shape"], row["network"], row["runtime"]): row for row in times["rows"]}
    runtimes = list(dict.fromkeys(row["runtime"] for row in times["rows"]))
    lines = []
    for shape, network in dict.fromkeys((row["shape"], row["network"]) for row in times["rows"]):
        own = [cells[shape, network, runtime] for runtime in runtimes]
        told = [f"{row['time_ratio']:.2f} ({row['median_ms']:.2f} ms)" for row in own]
        lines.append([shape, network, f"{own[0]['mac_ratio']:.3f}", *told])
    where = times["environment"]
    versions = ", ".join(f"{name} {where[name]}" for name in ("torch", *runtimes) if name in where)
    note = (
        f"Time as a share of vanilla's, and the median: n = {times['rounds']} rounds in turns, batch 1, "
        f"{times['threads']} thread, CPU time, {versions}, {where['processor']}; "
        "`python benchmarks/bands.py`."
    )
    return f"{Table(('shape', 'network', 'MACs', *runtimes), lines, align='llr').markdown()}\n\n{note}"


def training_table(results: dict[str, Any] | None) -> str:
    """Test accuracy of each arm of `bands_training.py`: mean, lowest and highest of the seeds."""
    if results is None:
        return "Not trained yet: `python benchmarks/bands_training.py` with a folder of images."
    runs = results["runs"]
    macs = {run["arm"]: run["macs"] for run in runs}
    lines = []
    for arm in macs:
        found = [run["test_accuracy"] for run in runs if run["arm"] == arm]
        cells = [f"{macs[arm] / 1e6:,.0f}", f"{mean(found):.2%}", f"{min(found):.2%} to {max(found):.2%}"]
        lines.append([arm, *cells, str(len(found))])
    where = runs[0]["environment"]
    note = (
        f"{results['model']}, {results['data']} at {results['size']} pixels, {results['epochs']} epochs, "
        f"torch {where['torch']}, {where['precision']}; `python benchmarks/bands_training.py`."
    )
    head = ("network", "million MACs", "test accuracy", "lowest to highest", "seeds")
    return f"{Table(head, lines).markdown()}\n\n{note}"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runtime", nargs="+", default=list(RUNTIMES), metavar="NAME")
    less = parser.add_mutually_exclusive_group()
    less.add_argument("--count", action="store_true", help="only count rules and arithmetic")
    less.add_argument("--whole", action="store_true", help="count, and time only whole networks")
    add_options(parser, "docs/bands.md")
    given = parser.parse_args()
    settle_process()
    make(given, lambda: measure(given), PAGE, page)


if __name__ == "__main__":
    main()
