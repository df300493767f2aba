"""How much of the arithmetic that octave saves is also saved in time, runtime by runtime.

    saving realized = (1 − time ratio) / (1 − ratio of multiply–accumulates)

each against the vanilla network in the same runtime. The networks take turns in one process, so that whatever
else the machine does meets all of them; a time ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from octavize.bench.contenders import Contender
from octavize.bench.environment import environment, others_watched, told_once
from octavize.bench.runtimes import EXPORTED, Prepare, Setting, check_precisions, precisions_of
from octavize.bench.timing import interleave, same_random_numbers
from octavize.deploy.threads import torch_threads
from octavize.errors import InputError, one_line, whole
from octavize.report.progress import steps

logger = logging.getLogger(__name__)
Row = dict[str, Any]


def saving_realized(time_ratio: float, mac_ratio: float) -> float | None:
    """The share of the saved arithmetic that is saved in time; None where no arithmetic is saved."""
    return None if mac_ratio >= 1 else (1 - time_ratio) / (1 - mac_ratio)


def rows_of(
    seconds: Mapping[str, Sequence[float]],
    contenders: Sequence[Contender],
    fastest: Sequence[float] | None = None,
) -> list[Row]:
    """A row a network, against the first of them.

    Args:
        seconds: of each network in each round.
        fastest: those of the fastest vanilla network in any precision; None if that is the first.
    """
    first = contenders[0]
    rows = []
    for c in contenders:
        time_ratio = _ratio(seconds[c.name], seconds[first.name])
        mac_ratio = c.macs / first.macs
        rows.append(
            {
                "network": c.name,
                "alpha": c.alpha,
                "exchange": c.exchange,
                "size": c.size,
                "macs": c.macs,
                "mac_ratio": mac_ratio,
                "median_ms": 1e3 * statistics.median(seconds[c.name]),
                "time_ratio": time_ratio,
                "fastest_ratio": _ratio(seconds[c.name], fastest or seconds[first.name]),
                "saving_realized": saving_realized(time_ratio, mac_ratio),
                "n": len(seconds[c.name]),
            }
        )
    return rows


def _ratio(own: Sequence[float], base: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, base, strict=True))


def bench(
    contenders: Sequence[Contender],
    runtimes: Mapping[str, Prepare],
    *,
    batches: Iterable[int] = (1, 8),
    threads: Iterable[int] | None = None,
    precisions: Sequence[str] = ("float32",),
    rounds: int = 20,
    together: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Time networks in several runtimes.

    Args:
        contenders: the first is what ratios refer to.
        runtimes: by name how a call is made, as in `RUNTIMES`.
        threads: numbers of CPU threads; None is one, and all of them. One thread is timed by the CPU time of
            the process, which is steadier than a clock.
        precisions: `float32`, `bf16`, `int8`; a runtime takes those that it has, which take turns.
        rounds: timed calls of each network, after three that are not.
        together: networks of all runtimes take turns, so that times may be compared across runtimes. Threads
            that one runtime leaves spinning then disturb the next.
        device: for PyTorch; the other runtimes are run on the CPU. `cuda` is untested.

    Returns:
        `environment`, `rounds`, `together`, `device` and `rows`; JSON values. In a row, `time_ratio` is to
        the vanilla network in the same runtime and precision, and `fastest_ratio` to the fastest vanilla
        network of this runtime in any of the precisions.

    Raises:
        InputError: nothing to time, less than one round, a precision that none of the runtimes has, or a
            network that a runtime does not take.
    """
    if not contenders or not runtimes:
        raise InputError("contenders and runtimes are needed: give at least one of each")
    whole("rounds", rounds, 1)
    check_precisions(precisions, runtimes)
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
    with TemporaryDirectory() as folder, told_once():
        for batch, count, group in steps([*product(batches, counts, groups)], "timing in turns"):
            logger.info("%s: batch %d, %d thread(s)", ", ".join(group), batch, count)
            setting = Setting(batch, count, device, Path(folder))
            chosen = {name: runtimes[name] for name in group}
            rows += time_group(contenders, chosen, setting, rounds, precisions)
    packages = dict.fromkeys(
        module for kind in EXPORTED.values() for module in (*kind.needs, *kind.needed_to_lower)
    )
    where = environment("timm", "torchvision", *packages)
    del where["threads"]  # every row has its own
    return {"environment": where, "rounds": rounds, "together": together, "device": device, "rows": rows}


def time_group(
    contenders: Sequence[Contender],
    runtimes: Mapping[str, Prepare],
    setting: Setting,
    rounds: int,
    precisions: Sequence[str] = ("float32",),
) -> list[Row]:
    """A row for each network in each runtime and precision that it has; all of them take turns.

    Ratios are to the first network.
    """
    had = {runtime: [p for p in precisions if p in precisions_of(runtime)] for runtime in runtimes}
    clock = time.process_time if (setting.threads, setting.device) == (1, "cpu") else time.perf_counter
    with torch_threads(setting.threads), same_random_numbers(), torch.inference_mode():
        wanted = [(runtime, p, c) for runtime in runtimes for p in had[runtime] for c in contenders]
        calls = {
            f"{runtime}/{precision}/{c.name}": runtimes[runtime](c, replace(setting, precision=precision))
            for runtime, precision, c in steps(wanted, "preparing")
        }
        with others_watched():
            seconds = interleave(calls, rounds, clock=clock)
    rows: list[Row] = []
    for runtime, own in had.items():
        vanilla = [seconds[f"{runtime}/{precision}/{contenders[0].name}"] for precision in own]
        fastest = min(vanilla, key=statistics.median, default=None)
        for precision in own:
            place = {"runtime": runtime, "precision": precision}
            place |= {"batch": setting.batch, "threads": setting.threads}
            timed = {c.name: seconds[f"{runtime}/{precision}/{c.name}"] for c in contenders}
            rows += [place | row for row in rows_of(timed, contenders, fastest)]
    return rows
