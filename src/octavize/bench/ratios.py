"""How much of the arithmetic that octave saves is also saved in time, runtime by runtime.

    saving realized = (1 − time ratio) / (1 − ratio of multiply–accumulates)

each against the vanilla network in the same runtime. The networks take turns in one process, so that whatever
else the machine does meets all of them; a time ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from octavize.bench.contenders import Contender
from octavize.bench.environment import environment
from octavize.bench.runtimes import EXPORTED, Prepare, Setting
from octavize.bench.timing import interleave, same_random_numbers
from octavize.deploy.threads import torch_threads
from octavize.errors import InputError, one_line, whole

Row = dict[str, Any]


def saving_realized(time_ratio: float, mac_ratio: float) -> float | None:
    """The share of the saved arithmetic that is saved in time; None where no arithmetic is saved."""
    return None if mac_ratio >= 1 else (1 - time_ratio) / (1 - mac_ratio)


def rows_of(seconds: Mapping[str, Sequence[float]], contenders: Sequence[Contender]) -> list[Row]:
    """A row a network, against the first of them."""
    first = contenders[0]
    rows = []
    for c in contenders:
        pairs = zip(seconds[c.name], seconds[first.name], strict=True)
        time_ratio, mac_ratio = statistics.median(own / base for own, base in pairs), c.macs / first.macs
        rows.append(
            {
                "network": c.name,
                "alpha": c.alpha,
                "size": c.size,
                "macs": c.macs,
                "mac_ratio": mac_ratio,
                "median_ms": 1e3 * statistics.median(seconds[c.name]),
                "time_ratio": time_ratio,
                "saving_realized": saving_realized(time_ratio, mac_ratio),
                "n": len(seconds[c.name]),
            }
        )
    return rows


def bench(
    contenders: Sequence[Contender],
    runtimes: Mapping[str, Prepare],
    *,
    batches: Iterable[int] = (1, 8),
    threads: Iterable[int] | None = None,
    rounds: int = 20,
    together: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time networks in several runtimes.

    Args:
        contenders: the first is what ratios refer to.
        runtimes: by name how a call is made, as in `RUNTIMES`.
        threads: numbers of CPU threads; None is one, and all of them.
        rounds: timed calls of each network, after three that are not.
        together: networks of all runtimes take turns, so that times may be compared across runtimes. Threads
            that one runtime leaves spinning then disturb the next.
        device: for PyTorch; the other runtimes are run on the CPU. `cuda` is untested.
        say: is told what comes next.

    Returns:
        `environment`, `rounds`, `together`, `device` and `rows`; JSON values.

    Raises:
        InputError: nothing to time, less than one round, or a network that a runtime does not take.
    """
    if not contenders or not runtimes:
        raise InputError("contenders and runtimes are needed: give at least one of each")
    whole("rounds", rounds, 1)
    counts = sorted({1, os.cpu_count() or 1}) if threads is None else list(threads)
    batches = list(batches)
    for name, values in (("batch", batches), ("threads", counts)):
        for value in values:
            whole(name, value, 1)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={device!r} is not there ({one_line(error)}): give cpu") from None
    groups = [list(runtimes)] if together else [[name] for name in runtimes]
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for batch in batches:
            for count in counts:
                for group in groups:
                    say(f"{', '.join(group)}: batch {batch}, {count} thread(s)")
                    setting = Setting(batch, count, device, Path(folder))
                    chosen = {name: runtimes[name] for name in group}
                    rows += time_group(contenders, chosen, setting, rounds)
    packages = dict.fromkeys(module for kind in EXPORTED.values() for module in kind.needs)
    where = environment("timm", "torchvision", *packages)
    del where["threads"]  # every row has its own
    return {"environment": where, "rounds": rounds, "together": together, "device": device, "rows": rows}


def time_group(
    contenders: Sequence[Contender], runtimes: Mapping[str, Prepare], setting: Setting, rounds: int
) -> list[Row]:
    """A row for each network in each runtime; all of them take turns. Ratios are to the first network."""
    with torch_threads(setting.threads), same_random_numbers(), torch.inference_mode():
        calls = {
            f"{runtime}/{c.name}": prepare(c, setting)
            for runtime, prepare in runtimes.items()
            for c in contenders
        }
        seconds = interleave(calls, rounds)
    return [
        {"runtime": runtime, "batch": setting.batch, "threads": setting.threads, **row}
        for runtime in runtimes
        for row in rows_of({c.name: seconds[f"{runtime}/{c.name}"] for c in contenders}, contenders)
    ]
