"""What an octave map costs beside the arithmetic: host time of a layer, an activation and a sum.

    python benchmarks/overhead.py                 # writes benchmarks/results/overhead.json
    python benchmarks/overhead.py --as before     # the same, of another version of octavize, beside it

Each call is timed in turns with its bare form, which does the same work on the halves by torch's functions
alone. The maps are small, so that little but calls is left: 64 channels, half of them low, 8 × 8 pixels, one
thread. Every call of the layer reads a new map, as in a network. Times are the CPU time of the process, in
microseconds: medians of the rounds. Ratios are medians of the rounds' ratios to the bare form.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize import OctConv2d, OctTensor

OUT = Path(__file__).resolve().parent / "results/overhead.json"
CHANNELS, SIZE, ROUNDS, CALLS = 64, 8, 25, 300


def calls() -> dict[str, dict[str, Callable[[Any], object]]]:
    """By subject: the octave call, its bare form, and torch's own on a dense map."""
    half = CHANNELS // 2
    octave, vanilla = (
        OctConv2d(CHANNELS, CHANNELS, 3, padding=1, alpha=0.5),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    )
    w, b = octave.weight.detach(), octave.bias
    assert b is not None
    w_hh, w_lh, w_hl, w_ll = (
        w[rows, columns].contiguous()
        for rows in (slice(half), slice(half, None))
        for columns in (slice(half), slice(half, None))
    )
    b_high, b_low = b.detach().split(half)

    def four_paths(x: Any) -> tuple[Tensor, Tensor]:
        from_low = F.interpolate(F.conv2d(x.low, w_lh, padding=1), scale_factor=2.0, mode="nearest")
        from_high = F.conv2d(F.avg_pool2d(x.high, 2), w_hl, padding=1)
        y_high = F.conv2d(x.high, w_hh, b_high, padding=1) + from_low
        return y_high, F.conv2d(x.low, w_ll, b_low, padding=1) + from_high

    return {
        "layer": {"octave": octave, "bare": four_paths, "dense": lambda x: vanilla(x.dense)},
        "relu": {
            "octave": F.relu,
            "bare": lambda x: (F.relu(x.high), F.relu(x.low)),
            "dense": lambda x: F.relu(x.dense),
        },
        "x + x": {
            "octave": lambda x: x + x,
            "bare": lambda x: (x.high + x.high, x.low + x.low),
            "dense": lambda x: x.dense + x.dense,
        },
    }


class _Bare:
    """Two halves and the dense map, without anything of octavize."""

    def __init__(self, high: Tensor, low: Tensor, dense: Tensor) -> None:
        self.high, self.low, self.dense = high, low, dense


def measure(train: bool) -> dict[str, dict[str, float]]:
    """Microseconds a call, and the ratio to the bare form."""
    torch.manual_seed(0)
    dense = torch.randn(1, CHANNELS, SIZE, SIZE)
    halves = dense[:, : CHANNELS // 2].clone(), F.avg_pool2d(dense[:, CHANNELS // 2 :], 2)
    found: dict[str, dict[str, float]] = {}
    with torch.set_grad_enabled(train):
        for subject, forms in calls().items():
            seconds: dict[str, list[float]] = {form: [] for form in forms}
            for turn in range(ROUNDS + 3):
                for form, call in forms.items():
                    maps = [
                        OctTensor(*halves) if form == "octave" else _Bare(*halves, dense)
                        for _ in range(CALLS)
                    ]
                    start = time.process_time()
                    for x in maps:
                        call(x)
                    if turn >= 3:  # the first rounds are for warming up
                        seconds[form].append((time.process_time() - start) / CALLS)
            found[subject] = {
                f"{form}_us": round(1e6 * statistics.median(s), 2) for form, s in seconds.items()
            }
            pairs = zip(seconds["octave"], seconds["bare"], strict=True)
            found[subject]["ratio_to_bare"] = round(statistics.median(o / b for o, b in pairs), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--as", dest="label", default="now", help="under which name the result is kept")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else {}
    results[options.label] = {
        "inference": measure(train=False),
        "training forward": measure(train=True),
        "channels": CHANNELS,
        "size": SIZE,
        "rounds": ROUNDS,
        "calls": CALLS,
        "torch": torch.__version__,
        "processor": _processor(),
        "threads": 1,
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results[options.label], indent=2))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "unknown")
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
