"""Which counters of multiply–accumulates are right for octave networks, each tried on ResNet-18.

    pip install fvcore torchinfo thop ptflops calflops transformers
    python benchmarks/counters.py                       # count, then write the table in docs/guide.md
    python benchmarks/counters.py --tables | --check

A counter is right if its count of convolutions and matrix products, as a share of its count for the vanilla
network, is that of the plan. Counts of norms and additions are left out where it tells them apart.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet18

from marked import add_options, between, make
from octavize.bench.environment import environment
from octavize.convert.octavize import octavize
from octavize.convert.planner import plan
from octavize.errors import one_line
from octavize.files import read_json, write_json
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
OUT, GUIDE = ROOT / "benchmarks/results/counters.json", ROOT / "docs/guide.md"
MARKS = ("<!-- counters: written by benchmarks/counters.py -->\n", "<!-- /counters -->")
SHAPE = (1, 3, 64, 64)
ALPHA = 0.5
NEAR = 0.005
"""A share that is off by less is right: some count a bias, too."""


def by_torch(net: nn.Module) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(SHAPE))
    return counter.get_total_flops() / 2


def by_fvcore(net: nn.Module) -> float:
    from fvcore.nn import FlopCountAnalysis  # pyright: ignore[reportMissingImports]

    found = FlopCountAnalysis(net, torch.randn(SHAPE)).unsupported_ops_warnings(False)
    counts = found.uncalled_modules_warnings(False).by_operator()
    return sum(counts[name] for name in ("conv", "linear"))


def by_torchinfo(net: nn.Module) -> float:
    from torchinfo import summary  # pyright: ignore[reportMissingImports]

    return summary(net, input_size=SHAPE, verbose=0).total_mult_adds


def by_thop(net: nn.Module) -> float:
    from thop import profile  # pyright: ignore[reportMissingImports]

    return profile(net, (torch.randn(SHAPE),), verbose=False)[0]


def by_ptflops(backend: str) -> Callable[[nn.Module], float]:
    def count(net: nn.Module) -> float:
        from ptflops import get_model_complexity_info  # pyright: ignore[reportMissingImports]

        settings = {"as_strings": False, "print_per_layer_stat": False, "backend": backend}
        return get_model_complexity_info(net, SHAPE[1:], **settings)[0]

    return count


def by_calflops(net: nn.Module) -> float:
    from calflops import calculate_flops  # pyright: ignore[reportMissingImports]

    return calculate_flops(net, input_shape=SHAPE, print_results=False, output_as_string=False)[1]


COUNTERS: dict[str, tuple[str, Callable[[nn.Module], float]]] = {
    "torch.utils.flop_counter": ("torch", by_torch),
    "fvcore FlopCountAnalysis, conv and linear": ("fvcore", by_fvcore),
    "ptflops, backend aten": ("ptflops", by_ptflops("aten")),
    "ptflops, backend pytorch": ("ptflops", by_ptflops("pytorch")),
    "thop profile": ("thop", by_thop),
    "calflops calculate_flops": ("calflops", by_calflops),
    "torchinfo summary": ("torchinfo", by_torchinfo),
}


def measure() -> None:
    """Let each counter count both networks, each a copy, because some leave hooks behind."""
    warnings.simplefilter("ignore")
    vanilla = resnet18().eval()
    made = plan(vanilla, ALPHA, example=SHAPE)
    octave = octavize(vanilla, made)
    rows: list[dict[str, Any]] = []
    for name, (package, count) in COUNTERS.items():
        row: dict[str, Any] = {"counter": name, "version": version(package)}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                row["share"] = count(copy.deepcopy(octave)) / count(copy.deepcopy(vanilla))
        except Exception as error:
            row["error"] = one_line(error.__cause__ or error, kind=True)
        rows.append(row)
        print(row)
    about = {"alpha": ALPHA, "shape": SHAPE, "share": made.macs_ratio}
    write_json(OUT, {**about, "environment": environment(), "rows": rows})


def guide(text: str) -> str:
    """docs/guide.md with the table."""
    results: Any = read_json(OUT)
    lines = []
    for row in results["rows"]:
        share = row.get("share")
        said = f"{share:.3f}" if share is not None else f"refuses: {row['error'].partition(':')[0]}"
        right = "yes" if share is not None and abs(share - results["share"]) < NEAR else "no"
        lines.append((row["counter"], row["version"], said, right))
    head = ("counter", "version", "octave, × vanilla", "right")
    note = (
        f"ResNet-18 at α = {results['alpha']:g} on {SHAPE[-1]} pixels, whose plan says {results['share']:.3f}"
        "; `python benchmarks/counters.py`."
    )
    return between(text, *MARKS, f"{Table(head, lines, align='lrrl').markdown()}\n\n{note}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, "docs/guide.md")
    make(parser.parse_args(), measure, GUIDE, guide)


if __name__ == "__main__":
    main()
