"""Networks with large depthwise kernels: which layers become octave, their arithmetic, and their time.

    python benchmarks/large_kernels.py            # 20 minutes; leave the machine idle
    python benchmarks/large_kernels.py --count    # only plans and arithmetic; times stay as they are
    python benchmarks/large_kernels.py --tables   # only write docs/large-kernels.md; --check only compares

Networks of timm, and two of this file: a small one in the manner of RepLKNet, and ConvNeXt with two changes
that let its depthwise layers be octave. Results: `docs/results/large-kernels.json`; those of
`large_kernels_training.py`: `docs/results/large-kernels-training.json`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import timm
import torch
from rich.console import Console
from timm.models.convmixer import ConvMixer
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

import octavize
from marked import add_options, between, make
from octavize.bench.contenders import contenders_of
from octavize.bench.environment import environment
from octavize.bench.process import settle_process
from octavize.bench.ratios import bench
from octavize.bench.runtimes import choose_runtimes
from octavize.files import read_json, write_json
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs/results/large-kernels.json"
TRAINED = ROOT / "docs/results/large-kernels-training.json"
PAGE = ROOT / "docs/large-kernels.md"
SIZE, ALPHA = 224, 0.5
EXCHANGES = ("every", "block:high_to_low")
LARGE = 5
"""From this side on a depthwise kernel counts as large here."""


# ---- the networks ------------------------------------------------------------------------------------------


def replk(kernels: Sequence[int] = (31, 29, 27, 13), width: int = 64, num_classes: int = 1000) -> nn.Module:
    """A small network in the manner of RepLKNet: four stages, in each a block with a large kernel."""
    layers: list[nn.Module] = [
        conv(3, width, 3, stride=2),
        conv(width, width, 3, groups=width),
        conv(width, width, 1),
        conv(width, width, 3, stride=2, groups=width),
    ]
    for stage, kernel in enumerate(kernels):
        channels = width << stage
        layers += [Mixing(channels, kernel), Mixing(channels, None)]
        if stage + 1 < len(kernels):
            layers += [
                conv(channels, 2 * channels, 1),
                conv(2 * channels, 2 * channels, 3, stride=2, groups=2 * channels),
            ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width << len(kernels) - 1, num_classes)]
    return nn.Sequential(*layers, *head)


def conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


class Mixing(nn.Module):
    """A residual block: a depthwise layer between two pointwise ones, or without it four times as wide."""

    def __init__(self, channels: int, kernel: int | None) -> None:
        super().__init__()
        inner = channels if kernel else 4 * channels
        deep = [conv(inner, inner, kernel, groups=inner)] if kernel else []
        last = nn.Conv2d(inner, channels, 1, bias=False)
        norms = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.inner = nn.Sequential(norms[0], conv(channels, inner, 1), *deep, last, norms[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def convnext_of_batch_norms(num_classes: int = 1000) -> nn.Module:
    """ConvNeXt-atto with batch norms, and with a pointwise layer, at first an identity, before each stage."""
    net: Any = timm.create_model(
        "convnext_atto", conv_mlp=True, norm_layer="batchnorm2d", num_classes=num_classes
    )
    for layers in (net.stem, *(stage.downsample for stage in net.stages[1:])):
        channels = [m.out_channels for m in layers if isinstance(m, nn.Conv2d)][-1]
        pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(pointwise.weight)
        layers.append(pointwise)
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "RepLKNet-like, 31 × 31": replk,
    "ConvMixer-256/8, 9 × 9": lambda: ConvMixer(256, 8, kernel_size=9, patch_size=7),
    **{
        name: lambda name=name: timm.create_model(name)
        for name in (
            *("convmixer_768_32", "convnext_tiny", "convnext_atto", "convnextv2_atto"),
            *("inception_next_tiny", "fastvit_t8", "efficientvit_b1", "repvit_m1"),
        )
    },
    "convnext_atto, changed": convnext_of_batch_norms,
    "fastvit_t8, branches merged": lambda: reparameterize_model(timm.create_model("fastvit_t8").eval()),
}
TIMED = (
    *("RepLKNet-like, 31 × 31", "ConvMixer-256/8, 9 × 9", "convnext_atto", "convnext_atto, changed"),
    *("fastvit_t8, branches merged", "efficientvit_b1", "repvit_m1"),
)


# ---- what is counted, and timed ----------------------------------------------------------------------------


def count(name: str) -> dict[str, Any]:
    """The plan of a network: its arithmetic by kernel, and why large depthwise layers stay vanilla."""
    net = NETWORKS[name]()
    plan = octavize.plan(net, ALPHA, example=(1, 3, SIZE, SIZE))
    kernels: dict[str, dict[str, int]] = {}
    reasons: Counter[str] = Counter()
    for decision in plan.decisions:
        layer: Any = net.get_submodule(decision.name)
        deep = layer.groups == layer.in_channels > 1
        sides = " × ".join(map(str, layer.kernel_size))
        row = kernels.setdefault(f"depthwise {sides}" if deep else sides, dict.fromkeys(COLUMNS, 0))
        octave = bool(decision.alpha)
        for column, more in zip(COLUMNS, (1, octave, decision.macs_before, decision.macs_after), strict=True):
            row[column] += more
        if deep and max(layer.kernel_size) >= LARGE and not octave:
            reasons[decision.reason] += 1
    total = {"before": plan.macs_before, "after": plan.macs_after}
    return {"network": name, **total, "kernels": kernels, "reasons": dict(reasons)}


COLUMNS = ("layers", "octave", "before", "after")


def time_all(names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Time vanilla and octave networks in OpenVINO; those of one architecture take turns."""
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for name in names:
        vanilla = NETWORKS[name]()

        def build(alpha: float, exchange: str = "every", vanilla: nn.Module = vanilla) -> nn.Module:
            shape = (1, 3, SIZE, SIZE)
            return octavize.octavize(vanilla, alpha, example=shape, exchange=exchange) if alpha else vanilla

        about = bench(
            contenders_of(build, [ALPHA], SIZE, exchanges=EXCHANGES),
            choose_runtimes(("openvino",)),
            batches=(1,),
            threads=(1,),
            rounds=rounds,
            say=lambda text, name=name: Console(stderr=True).print(f"{name}: {text}"),
        )
        rows += [{"architecture": name, **row} for row in about.pop("rows")]
    return {**about, "threads": 1, "rows": rows}


def measure(given: argparse.Namespace) -> None:
    """Count, and time unless told not to."""
    results = read_json(OUT) or {}
    results |= {"size": SIZE, "alpha": ALPHA, "counted_with": environment("timm")}
    results["plans"] = [count(name) for name in NETWORKS]
    if not given.count:
        results["times"] = time_all(TIMED, given.rounds)
    write_json(OUT, results)


# ---- the page ----------------------------------------------------------------------------------------------


def page(text: str) -> str:
    """docs/large-kernels.md with its tables."""
    results = read_json(OUT)
    if results is None:
        raise SystemExit(f"{OUT.name} is missing: run python benchmarks/large_kernels.py --count")
    parts = {
        "plans": plans_table(results),
        "reasons": reasons_table(results),
        "times": times_table(results),
        "training": training_table(read_json(TRAINED)),
    }
    for name, part in parts.items():
        start = f"<!-- {name}: written by benchmarks/large_kernels.py -->\n"
        text = between(text, start, f"<!-- /{name} -->", f"{part}\n")
    return text


def plans_table(results: dict[str, Any]) -> str:
    """A row a network and kernel; those that take less than a hundredth of the arithmetic are left out."""
    lines = []
    for plan in results["plans"]:
        ratio = plan["after"] / plan["before"]
        whole = ["all", "", f"{plan['before'] / 1e6:,.0f}", "100.0%", f"{ratio:.3f}"]
        lines.append([f"**{plan['network']}**", *whole])
        for kernel, row in sorted(plan["kernels"].items(), key=lambda pair: -pair[1]["before"]):
            share = row["before"] / plan["before"]
            if share >= 0.01 or (kernel.startswith("depthwise") and _side(kernel) >= LARGE):
                counts = f"{row['octave']} of {row['layers']}"
                own = [f"{row['before'] / 1e6:,.0f}", f"{share:.1%}", f"{row['after'] / row['before']:.3f}"]
                lines.append(["", kernel, counts, *own])
    head = ("network", "kernel", "octave layers", "million MACs", "of all", "after / before")
    where = results["counted_with"]
    note = (
        f"α = {results['alpha']:g}, {results['size']} pixels, the settings of `octavize` left as they are; "
        f"timm {where['timm']}, torch {where['torch']}; `python benchmarks/large_kernels.py --count`."
    )
    return f"{Table(head, lines, align='lllr').markdown()}\n\n{note}"


def _side(kernel: str) -> int:
    return max(int(side) for side in kernel.removeprefix("depthwise ").split(" × "))


def reasons_table(results: dict[str, Any]) -> str:
    """Why large depthwise layers stay vanilla, as the plan says it."""
    lines = [
        [plan["network"], str(number), reason]
        for plan in results["plans"]
        for reason, number in plan["reasons"].items()
    ]
    return Table(("network", "layers", "reason in the plan"), lines, align="lrl").markdown()


def times_table(results: dict[str, Any]) -> str:
    """Time as a share of vanilla's in OpenVINO."""
    if "times" not in results:
        return "Not measured yet: `python benchmarks/large_kernels.py` on an idle machine."
    times = results["times"]
    lines = [
        [
            row["architecture"],
            row["network"],
            f"{row['mac_ratio']:.3f}",
            f"{row['median_ms']:.2f} ms",
            f"{row['time_ratio']:.2f}",
        ]
        for row in times["rows"]
    ]
    where = times["environment"]
    note = (
        f"n = {times['rounds']} rounds in turns, batch 1, {times['threads']} thread, CPU time, "
        f"torch {where['torch']}, OpenVINO {where['openvino']}, {where['processor']}; "
        "`python benchmarks/large_kernels.py`."
    )
    head = ("network", "", "MACs", "time", "of vanilla's")
    return f"{Table(head, lines, align='llr').markdown()}\n\n{note}"


def training_table(results: dict[str, Any] | None) -> str:
    """Test accuracy of each arm of `large_kernels_training.py`: mean, lowest and highest of the seeds."""
    if results is None:
        return "Not trained yet: `python benchmarks/large_kernels_training.py` with a folder of images."
    runs = results["runs"]
    lines = []
    for network, arm in dict.fromkeys((run["network"], run["arm"]) for run in runs):
        own = [run for run in runs if (run["network"], run["arm"]) == (network, arm)]
        found = [run["test_accuracy"] for run in own]
        cells = [
            f"{own[0]['macs'] / 1e6:,.0f}",
            f"{mean(found):.2%}",
            f"{min(found):.2%} to {max(found):.2%}",
        ]
        lines.append([network, arm, *cells, str(len(found))])
    where = runs[0]["environment"]
    note = (
        f"{results['data']} at {results['size']} pixels, {results['epochs']} epochs, torch {where['torch']}, "
        f"{where['precision']}; `python benchmarks/large_kernels_training.py`."
    )
    head = ("network", "", "million MACs", "test accuracy", "lowest to highest", "seeds")
    return f"{Table(head, lines, align='llrrlr').markdown()}\n\n{note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", action="store_true", help="only plans and arithmetic")
    add_options(parser, "docs/large-kernels.md")
    given = parser.parse_args()
    settle_process()
    torch.set_num_threads(1)
    make(given, lambda: measure(given), PAGE, page)


if __name__ == "__main__":
    main()
